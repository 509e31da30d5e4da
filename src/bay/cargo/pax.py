"""A tar reader that takes only Bay's own form: plain members, pax records, GNU's sparse files 1.0.

An archive is untrusted input, so every number has a bound, nothing is read twice or kept, and an unknown form
is an error. Rejected: `tarfile`, which reads extensions of any length into memory, recurses for each of them,
loops for ever on a negative size, and remembers all members.
"""

import hashlib
import re
import tarfile
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Protocol
from urllib.parse import quote, unquote_to_bytes

BLOCK = tarfile.BLOCKSIZE
XATTR = "SCHILY.xattr."
_MAGIC = b"ustar\x0000"
_KINDS = tuple(b"%d" % kind for kind in range(7))
_EXTENSION = b"x"
_MOST_RECORDS = 4 << 20
MOST_PIECES = 1 << 20
"""Pieces of one sparse file, without the empty one at its end: a bound on an export's memory and time."""
_LONGEST_LINE = 20
_MOST_ZEROS = 1 << 20
_LARGEST = (1 << 63) - 1
_NUMBER = re.compile(rb"[0-9]{1,19}")
_TIME = re.compile(rb"(-?)([0-9]{1,12})(?:\.([0-9]{1,9})[0-9]*)?")
_PLAIN = "".join(chr(c) for c in range(33, 127) if chr(c) not in "%=")


class Readable(Protocol):
    """Where a tar comes from.

    Fewer bytes than asked for mean that there are more; none, that there are not.
    """

    def read(self, size: int, /) -> bytes: ...


class Damaged(Exception):
    """It is no tar, or none that Bay writes. The words say where."""


@dataclass(frozen=True, slots=True)
class Member:
    """One member.

    `segments` are where a file has data, as offset, length, offset, length …; `size` counts the holes as
    well.
    """

    name: str
    kind: bytes
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int
    linkname: str
    device: tuple[int, int]
    xattrs: dict[str, bytes] = field(default_factory=dict[str, bytes])
    segments: "array[int]" = field(default_factory=lambda: array("q"))

    def is_file(self) -> bool:
        return self.kind == tarfile.REGTYPE

    def is_directory(self) -> bool:
        return self.kind == tarfile.DIRTYPE

    def is_whiteout(self) -> bool:
        """Whether it is an overlay's whiteout. It opens nothing, so any user may make one."""
        return self.kind == tarfile.CHRTYPE and self.device == (0, 0)

    def pairs(self) -> Iterator[tuple[int, int]]:
        numbers = iter(self.segments)
        return zip(numbers, numbers, strict=True)


class Reader:
    """Reads `source` from the beginning, in order.

    Everything here raises Damaged, and whatever the source raises.
    """

    def __init__(self, source: Readable) -> None:
        self._source = source
        self._seen = hashlib.sha256()
        self._before = self._seen.copy()
        self._content = 0
        self._padding = 0

    @property
    def digest_before(self) -> str:
        """The SHA-256, in hex, of all that was before the member that `next` gave last."""
        return self._before.hexdigest()

    def next(self) -> Member | None:
        """The next member; None at the end. An unread rest of the last one is skipped."""
        self._pass_over()
        self._before = self._seen.copy()
        block = self._exactly(BLOCK)
        if not any(block):
            return None
        records: dict[bytes, bytes] = {}
        if block[156:157] == _EXTENSION:
            records = self._records(_header(block))
            block = self._exactly(BLOCK)
        return self._member(_header(block), records)

    def read(self, size: int) -> bytes:
        """Up to `size` bytes of the member's content; none at its end."""
        data = self._exactly(min(size, self._content))
        self._content -= len(data)
        return data

    def finish(self) -> None:
        """Read what is left: nothing but zeros, and not many."""
        left = _MOST_ZEROS
        while data := self._source.read(1 << 16):
            left -= len(data)
            if any(data) or left < 0:
                raise Damaged("it has trailing data after its end")

    def _pass_over(self) -> None:
        while self._content:
            self.read(1 << 16)
        self._exactly(self._padding)
        self._padding = 0

    def _exactly(self, size: int) -> bytes:
        parts: list[bytes] = []
        while size:
            data = self._source.read(min(size, 1 << 20))
            if not data:
                raise Damaged("it ends too early")
            self._seen.update(data)
            parts.append(data)
            size -= len(data)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _records(self, header: Member) -> dict[bytes, bytes]:
        if header.size > _MOST_RECORDS:
            raise Damaged(f"what {header.name!r} says of the next member is too long")
        self._open(header.size)
        found = dict(_split_records(self.read(header.size)))
        self._pass_over()
        return found

    def _member(self, header: Member, records: dict[bytes, bytes]) -> Member:
        if header.kind not in _KINDS:
            raise Damaged(f"{header.name!r} is of a kind unknown")
        member = _amended(header, records)
        self._open(member.size if member.is_file() else 0)
        if not member.is_file():
            return member
        if b"GNU.sparse.major" in records:
            return self._sparse(member, records)
        return replace(member, segments=array("q", (0, member.size)))

    def _open(self, size: int) -> None:
        self._content, self._padding = size, -size % BLOCK

    def _sparse(self, member: Member, records: dict[bytes, bytes]) -> Member:
        version = records[b"GNU.sparse.major"], records.get(b"GNU.sparse.minor")
        if version != (b"1", b"0"):
            raise Damaged(f"{member.name!r} is sparse in a way unknown")
        real = _number(records.get(b"GNU.sparse.realsize", b""))
        segments = self._map(member.name, real)
        found = replace(member, size=real, segments=segments)
        if sum(segments[1::2]) != self._content:
            raise Damaged(f"{member.name!r} has not the data that it says")
        return found

    def _map(self, name: str, real: int) -> "array[int]":
        """The extents of a sparse file: decimal numbers, a line each, of which the first is their count.

        Each piece is looked at as it comes: a few bytes, compressed, may be millions of pieces that are none.
        """
        lines = self._lines(name)
        count, end = next(lines), 0
        if count > MOST_PIECES + 1:
            raise Damaged(f"{name!r} has more than {MOST_PIECES} pieces of data")
        found = array("q")
        for left in reversed(range(count)):
            offset, length = next(lines), next(lines)
            if offset < end or length > real - offset or (left and not length):
                raise Damaged(f"{name!r} has data where it cannot be")
            end = offset + length
            found.extend((offset, length))
        return found

    def _lines(self, name: str) -> Iterator[int]:
        rest = b""
        while len(rest) <= _LONGEST_LINE and len(block := self.read(BLOCK)) == BLOCK:
            *lines, rest = (rest + block).split(b"\n")
            yield from map(_number, lines)
        raise Damaged(f"{name!r} has no end of the list of its data")


