"""Encodes MIME bundles as JSON."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

MAX_BYTES = 8 << 20
_MAX_BRACKETS = 1_000_000  # as Ship takes them
_DEEPEST = 64
_MAX_ERROR_BYTES = 20 << 20  # as Ship takes them


def fits(error: Mapping[str, Any]) -> bool:
    """Whether Ship takes an error with these fields."""
    parts = (error["ename"], error["evalue"], *error["traceback"])
    if sum(map(len, parts)) < 1 << 20:  # six bytes for each character at most
        return True
    return len(json.dumps(error, ensure_ascii=False).encode()) <= _MAX_ERROR_BYTES


def clean(bundle: Mapping[str, Any]) -> dict[str, Any]:
    """`bundle` as JSON takes it, bytes in base64; a note in its place when it is too large."""
    found = {str(kind): _value(value, 0) for kind, value in bundle.items() if value is not None}
    line = json.dumps(found, separators=(",", ":"), allow_nan=False)
    brackets = line.count("[") + line.count("{")
    if len(line) <= MAX_BYTES and brackets <= _MAX_BRACKETS:
        return found
    kinds = ", ".join(sorted(found))[:200]
    most = f"at most {MAX_BYTES} with {_MAX_BRACKETS} lists and objects are"
    note = f"[not shown: {len(line)} bytes of {kinds}; {most}. Save it to a file instead]"
    return {"text/plain": note}


def _value(value: Any, depth: int) -> Any:
    if depth > _DEEPEST:
        return None
    if isinstance(value, str):
        return text(value)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(bytes(cast("bytes", value))).decode("ascii")
    return _compound(value, depth)


def _compound(value: Any, depth: int) -> Any:
    if isinstance(value, Mapping):
        pairs = cast("Mapping[Any, Any]", value).items()
        return {text(str(name)): _value(inner, depth + 1) for name, inner in pairs}
    if isinstance(value, Sequence | set | frozenset):
        return [_value(inner, depth + 1) for inner in cast("Sequence[Any]", value)]
    if hasattr(value, "tolist"):  # the arrays and numbers of numpy and its like
        return _value(value.tolist(), depth + 1)
    return text(str(value))


def text(value: str) -> str:
    """`value` without half characters."""
    return value if value.isascii() else value.encode("utf-8", "replace").decode("utf-8")
