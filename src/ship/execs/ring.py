"""The ring buffer of an exec's newest output, by byte offset.

Offsets count the bytes of all streams together, from the start of the exec and in the order in which they
were read. The ring keeps the newest `capacity` bytes in a bounded number of pieces, so that single bytes
written by turns to both streams cost no more memory than blocks.

Output due to a claiming reader is kept beyond that, and with it `capacity` bytes before it: they may be under
way when its connection breaks. The claim bounds it, as it stops the program once the ring `is_full`.
"""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import Literal

Stream = Literal["stdout", "stderr", "tty"]

_SMALL = 4096  # pieces below this grow by later bytes of the same stream …
_TOGETHER_S = 0.1  # … if it follows within this
_BYTES_PER_PIECE = 256
_FEWEST_PIECES = 1024
_COMPACT = 512


@dataclass(slots=True)
class Piece:
    """The bytes of one read. `t` is its time, in seconds since the epoch."""

    offset: int
    stream: Stream
    data: bytes | bytearray
    t: float

    @property
    def end(self) -> int:
        """The offset after the last byte."""
        return self.offset + len(self.data)


class Ring:
    def __init__(self, capacity: int) -> None:
        self.first_offset = 0
        self.next_offset = 0
        self._capacity = capacity
        self._most_pieces = max(_FEWEST_PIECES, capacity // _BYTES_PER_PIECE)
        self._pieces: list[Piece] = []
        self._dropped = 0  # dropped pieces at the head of the list; removed in lots
        self._due: int | None = None

    @property
    def kept_bytes(self) -> int:
        return self.next_offset - self.first_offset

    def endangers(self, offset: int) -> bool:
        """Whether `offset` lies in or before the older half of the ring, which is overwritten soon."""
        return self.next_offset - offset > self._capacity // 2

    @property
    def is_full(self) -> bool:
        """Whether so much is due to a reader that Ship must read no more."""
        return self._due_bytes >= self._capacity or (self._due_bytes > 0 and self._too_many())

    @property
    def has_room(self) -> bool:
        """Whether more may come: at half, not just below full, so that output comes not byte by byte."""
        return self._due_bytes <= self._capacity // 2 and not self.is_full

    def keep_from(self, offset: int | None) -> None:
        """Keep the bytes from `offset` on, which are due to a reader; None keeps none."""
        self._due = offset
        self._evict()

    def append(self, stream: Stream, data: bytes, t: float) -> None:
        """Add bytes that were read from `stream` at `t`."""
        if not data:
            return
        if not self._grow_last(stream, data, t):
            kept = data[-self._capacity :] if self._due is None else data
            offset = self.next_offset + len(data) - len(kept)
            self._pieces.append(Piece(offset, stream, bytearray(kept) if len(kept) < _SMALL else kept, t))
        self.next_offset += len(data)
        self._evict()

    def read(self, since: int, limit: int) -> Iterator[Piece]:
        """Copies of the bytes from offset `since` on, `limit` at most. `since` must be in the ring."""
        after = bisect_right(self._pieces, since, lo=self._dropped, key=lambda piece: piece.offset)
        for index in range(max(self._dropped, after - 1), len(self._pieces)):
            piece = self._pieces[index]
            start = max(0, since - piece.offset)
            whole = start == 0 and len(piece.data) <= limit  # then bytes need no copy
            data = bytes(piece.data if whole else memoryview(piece.data)[start : start + limit])
            limit -= len(data)
            if data:
                yield Piece(piece.offset + start, piece.stream, data, piece.t)
            if limit <= 0:
                return

    def collect(self, stream: Stream) -> bytes:
        """All that is kept of one stream."""
        kept = self.read(self.first_offset, self.kept_bytes)
        return b"".join(piece.data for piece in kept if piece.stream == stream)

    def runs(self) -> Iterator[Piece]:
        """All kept bytes; adjacent ones of a stream are one piece."""
        kept = self.read(self.first_offset, self.kept_bytes)
        for stream, group in groupby(kept, key=attrgetter("stream")):
            pieces = list(group)
            yield Piece(pieces[0].offset, stream, b"".join(p.data for p in pieces), pieces[0].t)

    def forget(self) -> None:
        """Drop all bytes; the offsets stay true."""
        self._pieces.clear()
        self._dropped = 0
        self.first_offset = self.next_offset

    def _grow_last(self, stream: Stream, data: bytes, t: float) -> bool:
        last = self._pieces[-1] if len(self._pieces) > self._dropped else None
        if last is None or last.stream != stream or not isinstance(last.data, bytearray):
            return False
        if len(last.data) + len(data) > _SMALL or not 0 <= t - last.t < _TOGETHER_S:
            return False
        last.data += data
        return True

    @property
    def _due_from(self) -> int:
        return self.next_offset if self._due is None else min(self._due, self.next_offset)

    @property
    def _due_bytes(self) -> int:
        return self.next_offset - self._due_from

    def _evict(self) -> None:
        due = self._due_from
        self.first_offset = max(self.first_offset, due - self._capacity)
        while self._dropped < len(self._pieces) and self._is_to_go(self._pieces[self._dropped], due):
            self._drop_oldest()
        if self._dropped > _COMPACT:
            del self._pieces[: self._dropped]
            self._dropped = 0

    def _is_to_go(self, piece: Piece, due: int) -> bool:
        return piece.end <= self.first_offset or (piece.end <= due and self._too_many())

    def _too_many(self) -> bool:
        return len(self._pieces) - self._dropped > self._most_pieces

    def _drop_oldest(self) -> None:
        piece = self._pieces[self._dropped]
        self.first_offset = max(self.first_offset, piece.end)
        piece.data = b""
        self._dropped += 1
