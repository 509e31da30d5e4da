"""A file that came in a tar without its holes: GNU's sparse format 1.0, as GNU tar's manual describes it.

Its content is a list of where the pieces belong (decimal numbers, a line each: how many, then offset and length of each piece),
filled up to a block, and then the pieces. A sandbox made it, so neither is believed.
"""

from collections.abc import Callable

from bay.errors import BayError

_BLOCK = 512
_MOST_PIECES = 1 << 16
_LONGEST_LINE = 20
_LARGEST = (1 << 63) - 1


class Holes:
    """Takes that content piece by piece and calls `write` with bytes and where in a file of `size` bytes they belong."""

    def __init__(self, size: str, write: Callable[[memoryview, int], None]) -> None:
        self.size = _number(size.encode())
        self._write = write
        self._block = bytearray()
        self._line = b""
        self._numbers: list[int] = []
        self._pieces: list[tuple[int, int]] | None = None

    def take(self, data: memoryview) -> None:
        """The next bytes of the content."""
        while data and self._pieces is None:
            head = data[: _BLOCK - len(self._block)]
            self._block += head
            data = data[len(head) :]
            if len(self._block) == _BLOCK:
                block, self._block = bytes(self._block), bytearray()
                self._read_list(block)
        while data:
            data = self._place(data)

    def finish(self) -> None:
        """It is over. Raises BayError when something is missing."""
        if self._pieces != []:
            raise _damaged()

    def _read_list(self, block: bytes) -> None:
        """The next block of the list. Each is looked at once, however many there are."""
        *lines, self._line = (self._line + block).split(b"\n")
        for line in lines:
            self._numbers.append(_number(line))
            if self._numbers[0] > _MOST_PIECES:
                raise _damaged()
            if len(self._numbers) == 1 + 2 * self._numbers[0]:
                return self._end_list()  # what is left of the block fills it up
        if len(self._line) >= _LONGEST_LINE:
            raise _damaged()
        return None

    def _end_list(self) -> None:
        numbers, self._numbers = self._numbers[1:], []
        pieces = list(zip(numbers[::2], numbers[1::2], strict=True))
        if any(offset + length > self.size for offset, length in pieces):
            raise _damaged()
        self._pieces = [piece for piece in pieces if piece[1]]
        self._pieces.reverse()

    def _place(self, data: memoryview) -> memoryview:
        if not self._pieces:
            raise _damaged()
        offset, length = self._pieces.pop()
        head = data[:length]
        self._write(head, offset)
        if len(head) < length:
            self._pieces.append((offset + len(head), length - len(head)))
        return data[len(head) :]


def _number(text: bytes) -> int:
    if not (text.isdigit() and len(text) < 20 and int(text) <= _LARGEST):
        raise _damaged()
    return int(text)


def _damaged() -> BayError:
    return BayError("the archive is damaged: a file with holes says nonsense; what came before stays")
