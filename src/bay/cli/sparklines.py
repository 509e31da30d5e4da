"""Small charts of one line of text: a column of the terminal is some time, and its block the figure then."""

from collections.abc import Iterable, Sequence
from math import floor

_BLOCKS = "▁▂▃▄▅▆▇█"
_GAP = " "
Moment = tuple[float, float | None]
"""Seconds since 1970, and the figure then, where it is known."""


def columns(moments: Iterable[Moment], begin: float, end: float, width: int) -> list[float | None]:
    """The highest figure of each of `width` equal parts of the time from `begin` to `end`, None without."""
    found: list[float | None] = [None] * width
    for at, figure in moments:
        place = floor((at - begin) / (end - begin) * width)
        if figure is not None and 0 <= place < width:
            found[place] = max(figure, found[place] or 0.0)
    return found


def line(figures: Sequence[float | None], top: float | None = None) -> str:
    """A block for each figure, full at `top`, or else at the highest of them; a blank for an unknown one."""
    highest = top or max((one for one in figures if one is not None), default=0.0)
    return "".join(_GAP if one is None else _block(one, highest) for one in figures)


def _block(figure: float, highest: float) -> str:
    share = figure / highest if highest > 0 else 0.0
    return _BLOCKS[min(len(_BLOCKS) - 1, max(0, int(share * len(_BLOCKS))))]
