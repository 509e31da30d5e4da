"""The image of a session's memory: one directory of CRIU's files, and a manifest that makes it valid.

The manifest comes last and has the sizes and checksums of the files, the facts of the host that must be the
same at a restore, and what a restore needs to know. It is taken away before the processes run again, so no
image is ever started twice: without it, what is left of the directory is worthless. A checkpoint's image is
never started itself; each start has its own links to the files.

A mark beside the manifest says that all files that the processes need were on their disk. Then another boot
of the host is no difference. It is a file of its own, as a manifest that is written anew could come back
after it was taken away.

The files hold all that the session's programs knew. They are root's alone, and go with the session.
"""

import contextlib
import json
import os
import platform
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from bay.drivers.oci.criu import Clocks
from bay.drivers.oci.userns import IDS
from bay.linux import remove_tree
from bay.linux.processes import boot_id, closing_fd
from bay.linux.renames import sync_directory

_MANIFEST, _NEXT, _DURABLE = "manifest.json", "manifest.next", "durable"
_VERSION = 2
_CHUNK = 1 << 20
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NO_CLOCKS = Clocks(monotonic=0, boottime=0)
_USERNS_HEAD = 8  # two magic numbers, before each entry's size


class ImageUnusable(Exception):
    """A restore cannot use the image; the text says why, for owners."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """The facts of a host that must be the same when the memory is used again."""

    isolation: str
    program: str
    """CRIU or runsc, and its version."""
    kernel: str
    """Its release and its build: another build may have the same release."""
    machine: str
    boot: str
    """Files are not on their disk for certain after a crash of the host."""
    cpu_flags: int
    """A checksum of what /proc/cpuinfo lists."""

    def differences(self, other: "Fingerprint") -> list[str]:
        """The names of the facts in which `other` differs."""
        mine, its = asdict(self), asdict(other)
        return [name.replace("_", " ") for name in mine if mine[name] != its[name]]


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryManifest:
    """The facts that a restore needs beside CRIU's files."""

    fingerprint: Fingerprint
    closure: str
    """The name of Ship's closure, which its memory is made of."""
    external: dict[str, str] = field(default_factory=dict[str, str])
    """The keys of the mounts that the host made, by their mount points; for CRIU."""
    clocks: Clocks = _NO_CLOCKS
    """For CRIU: a sentry has its own."""
    token: str = field(repr=False)
    """The secret that the saved Ship shares with Bay."""
    rights: str
    """A digest of what the saved programs may do; see `kept_memory.rights_of`."""
    files: dict[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])
    """The size and the checksum of each of CRIU's files."""


def fingerprint(isolation: str, program: str) -> Fingerprint:
    """The facts of this host. Blocks."""
    with open("/proc/cpuinfo") as file:
        flags = next((line for line in file if line.startswith(("flags", "Features"))), "")
    return Fingerprint(
        isolation=isolation,
        program=program,
        kernel=f"{platform.release()} {platform.version()}",
        machine=platform.machine(),
        boot=boot_id(),
        cpu_flags=zlib.crc32(flags.encode()),
    )


