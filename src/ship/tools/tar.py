"""The tar format, as much of it as a tree needs, read from a stream that an enemy may have made.

Read: ustar, pax (POSIX.1-2001), GNU's long names, large numbers and holes (its old format, and 0.1 and 1.0 of pax). Written: ustar with pax
headers where it does not suffice. Not `tarfile`: it keeps a header of any size in memory, and takes long to load.
"""

import stat
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

BLOCK = 512
FILE, LINK, SYMLINK, DIRECTORY, FIFO, OTHER = "file", "link", "symlink", "directory", "fifo", "other"

_MOST_HEADER = 1 << 20
_MOST_HEADERS = 8
_MOST_SEGMENTS = 100_000
_KINDS = {
    b"0": FILE, b"\0": FILE, b"7": FILE, b"S": FILE, b"1": LINK, b"2": SYMLINK, b"5": DIRECTORY, b"6": FIFO,
}  # fmt: skip
_LARGEST = (1 << 63) - 1
_NS = 1_000_000_000

Segment = tuple[int, int]


class BadArchive(ValueError):
    """What came is no tar, or not whole, or more than anybody needs."""


class Member(NamedTuple):
    """One entry. `segments` are where the content belongs in a file of `size` bytes, `stored` what of it comes in the stream."""

    name: bytes
    kind: str
    mode: int
    mtime_ns: int
    size: int
    link: bytes
    segments: tuple[Segment, ...]
    stored: int


