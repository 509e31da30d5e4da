"""Packs or unpacks a checkpoint as one portable stream, a tar compressed with zstd, in a process for each.

    python -m bay.cargo.export_process export DIR < FACTS > STREAM
    python -m bay.cargo.export_process import DIR [--max-bytes N] < STREAM
    python -m bay.cargo.export_process check [--max-bytes N] < STREAM

The first member is `checkpoint.json`, then `workspace/…` and, where the machine is kept, `machine/…`;
the last is `sha256`, the digest of every byte before it, which shows a missing end. zstd has a checksum too.

The result is one line of JSON on stderr. An archive is untrusted input: the process has little memory and a
low priority, and touches only its empty directory, where a failed import leaves parts for the caller to
remove. A check touches nothing: it is for a Bay that keeps the archive as it is. Rejected: a thread of Bay's,
which would take the interpreter from calls.
"""

import argparse
import contextlib
import errno
import hashlib
import json
import os
import resource
import sqlite3
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, cast

import zstandard

from bay.cargo.manifest import LONGEST, Manifest
from bay.cargo.tar_pack import MACHINE, Packer, Writable
from bay.cargo.tar_unpack import RULES, CargoPolicy
from bay.errors import BadRequest, BayError, DriverUnavailable, StorageFull
from tree_tar.beneath import Parts, closing
from tree_tar.extract import Extractor
from tree_tar.headers import BLOCK, DIRECTORY, END, FILE, header, padding
from tree_tar.reader import BadArchive, Event, Member, Piece, Reader

FACTS = "checkpoint.json"
DIGEST = "sha256"
WORKSPACE = "workspace"
MEMORY_BYTES = 512 << 20
"""Address space of the process. Files are never in it; names of one directory and holes of one file are."""
MAX_ENTRIES = 2_000_000
LAST_BYTES = 4 * BLOCK
_LEVELS = 403
"""The most names in a path that a carrier unpacks, with `workspace` before and a file at the end."""
_LEVEL = 3
_LARGEST_WINDOW = 8 << 20
_PIECE = 1 << 17
_LITTLE = 2048
_MAX_ZEROS = 1 << 20
_NICE = 10
_CPU_S = 4 * 3600
"""Of an import. A terabyte takes less."""


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line says; gives 0 when all went well."""
    asked = _arguments().parse_args(argv)
    os.nice(_NICE)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if asked.act != "export":
        resource.setrlimit(resource.RLIMIT_CPU, (_CPU_S, _CPU_S))
    try:
        match asked.act:
            case "export":
                _say(_export(asked.directory))
            case "import":
                _say(_import(asked.directory, asked.max_bytes))
            case _:
                _say(_said(check(partial(os.read, sys.stdin.fileno()), asked.max_bytes)))
    except BayError as error:
        _say({"error": error.code, "message": error.message})
        return 1
    return 0


def pack(directory: Path, facts: Manifest, out: Writable) -> Packer:
    """Write the checkpoint in `directory`. Raises BadRequest, StorageFull or DriverUnavailable; blocks."""
    compressor = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True)
    with (
        _told(),
        compressor.stream_writer(cast("IO[bytes]", out), write_size=_PIECE, closefd=False) as stream,
    ):
        hashed = _Hashed(stream)
        packer = Packer(hashed, digested=False, strict=True, most_entries=MAX_ENTRIES)
        packer.add_bytes(FACTS, facts.to_json().encode())
        packer.add_tree(WORKSPACE, directory / WORKSPACE)
        if facts.persist == "machine":
            packer.add_tree(MACHINE, directory / MACHINE, system=True)
        packer.add_bytes(DIGEST, hashed.hexdigest().encode())
        packer.finish()
    return packer


def unpack(read: Callable[[int], bytes], directory: Path, max_bytes: int | None) -> "ImportedTree":
    """Unpack what `read` gives for a number of bytes, into the empty `directory`. Raises the same; blocks."""
    with _told(), _empty(directory) as top:
        source = _Unzipped(read)
        reader = Reader(RULES, hashlib.sha256())
        events = reader.pull(source.read)
        tree = ImportedTree(_facts(events), max_bytes)
        policy = CargoPolicy(tree.admits, own=os.geteuid() == 0, depth=0, what="checkpoint")
        with contextlib.closing(Extractor(top, policy)) as extractor:
            _unpack(reader, events, extractor)
        _check_end(reader, events, source)
        _complete(top)
    return tree


def check(read: Callable[[int], bytes], max_bytes: int | None) -> "ImportedTree":
    """Read what `read` gives, and make nothing of it. Raises the same, also for a layout that no Bay writes,
    and for a checkpoint with a machine; blocks.
    """
    with _told():
        source = _Unzipped(read)
        seen = _Ends(source.read)
        reader = Reader(RULES, hashlib.sha256())
        events = reader.pull(seen.read)
        tree = ImportedTree(_facts(events), max_bytes)
        if tree.facts.persist != "workspace":
            raise BadRequest(
                "it has a root file system beside /workspace, which this Bay cannot keep; import it into a Bay on one "
                "box"
            )
        looker = _Looker(CargoPolicy(tree.admits, own=False, depth=0, what="checkpoint"))
        _unpack(reader, events, looker)
        _check_end(reader, events, source)
        if not looker.has_workspace:
            raise BadRequest(f"it has no {WORKSPACE}; it is not a checkpoint that Bay exported")
        seen.check()
    return tree


def _export(directory: Path) -> dict[str, object]:
    packer = pack(directory, Manifest.from_json(sys.stdin.buffer.read(LONGEST)), sys.stdout.buffer)
    sys.stdout.buffer.flush()
    return {"entries": packer.entries, "left_out": len(packer.left_out)}


def _import(directory: Path, max_bytes: int | None) -> dict[str, object]:
    return _said(unpack(partial(os.read, sys.stdin.fileno()), directory, max_bytes))


def _said(done: "ImportedTree") -> dict[str, object]:
    return {"facts": json.loads(done.facts.to_json()), "entries": done.entries, "bytes": done.bytes}


@contextlib.contextmanager
def _empty(directory: Path) -> Generator[int]:
    if os.listdir(directory):
        raise DriverUnavailable("the directory for the checkpoint is not empty")
    with closing(os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as top:
        yield top


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bay.cargo.export_process")
    acts = parser.add_subparsers(dest="act", required=True)
    acts.add_parser("export").add_argument("directory", type=Path)
    into, check_only = acts.add_parser("import"), acts.add_parser("check")
    into.add_argument("directory", type=Path)
    for one in (into, check_only):
        one.add_argument("--max-bytes", type=int, default=None)
    return parser


def _say(words: dict[str, object]) -> None:
    sys.stderr.write(json.dumps(words) + "\n")


@contextlib.contextmanager
def _told() -> Generator[None]:
    """Whatever can go wrong, as one of Bay's errors."""
    try:
        yield
    except (BadArchive, zstandard.ZstdError) as error:
        raise BadRequest(f"it is damaged, or not a checkpoint that Bay exported: {error}") from error
    except MemoryError as error:
        raise BadRequest("it has a directory or a file that needs more memory than allowed") from error
    except sqlite3.Error as error:  # where links are remembered
        why = f"no space for temporary files: {error}"
        raise DriverUnavailable(f"cannot transfer the checkpoint: {why}") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            message = "no space left for the files of the checkpoint; free space or raise the limit"
            raise StorageFull(message) from error
        raise DriverUnavailable(f"cannot transfer the checkpoint: {error.strerror or error}") from error


