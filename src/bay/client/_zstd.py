"""Checks that a file is whole zstd by its outermost layer (RFC 8878), without unpacking it.

Python 3.11 cannot unpack zstd. The frames and blocks carry their lengths, so that any cut shows; the import
checks the checksums.
"""

from collections.abc import Callable

from bay.errors import BayError

_MAGIC = 0xFD2FB528
_SKIPPABLE = 0x184D2A50
_RLE = 1


class Frames:
    """Walks along a zstd file that comes piece by piece. Raises BayError where it is none, or not whole."""

    def __init__(self) -> None:
        self._head = bytearray()
        self._wanted = 4
        self._skip = 0
        self._next: Callable[[bytes], None] = self._magic
        self._checksum = 0
        self._frames = 0

    def feed(self, data: bytes) -> None:
        """The next piece; an empty one is the end."""
        if not data:
            self._end()
        view = memoryview(data)
        while view:
            if self._skip:
                skipped = min(self._skip, len(view))
                self._skip -= skipped
            else:
                skipped = min(self._wanted - len(self._head), len(view))
                self._head += view[:skipped]
                if len(self._head) == self._wanted:
                    head, self._head = bytes(self._head), bytearray()
                    self._next(head)
            view = view[skipped:]

    def _end(self) -> None:
        if self._head or self._skip or self._next != self._magic or not self._frames:
            raise BayError("the server's checkpoint is truncated; export it again")

    def _magic(self, head: bytes) -> None:
        magic = int.from_bytes(head, "little")
        if magic & ~0xF == _SKIPPABLE:
            self._expect(4, self._skippable)
        elif magic == _MAGIC:
            self._expect(1, self._descriptor)
        else:
            raise BayError("the server's answer is not a checkpoint: it is not zstd")

    def _skippable(self, head: bytes) -> None:
        self._skip = int.from_bytes(head, "little")
        self._expect(4, self._magic)

    def _descriptor(self, head: bytes) -> None:
        flag, single, self._checksum = head[0] >> 6, head[0] >> 5 & 1, head[0] >> 2 & 1
        size = (1 if single else 0, 2, 4, 8)[flag]
        self._skip = (0 if single else 1) + (0, 1, 2, 4)[head[0] & 3] + size
        self._expect(3, self._block)

    def _block(self, head: bytes) -> None:
        word = int.from_bytes(head, "little")
        kind, size = word >> 1 & 3, word >> 3
        self._skip = 1 if kind == _RLE else size
        if word & 1:
            self._skip += 4 * self._checksum
            self._frames += 1
            self._expect(4, self._magic)

    def _expect(self, count: int, then: Callable[[bytes], None]) -> None:
        self._wanted, self._next = count, then