class Reader:
    """The members of a tar. `read` gives that many bytes, fewer only at the end of the stream."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read
        self._left = 0
        self._padding = 0

    def members(self) -> Iterator[Member]:
        """Each member, whose content may be read until the next is asked for. Raises BadArchive."""
        while (member := self._next()) is not None:
            yield member

    def content(self, size: int) -> bytes:
        """Up to `size` bytes of the content of the member that was given last. Raises BadArchive when the stream ends before."""
        data = self._exactly(min(size, self._left))
        self._left -= len(data)
        return data

    def _next(self) -> Member | None:
        self._skip(self._left + self._padding)
        told: dict[str, bytes] = {}
        for _ in range(_MOST_HEADERS):
            header = self._exactly(BLOCK)
            if header == bytes(BLOCK):
                return None
            _check_sum(header)
            size = _number(header[124:136])
            if size < 0:
                raise BadArchive("a size is less than nothing")
            kind = header[156:157]
            if kind in (b"x", b"g", b"L", b"K"):
                self._take_header(kind, size, told)
                continue
            return self._member(header, kind, size, told)
        raise BadArchive("a member has too many headers")

    def _take_header(self, kind: bytes, size: int, told: dict[str, bytes]) -> None:
        if size > _MOST_HEADER:
            raise BadArchive(f"a header has more than {_MOST_HEADER} bytes")
        data = self._exactly(size)
        self._skip(-size % BLOCK)
        if kind == b"x":
            told.update(_pax(data))
        elif kind in (b"L", b"K"):
            told["path" if kind == b"L" else "linkpath"] = data.split(b"\0", 1)[0]

    def _member(self, header: bytes, kind: bytes, size: int, told: Mapping[str, bytes]) -> Member:
        if "size" in told:
            size = _decimal(told["size"])
        name = told.get("GNU.sparse.name") or told.get("path") or _name(header)
        found = _KINDS.get(kind, OTHER)
        if found == FILE and kind in (b"0", b"\0") and name.endswith(b"/"):
            found = DIRECTORY
        stored = 0 if found in (LINK, SYMLINK, FIFO) else size
        self._left, self._padding = stored, -stored % BLOCK
        real, segments = self._segments(header, kind, size, told) if found == FILE else (0, ())
        mtime = _time(told["mtime"]) if "mtime" in told else _number(header[136:148]) * _NS
        return Member(
            name=name,
            kind=found,
            mode=_number(header[100:108]) & 0o7777,
            mtime_ns=mtime,
            size=real,
            link=told.get("linkpath") or header[157:257].split(b"\0", 1)[0],
            segments=segments,
            stored=self._left,
        )

    def _segments(
        self, header: bytes, kind: bytes, size: int, told: Mapping[str, bytes]
    ) -> tuple[int, tuple[Segment, ...]]:
        if kind == b"S":
            numbers, real = self._old_map(header), _number(header[483:495])
        elif "GNU.sparse.map" in told:
            numbers = [_decimal(part) for part in told["GNU.sparse.map"].split(b",") if part]
            real = _decimal(told.get("GNU.sparse.size", b""))
        elif told.get("GNU.sparse.major") == b"1":
            numbers, real = self._new_map(), _decimal(told.get("GNU.sparse.realsize", b""))
        elif any(name.startswith("GNU.sparse") for name in told):
            raise BadArchive("a file's holes are told in a way that is not known here")
        else:
            return size, ((0, size),)
        if len(numbers) % 2:
            raise BadArchive("a list of holes ends in the middle")
        return real, _checked(list(zip(numbers[::2], numbers[1::2], strict=True)), real, self._left)

    def _old_map(self, header: bytes) -> list[int]:
        numbers = _pairs(header[386:482])
        more = header[482]
        while more:
            block = self._exactly(BLOCK)
            numbers += _pairs(block[:504])
            more = block[504]
            if len(numbers) > 2 * _MOST_SEGMENTS:
                raise BadArchive("a file has too many holes")
        return numbers

    def _new_map(self) -> list[int]:
        """Decimal numbers, a line each, at the beginning of the content: how many pairs, and the pairs."""
        text = self.content(BLOCK)
        wanted = 1 + 2 * _decimal(text.split(b"\n", 1)[0])
        if wanted > 2 * _MOST_SEGMENTS:
            raise BadArchive("a file has too many holes")
        while text.count(b"\n") < wanted:
            if not (more := self.content(BLOCK)):
                raise BadArchive("a list of holes has no end")
            text += more
        return [_decimal(line) for line in text.split(b"\n")[1:wanted]]

    def _exactly(self, size: int) -> bytes:
        data = self._read(size)
        if len(data) != size:
            raise BadArchive("it ends too early")
        return data

    def _skip(self, size: int) -> None:
        while size:
            size -= len(self._exactly(min(size, 1 << 16)))
        self._left = self._padding = 0


def header(
    name: bytes, facts_mode: int, ids: tuple[int, int], mtime_ns: int, kind: bytes, size: int = 0,
    link: bytes = b"", more: Mapping[str, bytes] | None = None,
) -> bytes:  # fmt: skip
    """A member's header, with a pax header before it where it needs one."""
    told = dict(more or {})
    if len(name) > 100:
        told["path"] = name
    if len(link) > 100:
        told["linkpath"] = link
    if mtime_ns % _NS or not 0 <= mtime_ns < _NS << 33:
        told["mtime"] = b"%b%d.%09d" % (b"-" if mtime_ns < 0 else b"", *divmod(abs(mtime_ns), _NS))
    for key, value in (("size", size), ("uid", ids[0]), ("gid", ids[1])):
        if value >= 8 ** (11 if key == "size" else 7):
            told[key] = b"%d" % value
    numbers = (stat.S_IMODE(facts_mode), *ids, size, max(0, mtime_ns) // _NS)
    before = b""
    if told:
        data = _encoded_pax(told)
        before = _block(b"././@PaxHeader", (0o644, 0, 0, len(data), 0), b"x", b"") + _padded(data)
    return before + _block(name, numbers, kind, link)


def _block(name: bytes, numbers: tuple[int, int, int, int, int], kind: bytes, link: bytes) -> bytes:
    mode, uid, gid, size, mtime = numbers
    fields = (
        name[:100].ljust(100, b"\0"),
        b"%07o\0%07o\0%07o\0" % (mode, uid % 8**7, gid % 8**7),
        b"%011o\0%011o\0" % (size % 8**11, mtime % 8**11),
        b" " * 8,
        kind,
        link[:100].ljust(100, b"\0"),
        b"ustar\x0000",
    )
    block = b"".join(fields).ljust(BLOCK, b"\0")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def _encoded_pax(told: Mapping[str, bytes]) -> bytes:
    records = [_record(key.encode(), value) for key, value in told.items()]
    if any(not _is_utf8(value) for value in told.values()):
        records.insert(0, _record(b"hdrcharset", b"BINARY"))
    return b"".join(records)


def _record(key: bytes, value: bytes) -> bytes:
    rest = b" %b=%b\n" % (key, value)
    size = len(rest) + 1
    while len(b"%d" % size) + len(rest) != size:
        size = len(b"%d" % size) + len(rest)
    return b"%d" % size + rest


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _check_sum(block: bytes) -> None:
    told = block[148:156].split(b"\0", 1)[0].strip()
    around = block[:148] + b" " * 8 + block[156:]
    unsigned = sum(around)
    if _octal(told) not in (unsigned, unsigned - 256 * sum(byte > 127 for byte in around)):
        raise BadArchive("this is no tar, or a damaged one")


def _name(block: bytes) -> bytes:
    name = block[:100].split(b"\0", 1)[0]
    prefix = block[345:500].split(b"\0", 1)[0] if block[257:263] == b"ustar\0" else b""
    return prefix + b"/" + name if prefix else name


def _number(field: bytes) -> int:
    if field[0] & 0x80:  # GNU: what is behind the first bit, in two's complement
        number = int.from_bytes(field, "big") & ~(1 << (8 * len(field) - 1))
        if field[0] & 0x40:
            number -= 1 << (8 * len(field) - 1)
        if abs(number) > _LARGEST:
            raise BadArchive("a number is too large")
        return number
    return _octal(field.split(b"\0", 1)[0].strip())


def _octal(text: bytes) -> int:
    try:
        number = int(text or b"0", 8)
    except ValueError as error:
        raise BadArchive("this is no tar, or a damaged one") from error
    if number < 0:
        raise BadArchive("this is no tar, or a damaged one")
    return number


def _decimal(text: bytes) -> int:
    if not text.isdigit() or len(text) > 19 or int(text) > _LARGEST:
        raise BadArchive("a number in a header is none")
    return int(text)


def _time(text: bytes) -> int:
    whole, _, part = text.removeprefix(b"-").partition(b".")
    number = _decimal(whole or b"0") * _NS + _decimal((part[:9].ljust(9, b"0")) if part else b"0")
    return -number if text.startswith(b"-") else number


def _pax(data: bytes) -> dict[str, bytes]:
    told: dict[str, bytes] = {}
    at = 0
    while at < len(data) and data[at]:
        space = data.find(b" ", at, at + 20)
        if space < 0:
            raise BadArchive("a header is not well-formed")
        size = _decimal(data[at:space])
        record = data[space + 1 : at + size]
        key, equals, value = record[:-1].partition(b"=")
        if size <= space + 1 - at or at + size > len(data) or not equals or record[-1:] != b"\n":
            raise BadArchive("a header is not well-formed")
        told[key.decode("utf-8", "replace")] = value
        at += size
    return told


def _pairs(fields: bytes) -> list[int]:
    numbers: list[int] = []
    for at in range(0, len(fields) - 23, 24):
        if fields[at] == 0:
            break
        numbers += [_number(fields[at : at + 12]), _number(fields[at + 12 : at + 24])]
    return numbers


def _checked(segments: list[Segment], real: int, stored: int) -> tuple[Segment, ...]:
    end = total = 0
    for offset, length in segments:
        if length < 0 or offset < end:
            raise BadArchive("a file's holes are not where they can be")
        end = offset + length
        total += length
    if real < 0 or end > real or total > stored:
        raise BadArchive("a file's holes are not where they can be")
    return tuple(segments)