def _facts(events: Iterator[Event]) -> Manifest:
    first = next(events, None)
    if not isinstance(first, Member) or first.name != FACTS or first.kind != FILE or first.size > LONGEST:
        raise BadRequest(f"it does not begin with {FACTS}; it is not a checkpoint that Bay exported")
    return Manifest.from_json(_content(events, first))


def _content(events: Iterator[Event], member: Member) -> bytes:
    """The content of a small member, which came last."""
    content = b""
    while len(content) < member.data_bytes and isinstance(piece := next(events), Piece):
        content += piece.data
    return content


def _unpack(reader: Reader, events: Iterator[Event], extractor: "Extractor | _Looker") -> None:
    """Make everything before the digest, which has to be there, and right."""
    for event in events:
        if isinstance(event, Member) and event.name == DIGEST:
            expected = reader.digest_before.encode()
            if event.data_bytes != len(expected) or _content(events, event) != expected:
                raise BadRequest(f"it is damaged: its contents do not match its {DIGEST}")
            return extractor.finish()
        extractor.take(event)
    raise BadRequest(f"it is truncated: it has no {DIGEST}")


def _check_end(reader: Reader, events: Iterator[Event], source: "_Unzipped") -> None:
    """Nothing follows the digest but zeros, and not many."""
    if next(events, None) is not None:
        raise BadArchive(f"it has trailing data after its {DIGEST}")
    left = _MAX_ZEROS
    data = bytes(reader.rest)
    while data or (data := source.read(_PIECE)):
        left -= len(data)
        if any(data) or left < 0:
            raise BadArchive("it has trailing data after its end")
        data = b""
    source.check_end()


