"""Builds a cell's output from its events as a notebook would show it."""

import re
from collections.abc import Iterable
from typing import Any

from bay.models import CELL_EVENT_FIELDS, CellEvent, PythonData, PythonOutput, PythonResult
from ship_protocol import CELL_BYTES

TRUNCATED = f"output beyond {CELL_BYTES >> 20} MiB is missing: have the code write it to a file"
"""The SDK and the CLI say this of a cell whose output was truncated."""

_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
"""Colours and the like, ECMA-48 control sequences."""

_PNG = "image/png"


class _Piece:
    """Something that stands in the output: text of a stream, or a MIME bundle."""

    __slots__ = ("data", "display_id", "is_result", "parts", "stream")

    def __init__(self, event: CellEvent) -> None:
        self.stream = event.type if event.type in ("stdout", "stderr") else None
        self.parts = [event.text or ""]
        self.data: dict[str, Any] = event.data or {}
        self.display_id = event.display_id
        self.is_result = event.type == "result"

    @property
    def text(self) -> str:
        """The text for a reader who sees no images."""
        if self.stream:
            return "".join(self.parts)
        return "" if _PNG in self.data else str(self.data.get("text/plain", ""))


class Shown:
    """Takes the events of one cell in order; then has its output."""

    def __init__(self, events: Iterable[CellEvent] = ()) -> None:
        self._pieces: list[_Piece] = []
        self._clear_next = False
        self.execution_count: int | None = None
        self.error: CellEvent | None = None
        self.end: CellEvent | None = None
        for event in events:
            self.take(event)

    def take(self, event: CellEvent) -> None:
        """Take the next event."""
        if event.execution_count is not None:
            self.execution_count = event.execution_count
        match event.type:
            case "stdout" | "stderr" | "display" | "result":
                self._show(event)
            case "clear" if event.wait:
                self._clear_next = True
            case "clear":
                self._clear()
            case "error":
                self.error = event
            case "end":
                self.end = event
            case "start":
                pass

    @property
    def text(self) -> str:
        """All of it in order, both streams and what displays and results are in plain text."""
        found: list[str] = []
        last: _Piece | None = None
        for piece in self._pieces:
            text = piece.text
            is_apart = last is not None and not (last.stream and piece.stream)
            if text and is_apart and not found[-1].endswith("\n"):
                found.append("\n")
            if text:
                found.append(text)
                last = piece
        return "".join(found)

    def stream(self, name: str) -> str:
        """The text of `stdout` or `stderr`."""
        return "".join(piece.text for piece in self._pieces if piece.stream == name)

    @property
    def bundles(self) -> list[dict[str, Any]]:
        """Displays and results, each a MIME bundle, in order."""
        return [piece.data for piece in self._pieces if not piece.stream]

    @property
    def displays(self) -> list[dict[str, Any]]:
        """The displays alone, in order."""
        return [piece.data for piece in self._pieces if not piece.stream and not piece.is_result]

    @property
    def results(self) -> list[dict[str, Any]]:
        """Results alone: the values of expressions."""
        return [piece.data for piece in self._pieces if piece.is_result]

    @property
    def images(self) -> list[str]:
        """The PNG images, in base64 without line breaks."""
        found = [bundle.get(_PNG) for bundle in self.bundles]
        return [image.replace("\n", "") for image in found if isinstance(image, str)]

    def _show(self, event: CellEvent) -> None:
        if event.update:
            self._update(event)
            return
        if self._clear_next:
            self._clear()
        last = self._pieces[-1] if self._pieces else None
        if last is not None and last.stream == event.type:
            last.parts.append(event.text or "")
        else:
            self._pieces.append(_Piece(event))

    def _update(self, event: CellEvent) -> None:
        for piece in self._pieces:
            if piece.display_id is not None and piece.display_id == event.display_id:
                piece.data = event.data or {}

    def _clear(self) -> None:
        self._pieces.clear()
        self._clear_next = False


def why(shown: Shown) -> str | None:
    """Why the cell did not come to its end, in words or as a traceback; None when it did."""
    end = shown.end
    if end is None:
        return "the kernel did not say how it ended"
    kept = "the kernel was restarted and its variables are gone" if end.restarted else "variables were kept"
    match end.status:
        case "ok":
            return None
        case "timeout":
            return f"Execution timed out after {(end.duration_ms or 0) / 1000:.1f} s; {kept}"
        case "interrupted":
            return f"Execution was interrupted; {kept}"
        case "lost":
            return end.message or "the kernel ended before the code did, and its variables are gone"
        case _:
            return traceback_of(shown.error) or end.message or "the code failed and did not say why"


def text_of(event: CellEvent) -> str:
    """A display or a result in plain text; without that, its media types."""
    data = event.data or {}
    return str(data["text/plain"]) if "text/plain" in data else f"<{', '.join(sorted(data))}>"


def traceback_of(error: CellEvent | None) -> str:
    """The traceback as plain text, without colours."""
    if error is None:
        return ""
    text = "\n".join(error.traceback or ()) or f"{error.ename}: {error.evalue}"
    return _ANSI.sub("", text)


def python_result(execution_id: str, events: Iterable[CellEvent]) -> PythonResult:
    """The answer of `python/exec`."""
    shown = Shown(events)
    error = why(shown)
    text = shown.text
    images = tuple({_PNG: image} for image in shown.images)
    return PythonResult(
        success=error is None,
        output=text,
        error=error,
        data=PythonData(execution_count=shown.execution_count, output=PythonOutput(text=text, images=images)),
        execution_id=execution_id,
        execution_time_ms=round((shown.end and shown.end.duration_ms) or 0),
        truncated=bool(shown.end and shown.end.truncated),
    )


def event_to_wire(event: CellEvent) -> dict[str, Any]:
    """The event as its line has it: `seq`, `type` and what its type has beside them."""
    fields = CELL_EVENT_FIELDS[event.type]
    return {"seq": event.seq, "type": event.type, **{name: getattr(event, name) for name in fields}}
