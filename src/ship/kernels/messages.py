"""Parses messages of a kernel, maybe hostile: each line is bounded, checked, and dropped if unknown."""

import json
import math
from collections.abc import Callable
from typing import cast

from ship_protocol import ERROR_BYTES

LINE_BYTES = ERROR_BYTES + (1 << 20)
_VALUE_CHARS = 8 << 20
_NOTE_CHARS = 100
_MAX_TRACE_LINES = 50_000  # Bay takes twice as many
_MAX_COUNT = 1 << 40
_MAX_BRACKETS = 1_000_100  # each may be a list, which takes thirty times its place in memory
_DEEPEST = 100

Fields = dict[str, object]


class LineSplitter:
    """Splits bytes into lines. One that is too long is skipped to its end."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that are complete now."""
        first, *more = data.split(b"\n")
        self._add(first)
        found: list[bytes] = []
        for part in more:
            found.append(self._take())
            self._add(part)
        return [line for line in found if line]

    def _add(self, part: bytes) -> None:
        self._size += len(part)
        if self._size > LINE_BYTES:
            self._parts.clear()
        else:
            self._parts.append(part)

    def _take(self) -> bytes:
        line = b"".join(self._parts) if self._size <= LINE_BYTES else b""
        self._parts, self._size = [], 0
        return line


def parse(line: bytes) -> Fields | None:
    """The message in `line`, None when it is none."""
    brackets = line.count(b"[") + line.count(b"{")
    if brackets > _MAX_BRACKETS:
        return None
    try:
        found = json.loads(line, parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or (brackets > _DEEPEST and _too_deep(cast("object", found), 0)):
        return None
    if b"\\ud" in line.lower():  # perhaps half a character, which no other program would take
        found = _without_halves(cast("object", found))
    return cast("Fields", found)


def event(message: Fields) -> tuple[str, Fields] | None:
    """Type and fields of the event in `message` as a cell keeps it, None when it is none."""
    kind = message.get("type")
    reader = _READERS.get(kind) if isinstance(kind, str) else None
    if reader is None:
        return None
    try:
        return str(kind), reader(message)
    except (TypeError, ValueError):
        return None


def text(message: Fields, name: str, limit: int) -> str:
    """A text of a message. Raises TypeError."""
    value = message.get(name)
    if not isinstance(value, str):
        raise TypeError(name)
    return value[:limit]


def count(message: Fields) -> int | None:
    """The execution count in a message, None when it is not to be believed."""
    value = message.get("execution_count")
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < _MAX_COUNT:
        return None
    return value


def _printed(message: Fields) -> Fields:
    return {"text": text(message, "text", LINE_BYTES)}


def _bundle(message: Fields) -> Fields:
    fields: Fields = {"data": _object(message, "data"), "metadata": _object(message, "metadata")}
    if message.get("display_id") is not None:
        fields["display_id"] = text(message, "display_id", 256)
    if message.get("update") is True:
        fields["update"] = True
    return fields


def _result(message: Fields) -> Fields:
    return {
        "data": _object(message, "data"),
        "metadata": _object(message, "metadata"),
        "execution_count": count(message),
    }


def _clear(message: Fields) -> Fields:
    return {"wait": message.get("wait") is True}


def _error(message: Fields) -> Fields:
    lines = message.get("traceback")
    if not isinstance(lines, list):
        raise TypeError("traceback")
    found: list[str] = []
    room = _VALUE_CHARS + _NOTE_CHARS
    for line in cast("list[object]", lines)[:_MAX_TRACE_LINES]:
        if not isinstance(line, str) or room <= 0:
            break
        found.append(line[:room])
        room -= len(line) + 1
    evalue = text(message, "evalue", _VALUE_CHARS + _NOTE_CHARS)
    return {"ename": text(message, "ename", 1024), "evalue": evalue, "traceback": found}


def _object(message: Fields, name: str) -> Fields:
    value = message.get(name)
    if not isinstance(value, dict):
        raise TypeError(name)
    return cast("Fields", value)


_READERS: dict[str, Callable[[Fields], Fields]] = {
    "stdout": _printed,
    "stderr": _printed,
    "display": _bundle,
    "clear": _clear,
    "result": _result,
    "error": _error,
}


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def _too_deep(value: object, depth: int) -> bool:
    if depth > _DEEPEST:
        return True
    if isinstance(value, dict):
        value = list(cast("dict[str, object]", value).values())
    if not isinstance(value, list):
        return False
    # Not asked of each text and number: a figure may have a hundred thousand.
    return any(_too_deep(part, depth + 1) for part in filter(_is_compound, cast("list[object]", value)))


def _is_compound(value: object) -> bool:
    return isinstance(value, dict | list)


def _without_halves(value: object) -> object:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, list):
        return [_without_halves(inner) for inner in cast("list[object]", value)]
    if isinstance(value, dict):
        pairs = cast("dict[str, object]", value).items()
        return {name.encode("utf-8", "replace").decode(): _without_halves(inner) for name, inner in pairs}
    return value
