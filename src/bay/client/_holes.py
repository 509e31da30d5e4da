"""A file that came in a tar without its holes: GNU's sparse format 1.0, as GNU tar's manual describes it.

Its content is a list of where the pieces belong (decimal numbers, a line each: how many, then offset and length of each piece),
filled up to a block, and then the pieces. A sandbox made it, so neither is believed.
"""

from collections.abc import Callable

from bay.errors import BayError

_BLOCK = 512
_MOST_LIST = 1 << 20
_LARGEST = (1 << 63) - 1


class Holes:
    """Takes that content piece by piece and calls `write` with bytes and where in a file of `size` bytes they belong."""

    def __init__(self, size: str, write: Callable[[memoryview, int], None]) -> None:
        self.size = _number(size.encode())
        self._write = write
        self._list = bytearray()
        self._pieces: list[tuple[int, int]] | None = None

    def take(self, data: memoryview) -> None:
        """The next bytes of the content."""
        while data and self._pieces is None:
            head = data[: _BLOCK - len(self._list) % _BLOCK]
            self._list += head
            data = data[len(head) :]
            if len(self._list) % _BLOCK == 0:
                self._read_list()
        while data:
            data = self._place(data)

    def finish(self) -> None:
        """It is over. Raises BayError when something is missing."""
        if self._pieces != []:
            raise _damaged()

    def _read_list(self) -> None:
        *lines, _ = bytes(self._list).split(b"\n")
        count = _number(lines[0]) if lines else _LARGEST
        if len(lines) < 1 + 2 * count:
            if len(self._list) >= _MOST_LIST:
                raise _damaged()
            return
        numbers = [_number(line) for line in lines[1 : 1 + 2 * count]]
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
