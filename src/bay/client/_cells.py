"""The result of a kernel's cell, and the position of a reader of its events, without I/O."""

from base64 import b64decode
from collections.abc import Iterable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Self

import httpx

from bay.cell_output import TRUNCATED, Shown, traceback_of, why
from bay.client._answers import model
from bay.client._calls import Call
from bay.client._follow import Followed, Patience
from bay.client._lines import line_object
from bay.client._waits import START_S
from bay.errors import BayError, NotFound
from bay.ids import new_id
from bay.models import Brief, CellEvent, CellStatus

_LOST = "its kernel no longer exists: the sandbox was stopped, or the cell ended too long ago"


_IMAGES = ("image/png", "image/jpeg", "image/gif", "image/webp", "image/svg+xml")
"""The kinds of image that a bundle may have; of several the first is taken."""


class Image(bytes):
    """An image's bytes, of the kind that `media_type` says. In a notebook it shows itself."""

    media_type: str

    def __new__(cls, data: bytes, media_type: str = "image/png") -> Self:
        """An image with those bytes."""
        made = super().__new__(cls, data)
        made.media_type = media_type
        return made

    def __repr__(self) -> str:
        return f"<Image {self.media_type}, {len(self)} bytes>"

    def save(self, path: str | PathLike[str]) -> Path:
        """Write it to a local file, replacing what is there; returns the path."""
        target = Path(path)
        target.write_bytes(self)
        return target

    def _repr_mimebundle_(self, **_: object) -> dict[str, bytes]:
        return {self.media_type: bytes(self)}


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class CellResult(Brief):
    """The output of code in a kernel: text, displays and its result.

    `text` is all of it in order as plain text. `results` and `displays` are MIME bundles: content types, each
    with text, or base64 for images; `images` are the images of both, as bytes with a `save(path)`. `error` is
    the exception's event, if there was one; `status` says how the cell ended, `message` why in words. In a
    notebook it shows itself.
    """

    cell_id: str
    status: CellStatus
    text: str
    stdout: str
    stderr: str
    results: tuple[dict[str, Any], ...]
    displays: tuple[dict[str, Any], ...]
    images: tuple[Image, ...]
    error: CellEvent | None
    message: str | None
    execution_count: int | None
    restarted: bool
    """Whether the kernel is a new one now, without the variables."""
    truncated: bool
    duration_s: float

    @property
    def ok(self) -> bool:
        """Whether it came to its end without an exception, and none of what it printed is missing."""
        return self.status == "ok" and not self.truncated

    @property
    def outcome(self) -> str:
        """How it ended, in words."""
        if self.status == "ok" and self.truncated:
            return TRUNCATED
        return f"the code ended with {self.status}: {(self.message or '').strip().rpartition(chr(10))[2]}"

    @property
    def traceback(self) -> str:
        """The exception's traceback as plain text, empty without one."""
        return traceback_of(self.error)

    def check(self) -> "CellResult":
        """This result; raises CellFailed when it is not `ok`."""
        if not self.ok:
            raise CellFailed(self)
        return self

    def __str__(self) -> str:
        cut = f"[{TRUNCATED}]" if self.truncated else ""
        return "\n".join(part for part in (self.text.rstrip("\n"), cut, self.message or "") if part)

    def _repr_mimebundle_(
        self, include: Iterable[str] | None = None, exclude: Iterable[str] | None = None
    ) -> dict[str, Any]:
        """Its output for a notebook: the last result or display, and all of it as plain text."""
        shown = (*self.displays, *self.results)[-1:]
        bundle: dict[str, Any] = {**(shown[0] if shown else {}), "text/plain": str(self)}
        wanted = set(bundle) if include is None else set(include) & set(bundle)
        return {kind: bundle[kind] for kind in bundle if kind in wanted - set(exclude or ())}


class CellFailed(BayError, code="cell_failed", status=0):
    """Code that was checked failed, or a part of its output is missing; `result` has the rest."""

    def __init__(self, result: CellResult) -> None:
        super().__init__(
            result.outcome,
            details={"cell_id": result.cell_id, "status": result.status, "truncated": result.truncated},
        )
        self.result = result


def cell_result(cell_id: str, shown: Shown) -> CellResult:
    """The result of a cell that has shown all it shows."""
    end = shown.end or lost(0)
    return CellResult(
        cell_id=cell_id,
        status=end.status or "lost",
        text=shown.text,
        stdout=shown.stream("stdout"),
        stderr=shown.stream("stderr"),
        results=tuple(shown.results),
        displays=tuple(shown.displays),
        images=tuple(image for bundle in shown.bundles if (image := _image_in(bundle)) is not None),
        error=shown.error,
        message=why(shown),
        execution_count=shown.execution_count,
        restarted=bool(end.restarted),
        truncated=bool(end.truncated),
        duration_s=(end.duration_ms or 0) / 1000,
    )


def _image_in(bundle: dict[str, Any]) -> Image | None:
    kind = next((kind for kind in _IMAGES if isinstance(bundle.get(kind), str)), None)
    if kind is None:
        return None
    text: str = bundle[kind]
    if kind == "image/svg+xml":
        return Image(text.encode("utf-8", "replace"), kind)
    try:
        return Image(b64decode(text), kind)
    except ValueError:  # the code said so, and it is not: `displays` and `results` have what it gave
        return None


def lost(seq: int) -> CellEvent:
    """The end of a cell that the server no longer knows."""
    return CellEvent(seq=seq, type="end", status="lost", restarted=False, truncated=False, message=_LOST)


class CellCursor(Followed[CellEvent]):
    """The position in the events of the run of `body` in the kernel at `path`."""

    def __init__(self, path: str, body: dict[str, Any], retry_s: float) -> None:
        self.id = new_id("cell")
        self.early = f"the events of {self.id} ended before its end"
        self.next = 0
        self.ended = False
        self.lost = False
        """Whether the server no longer knows the cell."""
        self._path = path
        self._body = {"id": self.id, **body}
        self._begun = False
        """Whether the server is known to have the cell, so that it must not be sent a second time."""
        self._patience = Patience(retry_s)

    def call(self) -> Call:
        """The run; once the server has it, what came of it since. The id keeps it from running twice."""
        if not self._begun:
            return Call("POST", f"{self._path}/run", body=self._body, safe=True, wait_s=START_S)
        return Call.get(f"{self._path}/cells/{self.id}/events", {"since": self.next, "follow": "true"})

    def opened(self, response: httpx.Response) -> None:
        self._begun = True

    def accept(self, line: bytes) -> CellEvent | None:
        """The event on `line`; None for one that was seen before."""
        event = model(CellEvent, line_object(line))
        self._patience.renew()
        if event.seq < self.next:
            return None
        self.next, self.ended = event.seq + 1, event.type == "end"
        return event

    def pause(self, error: BayError) -> float:
        if self._begun and isinstance(error, NotFound):
            self.lost = self.ended = True
            return 0.0
        return self._patience.pause(error)
