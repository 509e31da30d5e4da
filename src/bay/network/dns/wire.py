"""Reads sandboxes' DNS questions and writes the replies (RFC 1035 4, EDNS 6891, extended errors 8914).

dnspython reads responses. A question is one name without compression and one OPT record; a cached
answer costs a fraction, as only TTLs differ from the last time. A test compares this reader with dnspython's.
"""

import string
import struct
from dataclasses import dataclass
from typing import Final

QR, AA, TC, RD, RA, CD = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080, 0x0010
OPCODE = 0x7800
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = range(6)

A, NS, CNAME, SOA, PTR, MX, TXT, AAAA, SRV = 1, 2, 5, 6, 12, 15, 16, 28, 33
OPT, SVCB, HTTPS, CAA = 41, 64, 65, 257
IN = 1

UDP_BYTES = 1232
"""The datagram size that fits into one packet on every path (DNS Flag Day 2020)."""
PLAIN_UDP_BYTES = 512
STREAM_BYTES = 65_535
NAME_BYTES = 255

OTHER_ERROR, BLOCKED, NO_AUTHORITY = 0, 15, 22
"""Codes of RFC 8914, sent to clients that speak EDNS."""

HEADER: Final = struct.Struct("!HHHHHH")
_TYPE_AND_CLASS = struct.Struct("!HH")
_OPT = struct.Struct("!BHHBBHH")  # root, type, bytes of a datagram, extended rcode, version, flags, length
_RECORD_TAIL = struct.Struct("!HHIH")
_BADVERS = 16  # the upper eight bits of an rcode are in the OPT record
_SPECIAL = frozenset('."();@$\\')
_HOST_BYTES = frozenset((string.ascii_lowercase + string.digits + "-_").encode())

RecordParts = tuple[bytes, bytes]
"""One record without its TTL: owner, type and class; then length and data."""


class MalformedQuery(Exception):
    """A question that cannot be answered. `reply` is the error reply, None to drop the question."""

    def __init__(self, reply: bytes | None) -> None:
        super().__init__("not a question")
        self.reply = reply


@dataclass(frozen=True, slots=True)
class Question:
    """One question: `name` in lower case, `sent` the section as it came, for the reply to repeat."""

    id: int
    flags: int
    name: bytes
    type: int
    qclass: int
    sent: bytes
    udp_bytes: int | None
    """How long a datagram the asker takes by its OPT record; None without one."""

    @property
    def key(self) -> tuple[bytes, int]:
        """Equal for questions that have the same answer."""
        return self.name, self.type

    @property
    def datagram_bytes(self) -> int:
        """How long a reply by UDP may be."""
        return max(PLAIN_UDP_BYTES, min(self.udp_bytes or 0, UDP_BYTES))


def read_question(wire: bytes) -> Question:
    """The question in `wire`. Raises MalformedQuery with the reply that is due."""
    if len(wire) < HEADER.size:
        raise MalformedQuery(None)
    number, flags, questions, answers, authorities, additional = HEADER.unpack_from(wire)
    if flags & QR:
        raise MalformedQuery(None)  # answering an answer makes loops
    if flags & OPCODE:
        raise MalformedQuery(_bare(number, flags, NOTIMP))
    end = _end_of_name(wire, HEADER.size)
    if end is None or questions != 1 or answers or authorities or len(wire) < end + _TYPE_AND_CLASS.size:
        raise MalformedQuery(_bare(number, flags, FORMERR))
    qtype, qclass = _TYPE_AND_CLASS.unpack_from(wire, end)
    after = end + _TYPE_AND_CLASS.size
    udp_bytes = _read_opt(wire, after, number, flags) if additional == 1 else None
    # The bytes that count letters are below 64, so that lower() leaves them alone.
    return Question(number, flags, wire[12:end].lower(), qtype, qclass, wire[12:after], udp_bytes)


def _end_of_name(wire: bytes, at: int) -> int | None:
    """Where the name at `at` ends; None if it does not, is too long, or is compressed, as none may be."""
    last = min(len(wire), at + NAME_BYTES)
    while at < last:
        length = wire[at]
        at += 1 + length
        if length == 0:
            return at
        if length > 63:
            return None
    return None


def _read_opt(wire: bytes, at: int, number: int, flags: int) -> int | None:
    """The datagram size in the OPT record at `at`; None for an ignored record, such as a signature."""
    if len(wire) < at + _OPT.size:
        raise MalformedQuery(_bare(number, flags, FORMERR))
    root, kind, udp_bytes, _, version, _, length = _OPT.unpack_from(wire, at)
    if root or kind != OPT:
        return None
    if len(wire) < at + _OPT.size + length:
        raise MalformedQuery(_bare(number, flags, FORMERR))
    if version:
        # Eight of the rcode's bits stand in the OPT record, the other four are 0 for BADVERS.
        header = HEADER.pack(number, _reply_flags(flags, _BADVERS & 0xF), 0, 0, 0, 1)
        raise MalformedQuery(header + _OPT.pack(0, OPT, UDP_BYTES, _BADVERS >> 4, 0, 0, 0))
    return udp_bytes


