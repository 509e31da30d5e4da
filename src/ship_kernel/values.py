"""Takes numbers, texts and times out of arrays, as JSON has them, and no more than there is room for."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import islice
from typing import Any

_MAX_TEXT = 1000
_MAX_CHARS = 2 << 20


class Room:
    """Room for a number of values and for their text."""

    def __init__(self, most: int) -> None:
        self._left = most
        self._chars = _MAX_CHARS
        self.truncated = False

    def take(self, found: Any) -> list[Any]:
        """The first values of an array or a series, as long as there is room."""
        length = len(found)
        taken = [self._one(value) for value in islice(_parts(found[: self._left]), self._left)]
        self._left -= len(taken)
        self.truncated = self.truncated or len(taken) < length
        return taken

    def take_pairs(self, first: Any, second: Any) -> list[tuple[Any, Any]]:
        """The first pairs of two arrays, as long as there is room."""
        most = self._left // 2
        self.truncated = self.truncated or len(first) > most
        return list(zip(self.take(first[:most]), self.take(second[:most]), strict=False))

    def _one(self, value: Any) -> Any:
        plain = json_value(value)
        if isinstance(plain, str):
            self._chars -= len(plain)
            if self._chars < 0:
                self.truncated = True
                return None
        return plain


def json_value(value: Any) -> Any:
    """A number, text, truth value or null; times as ISO 8601."""
    if hasattr(value, "item") and not isinstance(value, str):  # a scalar of numpy
        value = value.item() if getattr(value, "dtype", None) is None or value.dtype.kind in "biuf" else value
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if type(value).__name__ in ("NaTType", "NAType"):
        return None
    isoformat = getattr(value, "isoformat", None)
    return text(value if isoformat is None else isoformat())


def text(value: object) -> str:
    """Text of a bounded length."""
    return str(value)[:_MAX_TEXT]


def _parts(found: Any) -> Iterable[Any]:
    return found.tolist() if hasattr(found, "tolist") and found.dtype.kind in "biuf" else found
