"""The reader parses a tar that comes piece by piece and that an attacker may have made.

It reads ustar, pax (POSIX.1-2001), GNU's long names and large numbers, and sparse files: GNU's old format,
and 0.1 and 1.0 of pax. `Rules` bound what it takes. Memory holds one header, its records and one sparse
map.
"""

from array import array
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import NamedTuple, Protocol

from tree_tar.headers import (
    BLOCK,
    BLOCK_DEVICE,
    CHARACTER,
    DIRECTORY,
    FIFO,
    FILE,
    LINK,
    NS,
    OTHER,
    SPARSE_MAJOR,
    SPARSE_MINOR,
    SPARSE_NAME,
    SPARSE_SIZE,
    SYMLINK,
    TYPEFLAGS,
    Segments,
    pairs,
)

_CHUNK = 64 * 1024  # the C library gives more back to the kernel each time, which costs more than reading
_MAGIC = b"ustar\x0000"
_KINDS = {**{flag: kind for kind, flag in TYPEFLAGS.items()}, b"\0": FILE, b"7": FILE}
_WITHOUT_CONTENT = (LINK, SYMLINK, FIFO, CHARACTER, BLOCK_DEVICE)
_EXTENSIONS = {b"x": "pax", b"X": "pax", b"g": "global", b"L": "path", b"K": "linkpath"}
_LARGEST = (1 << 63) - 1
_LONGEST_LINE = 20
_LONGEST_NUMBER, _LONGEST_TIME = 19, 12
_SPARSE_MAP, _SPARSE_SIZE = b"GNU.sparse.map", b"GNU.sparse.size"
_MAJOR, _MINOR = SPARSE_MAJOR.encode(), SPARSE_MINOR.encode()
_NAME, _REAL_SIZE = SPARSE_NAME.encode(), SPARSE_SIZE.encode()

Records = Mapping[bytes, bytes]


class BadArchive(ValueError):
    """The stream is no tar, breaks off, or exceeds a bound."""


class Hash(Protocol):
    def update(self, data: memoryview, /) -> None: ...
    def copy(self) -> "Hash": ...
    def hexdigest(self) -> str: ...


class Rules(NamedTuple):
    """The part of the format that a reader takes, and its bounds."""

    extension_bytes: int
    """Of one pax header or one long name."""
    extensions: int
    """Of one member."""
    segments: int
    """Of one sparse file, the empty one at its end included."""
    foreign: bool = True
    """Whether archives of other programs are taken: without magic, GNU's long names, global records, unknown
    kinds.
    """
    old_sparse: bool = True
    """Whether sparse formats before 1.0 are taken."""
    any_time: bool = False
    """Whether a malformed time in a pax record is ignored; else it is an error."""
    owners: bool = True
    """Whether owners are read, and malformed ones refused; else they are 0."""


class Member(NamedTuple):
    """The header of one member. `size` counts holes as well; `segments` say where the content belongs."""

    name: str
    kind: str
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int
    link: str
    device: tuple[int, int]
    records: Records
    segments: Segments

    @property
    def data_bytes(self) -> int:
        """The bytes of content that come for it."""
        return sum(self.segments[1::2])


class Piece(NamedTuple):
    """Content of the member that came last, and its offset in the file."""

    offset: int
    data: memoryview


Event = Member | Piece