def xattr_key(name: str) -> str:
    """The key of a pax record for the extended attribute `name`, whatever bytes are in that."""
    return XATTR + quote(name, safe=_PLAIN, errors="surrogateescape")


def _header(block: bytes) -> Member:
    if block[257:265] != _MAGIC or _octal(block[148:156]) != sum(block[:148]) + 8 * 32 + sum(block[156:]):
        raise Damaged("a header is none")
    prefix, name = _text(block[345:500]), _text(block[:100])
    kind = block[156:157].replace(b"\0", b"0")
    return Member(
        name=f"{prefix}/{name}" if prefix else name,
        kind=kind,
        mode=_octal(block[100:108]),
        uid=_octal(block[108:116]),
        gid=_octal(block[116:124]),
        size=_octal(block[124:136]),
        mtime_ns=_octal(block[136:148]) * 10**9,
        linkname=_text(block[157:257]),
        device=(_octal(block[329:337]), _octal(block[337:345])),
    )


def _amended(member: Member, records: dict[bytes, bytes]) -> Member:
    """The member with what its pax records say in place of what its header has no room for."""
    name, link = records.get(b"path"), records.get(b"linkpath")
    return replace(
        member,
        name=(member.name if name is None else _decoded(name)).removesuffix("/"),
        linkname=member.linkname if link is None else _decoded(link),
        uid=_number(records.get(b"uid", b"%d" % member.uid)),
        gid=_number(records.get(b"gid", b"%d" % member.gid)),
        size=_number(records.get(b"size", b"%d" % member.size)),
        mtime_ns=_time(when) if (when := records.get(b"mtime")) else member.mtime_ns,
        xattrs=dict(_xattrs(records)),
    )


def _xattrs(records: dict[bytes, bytes]) -> Iterator[tuple[str, bytes]]:
    prefix = XATTR.encode()
    for key, value in records.items():
        if key.startswith(prefix):
            yield _decoded(unquote_to_bytes(key.removeprefix(prefix))), value


def _split_records(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 20)
        end = at + _number(data[at : max(space, at)])
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if not at < space < end <= len(data) or data[end - 1 : end] != b"\n" or not equals:
            raise Damaged("what it says of a member cannot be read")
        yield key, value
        at = end


def _octal(raw: bytes) -> int:
    digits = raw.strip(b"\0 ")
    if digits.strip(b"01234567"):
        raise Damaged("a header has a number that is none")
    return int(digits or b"0", 8)


def _number(raw: bytes) -> int:
    if not _NUMBER.fullmatch(raw) or (number := int(raw)) > _LARGEST:
        raise Damaged(f"{raw[:40]!r} is no number that a file can have")
    return number


def _time(raw: bytes) -> int:
    if not (found := _TIME.fullmatch(raw)):
        raise Damaged(f"{raw[:40]!r} is no time")
    sign, seconds, fraction = found.groups()
    nanoseconds = int(seconds) * 10**9 + int((fraction or b"").ljust(9, b"0"))
    return -nanoseconds if sign else nanoseconds


def _text(raw: bytes) -> str:
    return _decoded(raw.partition(b"\0")[0])


def _decoded(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")
