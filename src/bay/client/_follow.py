"""Where a reader of an exec's output stands, decided without I/O, so that a dropped connection costs nothing."""

import time
from dataclasses import replace

from bay.client._wire import Json, backoff, line_object, model
from bay.errors import BayError, OutputGone
from bay.models import Exec, OutputChunk


class Patience:
    """How often in a row a connection failed, and for how long that is borne."""

    def __init__(self, retry_s: float) -> None:
        self._retry_s = retry_s
        self._failures = 0
        self._failing_since: float | None = None

    def renew(self) -> None:
        """Something came: all is well again."""
        self._failures, self._failing_since = 0, None

    def pause(self, error: BayError) -> float:
        """How long to wait before connecting again; raises `error` when it has failed for too long, or trying again cannot help."""
        if not error.retryable:
            raise error
        now = time.monotonic()
        self._failing_since = self._failing_since or now
        pause = backoff(self._failures)
        self._failures += 1
        if now + pause - self._failing_since > self._retry_s:
            raise error
        return pause


class Cursor:
    """The position in the output of `info`.

    `since` None means "from the oldest byte still kept": a gap is skipped, and the offsets of the
    chunks show it. A number means exactly there: a gap is OutputGone.
    """

    def __init__(self, info: Exec, since: int | None, retry_s: float) -> None:
        self.info = info
        self.next = since or 0
        self.ended = False
        self._exact = since is not None
        self._patience = Patience(retry_s)

    def accept(self, line: bytes) -> OutputChunk | None:
        """The new bytes on `line`; None for the last line, which tells how the command ended."""
        data = line_object(line)
        if "data" not in data:
            self._end(data)
            return None
        chunk = self._unseen(model(OutputChunk, data))
        self._patience.renew()
        self.next = max(self.next, chunk.offset + len(chunk.data))
        return chunk if chunk.data else None

    def skip(self, gone: OutputGone) -> None:
        """Go on at the oldest byte still kept; raises `gone` when the caller wanted every byte."""
        first = gone.details.get("first_offset")
        if self._exact or not isinstance(first, int) or first <= self.next:
            raise gone
        self.next = first

    def pause(self, error: BayError) -> float:
        """How long to wait before connecting again; see `Patience`."""
        return self._patience.pause(error)

    def _unseen(self, chunk: OutputChunk) -> OutputChunk:
        seen = max(0, self.next - chunk.offset)
        return replace(chunk, offset=chunk.offset + seen, data=chunk.data[seen:]) if seen else chunk

    def _end(self, data: Json) -> None:
        self.ended = True
        self.info = replace(
            self.info,
            state=data.get("state", "exited"),
            exit_code=data.get("exit_code"),
            signal=data.get("signal"),
            timed_out=bool(data.get("timed_out", False)),
            output_bytes=max(self.info.output_bytes, self.next),
        )
