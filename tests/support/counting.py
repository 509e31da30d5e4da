"""Numbered lines that every door carries, and a judge that says which of them were lost, doubled or
reordered.

The lines are those of `seq 1 N`, cut after a number of bytes: the sandbox has the program, it is faster than
any door, and a piece that is missing, comes twice or comes too early shows by its numbers.
"""

import hashlib
import os
import subprocess
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from itertools import pairwise
from typing import IO, BinaryIO, cast

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
LIMIT = int(os.environ.get("BAY_INTEGRITY_BYTES", 20 * MIB))
"""The largest amount that is moved through a door; `make integrity` raises it to 1 GiB."""

_LADDER = (KIB, MIB, MIB + 1, 20 * MIB, 256 * MIB, GIB)
SIZES = tuple(size for size in _LADDER if size <= LIMIT)
LARGEST = SIZES[-1]
ROOMY = "roomy"
"""A profile whose commands keep more than the buffers of the connections between them and a reader hold."""
_PIECE = 1 << 16
_KEPT = 64 * MIB


def printing(size: int) -> str:
    """A shell command that prints the first `size` bytes of the numbered lines."""
    return f"seq 1 999999999 | head -c {size}"


class Judge:
    """Compares what comes with what was sent, as it comes and in constant memory while it is right."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.got = 0
        self._sent: Generator[bytes, int] = _sent(size)
        next(self._sent)
        self._wrong_from: int | None = None
        self._tail = bytearray()

    def feed(self, data: bytes) -> None:
        """The next bytes that came."""
        if self._wrong_from is None and data != self._sent.send(len(data)):
            self._wrong_from = self.got
        if self._wrong_from is not None and len(self._tail) < _KEPT:
            self._tail += data
        self.got += len(data)

    def verdict(self) -> str:
        """`lost 0, doubled 0, reordered 0` when all came as it was sent; else the counts, and where it went
        wrong.
        """
        if self._wrong_from is None and self.got == self.size:
            return PERFECT
        if self._wrong_from is None:
            return f"lost {self.size - self.got} bytes at the end"
        # The first line of the wrong part may be cut; it is left out of the count.
        numbers = [int(word) for word in bytes(self._tail).split(b"\n")[1:-1] if word.isdigit()]
        distinct = set(numbers)
        span = range(min(distinct, default=0), max(distinct, default=-1) + 1)
        reordered = sum(after < before for before, after in pairwise(numbers))
        return (
            f"{self.got} of {self.size} bytes; from byte {self._wrong_from} on: lost {len(span) - len(distinct)} lines, "
            f"doubled {len(numbers) - len(distinct)}, reordered {reordered}"
        )


PERFECT = "lost 0, doubled 0, reordered 0"


def judged(size: int, pieces: Iterable[bytes]) -> str:
    """The verdict on all of `pieces`."""
    judge = Judge(size)
    for piece in pieces:
        judge.feed(piece)
    return judge.verdict()


def pieces_of(stream: IO[bytes]) -> Generator[bytes]:
    """What a pipe or a file gives, as it comes."""
    while piece := stream.read(_PIECE):
        yield piece


@contextmanager
def lines(size: int) -> Generator[BinaryIO]:
    """The lines as a pipe on this side."""
    with (
        subprocess.Popen(["seq", "1", "999999999"], stdout=subprocess.PIPE) as seq,
        subprocess.Popen(["head", "-c", str(size)], stdin=seq.stdout, stdout=subprocess.PIPE) as head,
    ):
        assert seq.stdout is not None
        assert head.stdout is not None
        seq.stdout.close()
        try:
            yield cast("BinaryIO", head.stdout)
        finally:
            head.kill()


def sha256_of_lines(size: int) -> str:
    """The SHA-256 of the lines, in hexadecimal digits."""
    digest = hashlib.sha256()
    with lines(size) as stream:
        for piece in pieces_of(stream):
            digest.update(piece)
    return digest.hexdigest()


def _sent(size: int) -> Generator[bytes, int]:
    with lines(size) as stream:
        wanted = yield b""
        while True:
            wanted = yield stream.read(wanted)
