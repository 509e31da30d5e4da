"""Decompresses a layer in a process of its own, which can read the blob, write to a pipe, and nothing else.

The libraries for that are C code on a stranger's bytes: one that is broken into can write other bytes to the
pipe, and the process at its other end hashes what comes there. It cannot make a layer pass for another.
"""

import os
import zlib
from collections.abc import Callable
from contextlib import suppress
from fcntl import F_SETPIPE_SZ, fcntl
from typing import IO, NoReturn, cast

import zstandard

from layer_unpack.confine import install_filter, keep_capabilities
from layer_unpack.refusals import INVALID, TOO_LARGE, Refused

_IN, _OUT = 1 << 16, 1 << 18
_PIPE_BYTES = 1 << 20
_LARGEST_WINDOW = 128 << 20  # as far as `zstd --long` goes
_GZIP = 16 + zlib.MAX_WBITS

_DAMAGED, _NO_MEMORY = 3, 4
_WORDS = {
    _DAMAGED: Refused(INVALID, "the layer's compressed data is damaged, or of another format than it says"),
    _NO_MEMORY: Refused(TOO_LARGE, "the layer needs more memory to be decompressed than allowed"),
}

Read = Callable[[int], bytes]
Write = Callable[[bytes], object]


class Damaged(Exception):
    """The stream breaks off."""


class Decoder:
    """A process that decompresses what `blob` has to the pipe `output`."""

    def __init__(self, codec: str, blob: int, program: bytes) -> None:
        decode = CODECS[codec]
        self.output, into = os.pipe2(os.O_CLOEXEC)
        with suppress(OSError):  # the host allows its users less: it is but slower
            fcntl(into, F_SETPIPE_SZ, _PIPE_BYTES)
        self._pid = os.fork()
        if self._pid == 0:
            _run(decode, blob, into, program)
        os.close(into)

    def check_end(self) -> None:
        """Raise Refused unless all was decompressed. The pipe has ended."""
        status = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        if status:
            raise _WORDS.get(status, _WORDS[_NO_MEMORY])


def _run(decode: Callable[[Read, Write], None], blob: int, into: int, program: bytes) -> NoReturn:
    status = 1
    try:
        os.dup2(blob, 0)
        os.dup2(into, 1)
        os.closerange(2, 1 << 16)
        keep_capabilities(0)
        install_filter(program)
        decode(lambda size: os.read(0, size), _write)
        status = 0
    except (zlib.error, zstandard.ZstdError, Damaged):
        status = _DAMAGED
    except MemoryError:
        status = _NO_MEMORY
    finally:
        os._exit(status)


def _write(data: bytes | memoryview) -> None:
    while data:
        data = memoryview(data)[os.write(1, data) :]


def gunzip(read: Read, write: Write) -> None:
    """Decompress gzip of any number of members (RFC 1952), which zeros may follow."""
    data = read(_IN)
    while data := _without_zeros(data, read):
        data = _member(data, read, write)


def _member(data: bytes, read: Read, write: Write) -> bytes:
    """Decompress one member, a little at a time; gives what was read behind it."""
    member = zlib.decompressobj(_GZIP)
    while not member.eof:
        data = data or read(_IN)
        piece = member.decompress(data, _OUT)
        if not data and not piece and not member.eof:
            raise Damaged
        write(piece)
        data = member.unconsumed_tail
    return member.unused_data or read(_IN)


def _without_zeros(data: bytes, read: Read) -> bytes:
    while data and data[0] == 0:
        data = data.lstrip(b"\0") or read(_IN)
    return data


def unzstd(read: Read, write: Write) -> None:
    """Decompress zstd of any number of frames (RFC 8878), skippable ones among them."""
    decompressor = zstandard.ZstdDecompressor(max_window_size=_LARGEST_WINDOW)
    source = cast("IO[bytes]", _Source(read))
    with decompressor.stream_reader(source, _IN, read_across_frames=True, closefd=False) as stream:
        while piece := stream.read(_OUT):
            write(piece)


class _Source:
    def __init__(self, read: Read) -> None:
        self.read = read


CODECS: dict[str, Callable[[Read, Write], None]] = {"gzip": gunzip, "zstd": unzstd}