class Reader:
    """A push parser: `feed` gives the members and pieces that the new bytes complete. It raises BadArchive.
    `seen` is updated with all bytes up to where the reader is.
    """

    def __init__(self, rules: Rules, seen: Hash | None = None) -> None:
        self.ended = False
        """Whether the end of the archive was read."""
        self._rules = rules
        self._seen = seen
        self._before = seen
        self._data = memoryview(b"")
        self._left = 0
        self._is_between = True
        self._events = self._parse()

    @property
    def is_between(self) -> bool:
        """Whether what was fed ends with a whole member: some programs leave out the archive's end."""
        return self._is_between

    @property
    def digest_before(self) -> str:
        """The hash of all bytes before the member that came last, in hex."""
        return self._before.hexdigest() if self._before else ""

    @property
    def rest(self) -> memoryview:
        """The bytes fed behind the end of the archive."""
        return self._data

    def feed(self, data: bytes | memoryview) -> Iterator[Event]:
        """Parse further bytes. Bytes after the end of the archive are ignored."""
        self._data = memoryview(data)
        for event in self._events:
            if event is None:
                return
            yield event

    def pull(self, read: Callable[[int], bytes]) -> Iterator[Event]:
        """Parse what `read` gives, up to as many bytes as asked for; no bytes mean that no more come."""
        while not self.ended:
            if not (data := read(_CHUNK)):
                raise BadArchive("it ends too early")
            yield from self.feed(data)

    def _parse(self) -> Generator[Event | None]:
        """None asks for more bytes."""
        while True:
            self._before = self._seen and self._seen.copy()
            if not self._data:
                yield None
            self._is_between = False
            block = yield from self._exactly(BLOCK)
            if not any(block):
                break
            records: dict[bytes, bytes] = {}
            for _ in range(self._rules.extensions):
                if not self._is_extension(block):
                    break
                yield from self._extension(block, records)
                block = yield from self._exactly(BLOCK)
            member = yield from self._member(block, records)
            yield member
            yield from self._content(member)
            self._is_between = True
        self.ended = True

    def _exactly(self, size: int) -> Generator[None, None, bytes]:
        found = bytearray()
        while len(found) < size:
            if not self._data:
                yield None
            found += self._take(size - len(found))
        return bytes(found)

    def _take(self, most: int) -> memoryview:
        taken, self._data = self._data[:most], self._data[most:]
        if self._seen:
            self._seen.update(taken)
        return taken

    def _skip(self, size: int) -> Generator[None]:
        while size:
            if not self._data:
                yield None
            size -= len(self._take(size))

    def _is_extension(self, block: bytes) -> bool:
        return block[156:157] in _EXTENSIONS if self._rules.foreign else block[156:157] == b"x"

    def _extension(self, block: bytes, records: dict[bytes, bytes]) -> Generator[None]:
        self._check(block)
        size = self._field(block, 124, 12)
        if not 0 <= size <= self._rules.extension_bytes:
            most = self._rules.extension_bytes
            raise BadArchive(f"it has a header of {size} bytes; {most} are taken at most")
        data = yield from self._exactly(size)
        yield from self._skip(-size % BLOCK)
        kind = _EXTENSIONS[block[156:157]]
        if kind == "pax":
            records.update(_split_records(data))
        elif kind != "global":
            records[kind.encode()] = data.partition(b"\0")[0]

    def _member(self, block: bytes, records: Records) -> Generator[None, None, Member]:
        self._check(block)
        name = _decoded(records.get(_NAME) or records.get(b"path") or _name(block))
        kind = self._kind(block, name)
        size = self._told(block, records, b"size", 124, 12)
        if size < 0:
            raise BadArchive(f"{name[:200]!r} has a size below zero")
        self._left = 0 if kind in _WITHOUT_CONTENT else size
        real, segments = 0, array("q")
        if kind == FILE:
            real, segments = yield from self._segments(block, records, size)
        is_device = kind in (CHARACTER, BLOCK_DEVICE)
        return Member(
            name=name,
            kind=kind,
            mode=self._field(block, 100, 8) & 0o7777,
            uid=self._told(block, records, b"uid", 108, 8) if self._rules.owners else 0,
            gid=self._told(block, records, b"gid", 116, 8) if self._rules.owners else 0,
            mtime_ns=self._time(block, records),
            size=real,
            link=_decoded(records.get(b"linkpath") or block[157:257].partition(b"\0")[0]),
            device=(self._field(block, 329, 8), self._field(block, 337, 8)) if is_device else (0, 0),
            records=records,
            segments=segments,
        )

    def _check(self, block: bytes) -> None:
        """Compare the checksum. Some programs add up signed bytes."""
        total = sum(block[:148]) + 8 * 32 + sum(block[156:])
        told = _octal(block[148:156])
        if told != total and not (self._rules.foreign and told == total - 256 * _high(block)):
            raise BadArchive("it is no tar, or a damaged one: the checksum of a header is wrong")
        if not self._rules.foreign and block[257:265] != _MAGIC:
            raise BadArchive("a header is not of the ustar format")

    def _kind(self, block: bytes, name: str) -> str:
        flag = block[156:157]
        kind = FILE if flag == b"S" and self._rules.old_sparse else _KINDS.get(flag, OTHER)
        if self._is_extension(block):
            raise BadArchive(f"it has more than {self._rules.extensions} headers for one member")
        if (kind == OTHER or flag == b"7") and not self._rules.foreign:
            raise BadArchive(f"{name[:200]!r} is of an unknown kind")
        return DIRECTORY if flag in b"0\0" and name.endswith("/") else kind

    def _field(self, block: bytes, at: int, size: int) -> int:
        field = block[at : at + size]
        return _base256(field) if self._rules.foreign and field[0] & 0x80 else _octal(field)

    def _told(self, block: bytes, records: Records, key: bytes, at: int, size: int) -> int:
        return _number(records[key]) if key in records else self._field(block, at, size)

    def _time(self, block: bytes, records: Records) -> int:
        told = records.get(b"mtime") or None  # an empty record takes its key back
        mtime_ns = None if told is None else _time(told)
        if told is not None and mtime_ns is None and not self._rules.any_time:
            raise BadArchive(f"a header is damaged: {told[:40]!r} is no time")
        return self._field(block, 136, 12) * NS if mtime_ns is None else mtime_ns

    def _segments(
        self, block: bytes, records: Records, size: int
    ) -> Generator[None, None, tuple[int, Segments]]:
        """The size of a file with its holes, and where its content belongs."""
        if block[156:157] == b"S":
            numbers = yield from self._old_map(block)
            real = self._field(block, 483, 12)
        elif records.get(_MAJOR) == b"1" and records.get(_MINOR, b"0") == b"0":
            real = _number(records.get(_REAL_SIZE, b""))
            numbers = yield from self._map(real)
        elif self._rules.old_sparse and _SPARSE_MAP in records:
            numbers = array("q", map(_number, filter(None, records[_SPARSE_MAP].split(b","))))
            real = _number(records.get(_SPARSE_SIZE, b""))
        elif any(key.startswith(b"GNU.sparse.") for key in records):
            raise BadArchive("it has a sparse file of an unknown format")
        else:
            return size, array("q", (0, size))
        _check_segments(numbers, real)
        if len(numbers) % 2:
            raise BadArchive("the map of a sparse file is damaged: it ends in the middle")
        if sum(numbers[1::2]) != self._left:
            raise BadArchive("the map of a sparse file is damaged: it has not the data that it names")
        return real, numbers

    def _map(self, real: int) -> Generator[None, None, Segments]:
        """The map of format 1.0: decimal numbers, a line each, the first of which counts the segments.
        Each block is checked as it comes: a few bytes, compressed, may be millions of empty segments.
        """
        found, wanted, rest = array("q"), None, b""
        while wanted is None or len(found) < wanted:
            if self._left < BLOCK or len(rest) > _LONGEST_LINE:
                raise BadArchive("the map of a sparse file is damaged: it has no end")
            self._left -= BLOCK
            *lines, rest = (rest + (yield from self._exactly(BLOCK))).split(b"\n")
            if wanted is None and lines:
                wanted = 2 * self._bounded(_number(lines.pop(0)))
            known = len(found)
            found.extend(map(_number, lines[: (wanted or 0) - known]))
            _check_segments(found, real, known // 2 * 2)
        return found

    def _old_map(self, block: bytes) -> Generator[None, None, Segments]:
        """The map of GNU's old format: four segments in the header, and further ones in blocks behind it."""
        numbers = self._old_segments(block[386:482])
        more = block[482]
        while more:
            further = yield from self._exactly(BLOCK)
            numbers += self._old_segments(further[:504])
            more = further[504]
            self._bounded(len(numbers) // 2)
        return numbers

    def _old_segments(self, fields: bytes) -> Segments:
        numbers = array("q")
        for at in range(0, len(fields), 24):
            if fields[at] == 0:
                break
            numbers.extend((self._field(fields, at, 12), self._field(fields, at + 12, 12)))
        return numbers

    def _bounded(self, count: int) -> int:
        if count > self._rules.segments:
            raise BadArchive(f"a sparse file has more than {self._rules.segments} segments of data")
        return count

    def _content(self, member: Member) -> Generator[Piece | None]:
        padding = -self._left % BLOCK
        for offset, length in pairs(member.segments):
            self._left -= length
            while length:
                if not self._data:
                    yield None
                if piece := self._take(length):
                    yield Piece(offset, piece)
                offset, length = offset + len(piece), length - len(piece)
        yield from self._skip(self._left + padding)


def _name(block: bytes) -> bytes:
    name = block[:100].partition(b"\0")[0]
    prefix = block[345:500].partition(b"\0")[0] if block[257:263] == _MAGIC[:6] else b""
    return prefix + b"/" + name if prefix else name


def _high(block: bytes) -> int:
    return sum(byte > 127 for byte in block[:148] + block[156:])


def _octal(field: bytes) -> int:
    digits = field.partition(b"\0")[0].strip()
    if digits.strip(b"01234567"):
        raise BadArchive("it is no tar, or a damaged one: a number in a header is malformed")
    return int(digits or b"0", 8)


def _base256(field: bytes) -> int:
    """GNU's large number: two's complement behind the first bit."""
    number = int.from_bytes(field, "big") & ~(1 << (8 * len(field) - 1))
    if field[0] & 0x40:
        number -= 1 << (8 * len(field) - 1)
    if abs(number) > _LARGEST:
        raise BadArchive("a number in a header is too large")
    return number


def _number(text: bytes) -> int:
    if not text.isdigit() or len(text) > _LONGEST_NUMBER or (number := int(text)) > _LARGEST:
        raise BadArchive(f"a header is damaged: {text[:40]!r} is no number that a file can have")
    return number


def _time(text: bytes) -> int | None:
    """Nanoseconds of a decimal number of seconds; None where it is none."""
    seconds, _, fraction = text.removeprefix(b"-").partition(b".")
    if not seconds.isdigit() or len(seconds) > _LONGEST_TIME or (fraction and not fraction.isdigit()):
        return None
    mtime_ns = int(seconds) * NS + int(fraction[:9].ljust(9, b"0"))
    return -mtime_ns if text.startswith(b"-") else mtime_ns


def _split_records(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The records `LENGTH KEY=VALUE\\n` of a pax header."""
    at = 0
    while at < len(data) and data[at]:
        space = data.find(b" ", at, at + 20)
        end = at + _number(data[at : max(space, at)])
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if not at < space < end <= len(data) or data[end - 1 : end] != b"\n" or not equals:
            raise BadArchive("a pax header is damaged")
        yield key, value
        at = end


def _check_segments(segments: Segments, real: int, first: int = 0) -> None:
    """Segments from the number `first` on are in order, within the size, and none follows an empty one."""
    end, was_empty = (sum(segments[first - 2 : first]), not segments[first - 1]) if first else (0, False)
    for offset, length in pairs(segments[first : len(segments) // 2 * 2]):
        if was_empty or offset < end or not 0 <= length <= real - offset:
            raise BadArchive("the map of a sparse file is damaged: it has data where none can be")
        end, was_empty = offset + length, not length


def _decoded(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")
