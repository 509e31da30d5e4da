"""Streams output as lines of JSON with byte offsets, as it comes for followers."""

import base64
from collections.abc import AsyncGenerator, Generator
from contextlib import contextmanager
from typing import Protocol

from ship.errors import InvalidArgument, OutputGone
from ship.execs.claim import ClaimingReader
from ship.execs.patience import ReaderAllowance
from ship.execs.ring import Piece
from ship.execs.transcript import Transcript
from ship.http.conversation import Request
from ship.wire import line, rfc3339

_LINE_BYTES = 32 * 1024  # of output; its line is then below the 64 KiB that line readers commonly take
_READ_BYTES = 256 * 1024


ReadProgress = ReaderAllowance | ClaimingReader
"""The progress of a reader of a transcript."""


class OutputSource(Protocol):
    """The source of output: an exec or a service. `end_to_wire` is the last line, after its end."""

    transcript: Transcript

    @property
    def running(self) -> bool: ...

    def end_to_wire(self) -> dict[str, object]: ...


@contextmanager
def reading(transcript: Transcript, since: int, *, claims: bool) -> Generator[ReadProgress]:
    """A reader from `since` on; the program waits for one that claims the output."""
    if not claims:
        yield ReaderAllowance(transcript)
        return
    with transcript.claim.reading(since) as reader:
        yield reader


def check_offset(transcript: Transcript, since: int) -> None:
    """Raises OutputGone or InvalidArgument when `since` is not in the ring."""
    ring = transcript.ring
    if since < ring.first_offset:
        problem = "the output at this offset is no longer kept; continue from first_offset"
        raise OutputGone(problem, first_offset=ring.first_offset)
    if since > ring.next_offset:
        raise InvalidArgument(f"since is beyond the {ring.next_offset} bytes written so far", field="since")


def offset(request: Request) -> int:
    """Where the reader begins. Raises InvalidArgument."""
    return request.offset("since", "a byte offset") or 0


def claims(request: Request) -> bool:
    """Whether the program is to wait for this reader."""
    return request.flag("wait_for_reader")


async def lines(
    request: Request, found: OutputSource, since: int, reader: ReadProgress
) -> AsyncGenerator[bytes]:
    """The lines from offset `since` on, which must be there; with `follow` until the end, or it leaves,
    and else up to the newest byte of now: a reader that the program waits for would never be through.
    """
    ring = found.transcript.ring
    follow = request.flag("follow")
    until = ring.next_offset
    while True:
        # In this order: output that comes between the two lines belongs before the last line.
        ended = not found.running
        if since < ring.first_offset:
            yield _output_gone(ring.first_offset)
            return
        pieces = list(ring.read(since, _READ_BYTES if follow else min(_READ_BYTES, until - since)))
        if pieces:
            reader.earn(pieces[-1].end - since)
            since = pieces[-1].end
            with reader.while_giving(since):
                yield b"".join(each for piece in pieces for each in _lines(piece))
        elif ended and since == ring.next_offset:
            yield line(found.end_to_wire())
            return
        elif not follow or request.gone.done():
            return
        else:
            reader.renew()
            await found.transcript.news.wait(request.gone)


def _lines(piece: Piece) -> list[bytes]:
    return [
        line(
            {
                "offset": piece.offset + start,
                "stream": piece.stream,
                "data": base64.b64encode(piece.data[start : start + _LINE_BYTES]).decode("ascii"),
                "t": rfc3339(piece.t),
            }
        )
        for start in range(0, len(piece.data), _LINE_BYTES)
    ]


def _output_gone(first_offset: int) -> bytes:
    message = "this reader fell behind the output buffer; continue from first_offset"
    error = {"code": OutputGone.code, "first_offset": first_offset, "message": message}
    return line({"error": {**error, "details": {"first_offset": first_offset}}})