@dataclass(frozen=True, slots=True)
class ImageDirectory:
    """The place of one session's image; there may be none."""

    path: Path

    @property
    def half_made(self) -> Path:
        """Where a `copy_to` this place is made first."""
        return self.path.with_name(f".{self.path.name}")

    @property
    def is_valid(self) -> bool:
        """Whether there is an image that was finished, and not taken since."""
        return (self.path / _MANIFEST).exists()

    @property
    def was_taken(self) -> bool:
        """Whether a restore of it began."""
        return self.path.exists() and not self.is_valid

    @property
    def is_durable(self) -> bool:
        """Whether it outlives a boot of the host, with the files that its processes need."""
        return (self.path / _DURABLE).exists()

    def size(self) -> int | None:
        """The bytes of the files of a valid image, as `finish` told them; None without one. Blocks."""
        try:
            return sum(file.stat().st_size for file in self._files()) if self.is_valid else None
        except FileNotFoundError:  # it is being removed
            return None

    def make(self, owner: int) -> None:
        """An empty one, for a dump by `owner`. Blocks; raises OSError."""
        self.remove()
        self.path.mkdir(mode=0o700)
        os.chown(self.path, owner, owner)

    def finish(self, manifest: MemoryManifest) -> int:
        """Make what a dump left valid, on disk; the bytes of its files. Blocks; raises OSError."""
        os.chown(self.path, 0, 0)
        for file in self.path.iterdir():  # also the logs
            os.chown(file, 0, 0)
            file.chmod(0o600)
        sums = {file.name: _sum_of(file) for file in self._files()}
        text = json.dumps({"version": _VERSION, **asdict(replace(manifest, files=sums))})
        _write(self.path / _NEXT, text)
        os.replace(self.path / _NEXT, self.path / _MANIFEST)
        sync_directory(self.path)
        return sum(size for size, _ in sums.values())

    def read(self, hosts: Mapping[str, Fingerprint]) -> MemoryManifest:
        """The manifest of an image that this host can use, if its files pass `check`: `hosts` are its facts
        for each isolation whose memory it can use. Raises ImageUnusable.
        """
        try:
            found: dict[str, Any] = json.loads((self.path / _MANIFEST).read_text())
            if found["version"] != _VERSION:
                raise ImageUnusable("another version of Bay saved it")
            saved = Fingerprint(**found["fingerprint"])
            if (host := hosts.get(saved.isolation)) is None:
                raise ImageUnusable(
                    f"this host cannot use memory of isolation {saved.isolation}; see `bay doctor`"
                )
            if self.is_durable:
                saved = replace(saved, boot=host.boot)
            if differing := saved.differences(host):
                raise ImageUnusable(f"this host differs from the one that saved it: {', '.join(differing)}")
            clocks = Clocks(**found["clocks"])
            return MemoryManifest(
                fingerprint=saved,
                closure=found["closure"],
                external=found["external"],
                clocks=clocks,
                token=found["token"],
                rights=found["rights"],
                files={name: (size, total) for name, (size, total) in found["files"].items()},
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ImageUnusable("it cannot be read") from error

    def check(self, files: Mapping[str, tuple[int, int]]) -> None:
        """Return once every file was read and is whole. Blocks; raises ImageUnusable."""
        try:
            altered = any(_sum_of(self.path / name) != expected for name, expected in files.items())
        except OSError as error:
            raise ImageUnusable("it cannot be read") from error
        if altered:
            raise ImageUnusable("it was altered, or cut short")

    def text(self) -> str:
        """The manifest, by which `mark_durable` knows this image again. Blocks; raises OSError."""
        return (self.path / _MANIFEST).read_text()

    def mark_durable(self, text: str) -> bool:
        """Note that all files that its processes need were on their disk after `text` had been read; whether
        it is still that image. Blocks; raises OSError.
        """
        try:
            directory = os.open(self.path, _DIRECTORY)
        except FileNotFoundError:
            return False
        with closing_fd(directory):
            if not _has(directory, text):
                return False
            try:
                os.close(os.open(_DURABLE, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600, dir_fd=directory))
            except FileNotFoundError:  # the directory was removed
                return False
            if not _has(directory, text):  # it was taken meanwhile, by one that may not have seen the mark
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(_DURABLE, dir_fd=directory)
                return False
            return True

    def take(self) -> None:
        """No later restore may use it. Blocks; raises OSError."""
        (self.path / _MANIFEST).unlink()
        if self.is_durable:  # else a crash of the host could bring the manifest back
            sync_directory(self.path)

    def keep_as(self, other: "ImageDirectory") -> None:
        """Move it there whole, on disk. Blocks; raises OSError."""
        self.path.rename(other.path)
        for parent in (other.path.parent, self.path.parent):
            sync_directory(parent)

    def copy_to(self, other: "ImageDirectory") -> int:
        """Give `other` the same valid image, by links to files that neither of them changes; their bytes. The
        copy outlives no boot: what else its processes need may have been written just now. Blocks; raises
        OSError.
        """
        making = other.half_made
        if making.exists():
            remove_tree.remove_now(making)
        making.mkdir(mode=0o700)
        size = 0
        for file in self._files():
            os.link(file, making / file.name)
            size += file.stat().st_size
        if self.is_durable:
            _write(making / _MANIFEST, _of_this_boot(self.text()))
        else:
            os.link(self.path / _MANIFEST, making / _MANIFEST)
        making.rename(other.path)
        sync_directory(other.path.parent)
        return size

    def forget(self) -> None:
        """The session runs on: its image, if there is one, shows the past. Blocks; raises OSError."""
        with contextlib.suppress(FileNotFoundError):
            self.take()

    def remove(self) -> None:
        """Remove it whole; its validity first. Blocks; raises OSError."""
        self.forget()
        if self.path.exists():
            remove_tree.remove_now(self.path)

    def give_to(self, id_base: int) -> None:
        """Let the id `id_base` read it, and have the restored processes be in the range that begins there.
        Blocks; raises OSError.
        """
        os.chown(self.path, id_base, id_base)  # it alone opens the way to the files, which others may link
        for file in self._files():
            file.chmod(0o444)
        for file in self.path.glob("userns-*.img"):
            head = file.read_bytes()[:_USERNS_HEAD]
            entry = _user_namespace(id_base)
            file.unlink()
            file.write_bytes(head + struct.pack("<I", len(entry)) + entry)
            file.chmod(0o444)

    def _files(self) -> Iterator[Path]:
        return (file for file in self.path.iterdir() if file.suffix == ".img" or file.name.endswith(".gz"))


def _write(file: Path, text: str) -> None:
    """Write a file for root alone, on disk."""
    with closing_fd(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)) as fd:
        os.write(fd, text.encode())
        os.fsync(fd)


def _has(directory: int, text: str) -> bool:
    """Whether the open directory has that manifest."""
    try:
        with open(os.open(_MANIFEST, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)) as file:
            return file.read() == text
    except FileNotFoundError:
        return False


def _of_this_boot(text: str) -> str:
    found: dict[str, Any] = json.loads(text)
    return json.dumps({**found, "fingerprint": {**found["fingerprint"], "boot": boot_id()}})


def _sum_of(file: Path) -> tuple[int, int]:
    total = size = 0
    with file.open("rb") as opened:
        while data := opened.read(_CHUNK):
            total = zlib.crc32(data, total)
            size += len(data)
    return size, total


def _user_namespace(id_base: int) -> bytes:
    """UsernsEntry of CRIU's images/userns.proto: one extent of users, and the same of groups."""
    extent = b"".join(
        bytes((field << 3,)) + _varint(value) for field, value in ((1, 0), (2, id_base), (3, IDS))
    )
    return b"".join(bytes((field << 3 | 2,)) + _varint(len(extent)) + extent for field in (1, 2))


def _varint(value: int) -> bytes:
    """A number in base 128, lowest digits first, as protobuf writes it."""
    digits = bytearray()
    while value > 0x7F:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    digits.append(value)
    return bytes(digits)
