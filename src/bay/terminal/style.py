"""Styles of characters: SGR colours and attributes, ECMA-48 8.3.117, with xterm's 256 and direct colours."""

from typing import NamedTuple

_MAX_PARAMETERS = 64
_SET = {1: 1, 2: 2, 3: 4, 4: 8, 21: 8, 5: 16, 6: 16, 7: 32, 8: 64, 9: 128}
_CLEAR = {22: 1 | 2, 23: 4, 24: 8, 25: 16, 27: 32, 28: 64, 29: 128}
_CODES = {1: "1", 2: "2", 4: "3", 8: "4", 16: "5", 32: "7", 64: "8", 128: "9"}
_UNDERLINE = 8


class Style(NamedTuple):
    """How a character looks. Colours are SGR parameters, empty for the default; `flags` is a set of bits."""

    foreground: str = ""
    background: str = ""
    flags: int = 0


PLAIN = Style()


def background_of(style: Style) -> Style:
    """The style of erased cells: terminals keep the background only."""
    return Style(background=style.background)


def escape(style: Style) -> str:
    """The sequence that sets a terminal's style, from any other."""
    codes = ["0", *(code for bit, code in _CODES.items() if style.flags & bit)]
    codes += [colour for colour in (style.foreground, style.background) if colour]
    return f"\x1b[{';'.join(codes)}m"


def changed(style: Style, parameters: str) -> Style:
    """`style` after SGR with `parameters`; unknown ones are skipped."""
    left = parameters.split(";", _MAX_PARAMETERS)[:_MAX_PARAMETERS][::-1]
    while left:
        code = left.pop()
        style = _with_parts(style, code.split(":")) if ":" in code else _with(style, number(code), left)
    return style


def number(text: str) -> int:
    """A parameter; 0 when it is missing, 9999 when it is larger."""
    return 0 if not text else int(text) if len(text) < 5 and text.isdecimal() else 9999


def _with(style: Style, code: int, left: list[str]) -> Style:
    if code == 0:
        return PLAIN
    if code in _SET:
        return style._replace(flags=style.flags | _SET[code])
    if code in _CLEAR:
        return style._replace(flags=style.flags & ~_CLEAR[code])
    if code in (38, 48, 58):
        return _coloured(style, code, _extended(left))
    return _with_colour(style, code)


def _with_colour(style: Style, code: int) -> Style:
    if 30 <= code <= 37 or 90 <= code <= 97:
        return style._replace(foreground=str(code))
    if 40 <= code <= 47 or 100 <= code <= 107:
        return style._replace(background=str(code))
    if code == 39:
        return style._replace(foreground="")
    return style._replace(background="") if code == 49 else style


def _with_parts(style: Style, parts: list[str]) -> Style:
    """Parameters with subparameters: `4:3`, `38:5:n`, `38:2:r:g:b` and `38:2:space:r:g:b`."""
    code, kind = number(parts[0]), number(parts[1])
    if code == 4:
        return style._replace(flags=style.flags | _UNDERLINE if kind else style.flags & ~_UNDERLINE)
    if kind == 2:
        return _coloured(style, code, _colour(2, parts[-3:]) if len(parts) >= 5 else "")
    return _coloured(style, code, _colour(kind, parts[2:3]))


def _extended(left: list[str]) -> str:
    """Take the parameters of a colour off `left`; empty when they are none."""
    kind = number(left.pop()) if left else 0
    count = {5: 1, 2: 3}.get(kind, 0)
    return _colour(kind, [left.pop() for _ in range(min(count, len(left)))])


def _colour(kind: int, values: list[str]) -> str:
    numbers = [number(value) for value in values]
    if any(value > 255 for value in numbers) or len(numbers) != {5: 1, 2: 3}.get(kind):
        return ""
    return ";".join(map(str, [kind, *numbers]))


def _coloured(style: Style, code: int, colour: str) -> Style:
    if not colour or code not in (38, 48):
        return style
    shown = f"{code};{colour}"
    return style._replace(foreground=shown) if code == 38 else style._replace(background=shown)
