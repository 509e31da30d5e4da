"""Writes headers of the tar format: ustar, with pax records (POSIX.1-2001) where ustar has no room.

The bytes are those that `tarfile` writes with PAX_FORMAT, without the time that it takes to be imported.
"""

import os
import stat
from array import array
from collections.abc import Iterator, Mapping
from typing import TypeAlias

BLOCK = 512
END = bytes(2 * BLOCK)
FILE, LINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO, OTHER = (
    "file", "link", "symlink", "character device", "block device", "directory", "fifo", "other",
)  # fmt: skip
TYPEFLAGS = {
    FILE: b"0", LINK: b"1", SYMLINK: b"2", CHARACTER: b"3", BLOCK_DEVICE: b"4", DIRECTORY: b"5", FIFO: b"6",
}  # fmt: skip
NS = 1_000_000_000
SPARSE_MAJOR, SPARSE_MINOR, SPARSE_NAME, SPARSE_SIZE = (
    "GNU.sparse.major", "GNU.sparse.minor", "GNU.sparse.name", "GNU.sparse.realsize",
)  # fmt: skip

Segments: TypeAlias = "array[int]"
"""Where a file has data: offset, length, offset, length …"""

_KINDS = {
    stat.S_IFREG: FILE, stat.S_IFLNK: SYMLINK, stat.S_IFCHR: CHARACTER, stat.S_IFDIR: DIRECTORY, stat.S_IFIFO: FIFO,
}  # fmt: skip
_PAX_NAME = "././@PaxHeader"
_MAGIC = b"ustar\x0000".ljust(72, b"\0")
_DEVICE = b"0000000\0" * 2
_TEXT_BYTES = 100
_ID_LIMIT, _SIZE_LIMIT = 8**7, 8**11


def header(
    name: str,
    kind: str,
    *,
    mode: int = 0,
    ids: tuple[int, int] = (0, 0),
    mtime_ns: int = 0,
    size: int = 0,
    link: str = "",
    records: Mapping[str, str] | None = None,
) -> bytes:
    """The header of a member, with a pax header before it where a value does not fit.
    Names may hold surrogates, which stand for bytes that are not UTF-8. A device has the numbers 0, 0.
    """
    name = name + "/" if kind == DIRECTORY and not name.endswith("/") else name
    told = _records(name, link, ids, mtime_ns, size, records)
    block = _block(name, TYPEFLAGS[kind], (mode, *ids, size, mtime_ns // NS), link)
    return _pax_header(told) + block if told else block


def header_of(
    name: str,
    facts: os.stat_result,
    *,
    kind: str | None = None,
    size: int = 0,
    link: str = "",
    records: Mapping[str, str] | None = None,
) -> bytes:
    """The header of a member with the mode, owner, time and, unless it is given, kind that stat found."""
    return header(
        name,
        kind or _KINDS[stat.S_IFMT(facts.st_mode)],
        mode=facts.st_mode,
        ids=(facts.st_uid, facts.st_gid),
        mtime_ns=facts.st_mtime_ns,
        size=size,
        link=link,
        records=records,
    )


def pairs(segments: Segments) -> Iterator[tuple[int, int]]:
    """The offset and the length of each segment."""
    numbers = iter(segments)
    return zip(numbers, numbers, strict=True)


def padding(size: int) -> bytes:
    """The zeros that fill up content of `size` bytes to whole blocks."""
    return bytes(-size % BLOCK)


def _records(
    name: str, link: str, ids: tuple[int, int], mtime_ns: int, size: int, records: Mapping[str, str] | None
) -> dict[str, str]:
    told: dict[str, str] = {}
    if mtime_ns % NS or not 0 <= mtime_ns < _SIZE_LIMIT * NS:
        seconds, fraction = divmod(abs(mtime_ns), NS)
        told["mtime"] = f"{'-' if mtime_ns < 0 else ''}{seconds}.{fraction:09}"
    if records:
        told.update(records)
    if len(name) > _TEXT_BYTES or not name.isascii():
        told["path"] = name
    if len(link) > _TEXT_BYTES or not link.isascii():
        told["linkpath"] = link
    for key, number, limit in (
        ("uid", ids[0], _ID_LIMIT),
        ("gid", ids[1], _ID_LIMIT),
        ("size", size, _SIZE_LIMIT),
    ):
        if number >= limit:
            told[key] = str(number)
    return told


def _pax_header(told: Mapping[str, str]) -> bytes:
    data = b"".join([_record(key, value.encode("utf-8", "surrogateescape")) for key, value in told.items()])
    if not _is_utf8("".join(told.values())):
        data = _record("hdrcharset", b"BINARY") + data
    return _block(_PAX_NAME, b"x", (0, 0, 0, len(data), 0), "") + data + padding(len(data))


def _record(key: str, value: bytes) -> bytes:
    """A pax record: its length in decimal, which counts itself, the key and the value."""
    rest = b" %b=%b\n" % (key.encode(), value)
    size = len(rest) + len(str(len(rest)))
    return b"%d%b" % (len(rest) + len(str(size)), rest)


def _block(name: str, typeflag: bytes, numbers: tuple[int, ...], link: str) -> bytes:
    """A number that does not fit is 0 here: a pax record has it."""
    mode, uid, gid, size, mtime = numbers
    head = b"%b%07o\0%07o\0%07o\0%011o\0%011o\0        %b%b%b%b" % (
        _text(name),
        mode & 0o7777,
        uid if uid < _ID_LIMIT else 0,
        gid if gid < _ID_LIMIT else 0,
        size if size < _SIZE_LIMIT else 0,
        mtime if 0 <= mtime < _SIZE_LIMIT else 0,
        typeflag,
        _text(link),
        _MAGIC,
        _DEVICE if typeflag == b"3" else b"",
    )
    return b"%b%06o\0%b" % (head[:148], sum(head), head[155:].ljust(BLOCK - 155, b"\0"))


def _text(text: str) -> bytes:
    return text.encode("ascii", "replace")[:_TEXT_BYTES].ljust(_TEXT_BYTES, b"\0")


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