def _complete(top: int) -> None:
    """A checkpoint has a directory for each part, also for one that was not carried."""
    # Not by a list: btrfs lists what was there when the descriptor was opened, which was nothing.
    if not _has(top, WORKSPACE):
        raise BadRequest(f"it has no {WORKSPACE}; it is not a checkpoint that Bay exported")
    if not _has(top, MACHINE):
        os.mkdir(MACHINE, 0o700, dir_fd=top)


def _has(directory: int, name: str) -> bool:
    with contextlib.suppress(FileNotFoundError):
        os.stat(name, dir_fd=directory, follow_symlinks=False)
        return True
    return False


@dataclass(slots=True)
class ImportedTree:
    """Counts the content of a checkpoint and holds it to limits; `bytes` are of files, without holes."""

    facts: Manifest
    max_bytes: int | None
    entries: int = 0
    bytes: int = 0

    def admits(self, parts: Parts, member: Member) -> bool:
        self.entries += 1
        self.bytes += member.data_bytes
        if self.entries > MAX_ENTRIES:
            raise BadRequest(f"it has more than {MAX_ENTRIES} files and directories")
        if self.max_bytes is not None and self.bytes > self.max_bytes:
            raise StorageFull(f"its files have more than {self.max_bytes} bytes, the limit; raise the limit")
        carried = (WORKSPACE, MACHINE) if self.facts.persist == "machine" else (WORKSPACE,)
        return parts[0] in carried and (len(parts) > 1 or member.kind == DIRECTORY)


class _Looker:
    """In the place of an extractor: looks whether each member has a place."""

    def __init__(self, policy: CargoPolicy) -> None:
        self._policy = policy
        self.has_workspace = False

    def take(self, event: Event) -> None:
        if isinstance(event, Member):
            parts = self._policy.place(event)
            self.has_workspace |= parts == (WORKSPACE,)
            if len(parts) > _LEVELS:
                raise BadRequest(f"it is more than {_LEVELS - 3} directories deep")

    def finish(self) -> None:
        """Nothing is under way."""


class _Ends:
    """Hands on what is read, and remembers the first and last bytes of the tar."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read
        self._first = b""
        self._last = b""

    def read(self, size: int, /) -> bytes:
        data = self._read(size)
        self._first += data[: max(0, BLOCK - len(self._first))]
        self._last = (self._last + data)[-LAST_BYTES:]
        return data

    def check(self) -> None:
        """Raises BadArchive unless they are as Bay writes them, which whoever takes them off relies on."""
        facts_bytes(self._first)
        if not is_end(self._last):
            raise BadArchive("its end is not as Bay writes it")


def facts_bytes(first: bytes) -> int:
    """The bytes of the first member, by its first block. Raises BadArchive if Bay does not write it so."""
    try:
        size = int(first[124:135], 8)
    except ValueError:
        size = -1
    if size < 0 or first != header(FACTS, FILE, mode=0o600, size=size):
        raise BadArchive(f"its {FACTS} is not as Bay writes it")
    return BLOCK + size + len(padding(size))


def is_end(last: bytes) -> bool:
    """Whether these `LAST_BYTES` are those of a tar that Bay has written: its digest, and the end."""
    digest = last[BLOCK : BLOCK + 64]
    return last == header(DIGEST, FILE, mode=0o600, size=64) + digest + padding(64) + END


class _Hashed:
    """Hands on what is written, and remembers its digest."""

    def __init__(self, out: Writable) -> None:
        self._out = out
        self._seen = hashlib.sha256()

    def write(self, data: bytes, /) -> None:
        self._seen.update(data)
        self._out.write(data)

    def hexdigest(self) -> str:
        return self._seen.hexdigest()


class _Unzipped:
    """The bytes of `read`, decompressed a little at a time: two kilobytes can become sixty megabytes."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._source = read
        self._unzip = zstandard.ZstdDecompressor(max_window_size=_LARGEST_WINDOW).decompressobj()
        self._pending = memoryview(b"")
        self._ready = memoryview(b"")

    def read(self, size: int, /) -> bytes:
        while not self._ready and not self._unzip.eof and (piece := self._piece()):
            self._ready = memoryview(self._unzip.decompress(piece))
        given, self._ready = self._ready[:size], self._ready[size:]
        return bytes(given)

    def check_end(self) -> None:
        """Check that the decompressor saw its end and checksum, and that no data trails it."""
        if not self._unzip.eof:
            raise BadArchive("its last bytes are missing")
        if self._unzip.unused_data or self._pending or self._source(1):
            raise BadArchive("it has trailing data after its end")

    def _piece(self) -> memoryview:
        self._pending = self._pending or memoryview(self._source(_PIECE))
        piece, self._pending = self._pending[:_LITTLE], self._pending[_LITTLE:]
        return piece


if __name__ == "__main__":
    sys.exit(main())
