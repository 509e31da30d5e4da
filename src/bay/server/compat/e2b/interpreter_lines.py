"""The lines of an execution's answer, made of the events of a cell, which code in the sandbox chose."""

import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any, cast

from bay.cell_output import TRUNCATED, traceback_of
from bay.models import CellEvent

CHART = "application/vnd.bay.chart+json"
TABLE = "application/vnd.bay.table+json"

KEEPALIVE: Mapping[str, Any] = {"type": "keepalive"}

_FIELDS = {
    "text/plain": "text", "text/html": "html", "text/markdown": "markdown", "image/svg+xml": "svg",
    "image/png": "png", "image/jpeg": "jpeg", "application/pdf": "pdf", "text/latex": "latex",
    "application/json": "json", "application/javascript": "javascript",
}  # fmt: skip
_CHARTS = {"line", "scatter", "bar", "pie", "box_and_whisker", "superchart", "unknown"}
_NAMES = {"timeout": "TimeoutError", "interrupted": "KeyboardInterrupt", "lost": "ContextRestarted"}
"""The name of the error for code that ended otherwise than by an exception."""

Line = Mapping[str, Any]


def encoded(line: Line) -> bytes:
    """One line of the answer."""
    return json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


async def lines_of(events: AsyncIterator[CellEvent]) -> AsyncGenerator[Line]:
    """The lines of a cell, `end_of_execution` last."""
    failed = False
    async for event in events:
        if event.truncated:
            yield _printed("stderr", f"[{TRUNCATED}]\n")
        if (line := _line(event, failed=failed)) is not None:
            yield line
        failed = failed or event.type == "error"
    yield {"type": "end_of_execution"}


def _line(event: CellEvent, *, failed: bool) -> Line | None:
    match event.type:
        case "start":
            return {"type": "number_of_executions", "execution_count": event.execution_count}
        case "stdout" | "stderr":
            return _printed(event.type, event.text or "")
        case "display" | "result":
            return {"type": "result", "is_main_result": event.type == "result", **_shown(event.data or {})}
        case "error":
            trace = traceback_of(event)
            return {"type": "error", "name": event.ename, "value": event.evalue, "traceback": trace}
        case "end" if not failed and event.status in _NAMES:
            name, value = _NAMES[event.status], event.message or "the code was interrupted"
            return {"type": "error", "name": name, "value": value, "traceback": value}
        case _:
            return None


def _printed(stream: str, text: str) -> Line:
    return {"type": stream, "text": text, "timestamp": time.time_ns()}


def _shown(bundle: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a result. A bundle is whatever the code said: what has another shape is left out."""
    found = {name: bundle[kind] for kind, name in _FIELDS.items() if _fits(kind, bundle.get(kind))}
    if "text" in found:
        found["text"] = _unquoted(found["text"])
    if (table := _table(bundle.get(TABLE))) is not None:
        found["data"] = table
    if is_chart(bundle.get(CHART)):
        found["chart"] = bundle[CHART]
    others = {kind: value for kind, value in bundle.items() if kind not in (*_FIELDS, CHART, TABLE)}
    return found | ({"extra": others} if others else {})


def _unquoted(text: str) -> str:
    """A text without the quotes of its repr; of megabytes too, so that it is not searched."""
    is_quoted = len(text) > 1 and text[0] in "'\"" and text[0] == text[-1]
    return text[1:-1] if is_quoted else text


def _fits(kind: str, value: object) -> bool:
    return isinstance(value, str) or (kind == "application/json" and value is not None)


def _table(given: object) -> dict[str, Any] | None:
    """The values of each column by its name."""
    columns = _field(given, "columns", list)
    if columns is None:
        return None
    names = [_field(column, "name", str) for column in columns]
    values = [_field(column, "values", list) for column in columns]
    if None in names or None in values:
        return None
    return dict(zip(cast("list[str]", names), values, strict=True))


def is_chart(given: object) -> bool:
    """Whether clients can read it as a chart."""
    elements = _field(given, "elements", list)
    kind = _field(given, "type", str)
    return elements is not None and kind in _CHARTS and _field(given, "title", str) is not None


def _field(given: object, name: str, kind: type) -> Any:
    value = cast("dict[str, Any]", given).get(name) if isinstance(given, dict) else None
    return value if isinstance(value, kind) else None
