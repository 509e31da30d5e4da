"""The position of a reader of an exec's output, decided without I/O, so that a reconnect loses nothing."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol, TypeVar

import httpx

from bay.client._answers import model
from bay.client._calls import Call, Json
from bay.client._failures import STEADY_S, backoff
from bay.client._lines import Lines, line_object
from bay.errors import BayError, OutputGone, Timeout
from bay.models import Exec, OutputChunk

_EARLY_S = 0.001
"""A timer may end so much before its time."""

Item = TypeVar("Item", covariant=True)


class Reading(Protocol[Item]):
    """A place in a stream of lines. `accept` gives the new item of one, or None; then `ended` may be true."""

    ended: bool

    def accept(self, line: bytes) -> Item | None: ...


class Followed(Reading[Item], Protocol[Item]):
    """A place in a stream that is followed over as many connections as it takes."""

    early: str
    """The message of the error when an answer ends before the stream does."""

    def call(self) -> Call:
        """The next request."""
        ...

    def lines(self) -> Lines:
        """Cuts its answer."""
        return Lines()

    def silence_s(self) -> float | None:
        """How long nothing may come, None: as long as in any call. Raises Timeout when its time is over."""

    def opened(self, response: httpx.Response) -> None:
        """An answer began."""

    def closed(self) -> None:
        """An answer came to its end."""

    def pause(self, error: BayError) -> float:
        """How long to wait before connecting again; raises `error` when that cannot help."""
        ...


class Patience:
    """How often in a row a connection failed, and for how long that is borne."""

    def __init__(self, retry_s: float) -> None:
        self._retry_s = retry_s
        self._failures = 0
        self._failing_since: float | None = None
        self._opened_at: float | None = None

    def renew(self) -> None:
        """Something came: all is well again."""
        self._failures, self._failing_since = 0, None

    def opened(self) -> None:
        """A connection stands. That alone is no proof that it is of use."""
        self._opened_at = time.monotonic()

    def pause(self, error: BayError) -> float:
        """The delay before a reconnect; raises `error` after too long a failure, or when none can help."""
        if not error.retryable:
            raise error
        now = time.monotonic()
        if self._opened_at is not None and now - self._opened_at >= STEADY_S:
            self.renew()
        self._opened_at = None
        self._failing_since = self._failing_since or now
        pause = backoff(self._failures)
        self._failures += 1
        if now + pause - self._failing_since > self._retry_s:
            raise error
        return pause


class Limit:
    """How long may be read, or if `renewed` by all that comes, how long nothing may come. None: for ever."""

    def __init__(self, limit_s: float | None, message: str, *, renewed: bool = False) -> None:
        self._limit_s = limit_s
        self._message = message
        self._renewed = renewed
        self._until: float | None = None
        self._start()

    def came(self) -> None:
        """Something came. Raises Timeout when it came too late."""
        if self._renewed:
            self._start()
        elif self._until is not None:
            self.left_s()

    def left_s(self) -> float | None:
        """How much longer, in seconds. Raises Timeout when the time is over."""
        if self._until is None:
            return None
        left_s = self._until - time.monotonic()
        if left_s <= _EARLY_S:
            raise Timeout(self._message)
        return left_s

    def _start(self) -> None:
        self._until = None if self._limit_s is None else time.monotonic() + self._limit_s


class OutputPlace:
    """A position in the output of a command.

    `since` None means "from the oldest byte still kept": a gap is skipped, and the offsets of the
    chunks show it. A number means exactly there: a gap is OutputGone.
    """

    def __init__(self, since: int | None, retry_s: float) -> None:
        self.next = since or 0
        self.ended = False
        self._exact = since is not None
        self.patience = Patience(retry_s)

    def take(self, chunk: OutputChunk) -> OutputChunk | None:
        """The new part of `chunk`, or None."""
        seen = max(0, self.next - chunk.offset)
        unseen = replace(chunk, offset=chunk.offset + seen, data=chunk.data[seen:]) if seen else chunk
        self.patience.renew()
        self.next = max(self.next, unseen.offset + len(unseen.data))
        return unseen if unseen.data else None

    def skip(self, gone: OutputGone) -> None:
        """Go on at the oldest byte still kept; raises `gone` when the caller wanted every byte."""
        first = gone.details.get("first_offset")
        if self._exact or not isinstance(first, int) or first <= self.next:
            raise gone
        self.next = first


class Lined(OutputPlace, Followed[OutputChunk]):
    """A position in output that comes line by line, from what `call_from` asks for at an offset.

    Without `follow` it ends with the present output. `limit` is the time for which it is read.
    """

    def __init__(
        self,
        what: str,
        since: int | None,
        retry_s: float,
        call_from: Callable[[int], Call],
        *,
        follow: bool = True,
        limit: Limit | None = None,
    ) -> None:
        super().__init__(since, retry_s)
        self.early = f"the output of {what} ended before its end"
        self._call_from = call_from
        self._follow = follow
        self._limit = limit or Limit(None, "")

    def call(self) -> Call:
        return self._call_from(self.next)

    def silence_s(self) -> float | None:
        return self._limit.left_s()

    def opened(self, response: httpx.Response) -> None:
        self.patience.opened()

    def accept(self, line: bytes) -> OutputChunk | None:
        """The new bytes on `line`; None for the last line, which tells how it ended. Raises Timeout."""
        self._limit.came()
        data = line_object(line)
        if "data" in data:
            return self.take(model(OutputChunk, data))
        self.ended = True
        self._end(data)
        return None

    def closed(self) -> None:
        self.ended = self.ended or not self._follow

    def pause(self, error: BayError) -> float:
        if isinstance(error, OutputGone):
            self.skip(error)
            return 0.0
        return self.patience.pause(error)

    def _end(self, data: Json) -> None:
        """Hear how it ended."""


class Cursor(Lined):
    """The position in the output of `info` of someone who reads it line by line."""

    def __init__(
        self,
        info: Exec,
        since: int | None,
        retry_s: float,
        call_from: Callable[[int], Call],
        *,
        follow: bool = True,
        limit: Limit,
    ) -> None:
        super().__init__(info.id, since, retry_s, call_from, follow=follow, limit=limit)
        self.info = info

    def _end(self, data: Json) -> None:
        self.info = ended(self.info, data, self.next)


def ended(info: Exec, data: Json, output_bytes: int) -> Exec:
    """`info` after the end that `data` tells of."""
    return replace(
        info,
        state=data.get("state", "exited"),
        exit_code=data.get("exit_code"),
        signal=data.get("signal"),
        timed_out=bool(data.get("timed_out", False)),
        output_bytes=max(info.output_bytes, output_bytes),
    )
