"""A download's progress, decided without I/O: the next request's range, and whether its answer fits."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace

import httpx

from bay.client._calls import Call, given
from bay.client._failures import Attempts
from bay.client._follow import Patience
from bay.errors import BayError, Conflict, ConnectionFailed, HostError

_RANGE = re.compile(r"bytes (\d{1,19})-\d{1,19}/(\d{1,19})")
_OUT_OF_RANGE = 416
_PARTIAL = 206


class Fetch:
    """The bytes of a file from `start` on, over as many requests as it takes.

    After a break it goes on at the next byte, if the file is still what it was (`etag`; RFC 9110, If-Range).
    If it is not, what came is to be forgotten, which `rewind` does, or refuses by raising.
    """

    def __init__(
        self,
        call: Call,
        retry_s: float,
        *,
        start: int = 0,
        length: int | None = None,
        etag: str | None = None,
        rewind: Callable[[], None],
    ) -> None:
        self.next = start
        self.size: int | None = None
        """Of the whole file, once it is known."""
        self.headers: Mapping[str, str] = {}
        """Of the newest answer."""
        self.ended = length == 0
        self.etag = etag
        self.rewind = rewind
        self._call = call
        self._start = start
        self._length = length
        self._furthest = start
        self._skip = 0
        self._began = False
        self._attempts = Attempts(call, retry_s)
        self._patience = Patience(retry_s)

    @property
    def done(self) -> int:
        """How many bytes have come."""
        return self.next - self._start

    @property
    def total(self) -> int | None:
        """How many will have come in the end; None while that is not known."""
        return None if (end := self._end) is None else max(0, end - self._start)

    def call(self) -> Call:
        """The next request."""
        whole = self.next == 0 and self._length is None
        last = "" if self._length is None else self._start + self._length - 1
        headers = given(Range=None if whole else f"bytes={self.next}-{last}", **{"If-Range": self.etag})
        return replace(self._call, headers=headers if "Range" in headers else {})

    def begin(self, response: httpx.Response) -> bool:
        """An answer came. True when it is of another file than what came before, which is to be forgotten."""
        etag = response.headers.get("etag")
        changed = self.etag is not None and etag != self.etag
        first, self.size = _place(response)
        if changed:
            self.next = self._start
        if first > self.next:
            raise BayError(
                f"the server sent byte {first} instead of byte {self.next}; is it a Bay of another version?"
            )
        self._skip = self.next - first
        self.etag, self.headers, self._began = etag, response.headers, True
        return changed

    def take(self, data: bytes) -> bytes:
        """The part of `data` that is new and wanted."""
        skipped = min(self._skip, len(data))
        self._skip -= skipped
        end = self._end
        piece = data[skipped : None if end is None else skipped + max(0, end - self.next)]
        self.next += len(piece)
        if self.next > self._furthest:
            self._furthest = self.next
            self._patience.renew()
        return piece

    def finish(self) -> None:
        """An answer came to its end. Raises ConnectionFailed when there should have been more of it."""
        if self._end is not None and self.next < self._end:
            raise ConnectionFailed("the file ended early; try again", details={"sent": True})
        self.ended = True

    def pause(self, error: BayError) -> float:
        """How long to wait before asking again; raises `error` when that cannot help."""
        if error.status == _OUT_OF_RANGE and not self._began:
            self.ended = True  # as with any file: behind its end there is nothing
            return 0.0
        if not self._began:
            return self._attempts.pause(error)
        if self.etag is None or not isinstance(error, ConnectionFailed | HostError):
            raise error
        return self._patience.pause(error)

    @property
    def _end(self) -> int | None:
        wanted = None if self._length is None else self._start + self._length
        ends = [end for end in (wanted, self.size) if end is not None]
        return None if self.size is None else min(ends)


def _place(response: httpx.Response) -> tuple[int, int | None]:
    """The offset of the first byte of an answer, and the size of the whole file where that is said."""
    if response.status_code != _PARTIAL:
        return 0, said_length(response)
    found = _RANGE.fullmatch(response.headers.get("content-range", ""))
    if found is None:
        raise BayError(
            "the server did not name the part of the file that it sent; is it a Bay of another version?"
        )
    return int(found[1]), int(found[2])


def said_length(response: httpx.Response) -> int | None:
    """How long the body is, where that is said."""
    length = response.headers.get("content-length", "")
    return int(length) if length.isdecimal() else None


def changed(path: str) -> Conflict:
    """The error of a file that was changed while it was read."""
    return Conflict(
        f"{path} was changed during the read, and the data is of its former contents; read it again"
    )