def _bare(number: int, flags: int, rcode: int) -> bytes:
    """A reply to an unreadable question: the header alone."""
    return HEADER.pack(number, _reply_flags(flags, rcode), 0, 0, 0, 0)


def _reply_flags(flags: int, rcode: int) -> int:
    return QR | RA | flags & (OPCODE | RD | CD) | rcode


def reply(
    question: Question,
    rcode: int,
    records: tuple[RecordParts, ...] = (),
    *,
    ttl: int = 0,
    room: int = STREAM_BYTES,
    error: tuple[int, str] | None = None,
) -> bytes:
    """The reply, cut to `room` bytes with the TC bit; `error`: an extended one, for an OPT record alone."""
    tail = _opt(error) if question.udp_bytes is not None else b""
    section, count = _section(records, ttl, room - HEADER.size - len(question.sent) - len(tail))
    flags = _reply_flags(question.flags, rcode) | (TC if count < len(records) else 0)
    return HEADER.pack(question.id, flags, 1, count, 0, 1 if tail else 0) + question.sent + section + tail


def _section(records: tuple[RecordParts, ...], ttl: int, room: int) -> tuple[bytes, int]:
    """As many of the first records as fit into `room` bytes, and their number."""
    lives = ttl.to_bytes(4, "big")
    section = b"".join([head + lives + body for head, body in records])
    if len(section) <= room:
        return section, len(records)
    size = count = 0
    for head, body in records:
        if size + len(head) + 4 + len(body) > room:
            break
        size += len(head) + 4 + len(body)
        count += 1
    return section[:size], count


def _opt(error: tuple[int, str] | None) -> bytes:
    if error is None:
        return _OPT.pack(0, OPT, UDP_BYTES, 0, 0, 0, 0)
    code, text = error
    data = code.to_bytes(2, "big") + text.encode()
    option = (15).to_bytes(2, "big") + len(data).to_bytes(2, "big") + data
    return _OPT.pack(0, OPT, UDP_BYTES, 0, 0, 0, len(option)) + option


def answer_records(
    name: bytes, aliases: tuple[bytes, ...], kind: int, data: tuple[bytes, ...]
) -> tuple[RecordParts, ...]:
    """The answer to a question for `name`: a CNAME to each of `aliases` in turn, and `data` at the last."""
    owner, at = b"\xc0\x0c", HEADER.size + len(name) + _TYPE_AND_CLASS.size
    records: list[RecordParts] = []
    for alias in aliases:
        records.append(_record(owner, CNAME, alias))
        start = at + len(owner) + _RECORD_TAIL.size
        owner = (0xC000 | start).to_bytes(2, "big")  # each owner is the target of the record before it
        at = start + len(alias)
    records += [_record(owner, kind, one) for one in data]
    return tuple(records)


def _record(owner: bytes, kind: int, data: bytes) -> RecordParts:
    return owner + _TYPE_AND_CLASS.pack(kind, IN), len(data).to_bytes(2, "big") + data


def query(number: int, name: bytes, kind: int, *, edns: bool) -> bytes:
    """A question for a resolver, with nothing in it that a sandbox could choose but the name and the type."""
    tail = _opt(None) if edns else b""
    header = HEADER.pack(number, RD, 1, 0, 0, 1 if edns else 0)
    return header + name + _TYPE_AND_CLASS.pack(kind, IN) + tail


def host_name(name: bytes) -> str | None:
    """A host name of letters, digits, `-` and `_`, or None: a label with a dot would look like two."""
    parts = labels(name)
    if not parts or not _HOST_BYTES.issuperset(b"".join(parts)):
        return None
    return b".".join(parts).decode("ascii")


def printable(name: bytes) -> str:
    """A name for display; characters that do not print, or mean something, are escaped (RFC 1035, 5.1)."""
    return ".".join("".join(map(_escaped, label)) for label in labels(name)) or "."


def _escaped(byte: int) -> str:
    if not 0x21 <= byte <= 0x7E:
        return f"\\{byte:03d}"
    return f"\\{chr(byte)}" if chr(byte) in _SPECIAL else chr(byte)


def name_of(text: str) -> bytes:
    """A host name as messages have it."""
    return b"".join(bytes((len(label),)) + label.encode() for label in text.split(".")) + b"\0"


def labels(name: bytes) -> list[bytes]:
    """The labels of a name that was read by `read_question`."""
    found: list[bytes] = []
    at = 0
    while length := name[at]:
        found.append(name[at + 1 : at + 1 + length])
        at += 1 + length
    return found
