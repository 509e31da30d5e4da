"""Reads upstream responses by record (dnspython) up to a limit: 64 KiB of them would block the event loop."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import dns.exception
import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.wire

from bay.network.dns import wire

_RCODE = 0x000F
_ADDRESS_BYTES = {wire.A: 4, wire.AAAA: 16}


class MalformedResponse(Exception):
    """An answer to the question that was asked, and not one that can be read."""


@dataclass(frozen=True, slots=True)
class Record:
    """One record of an answer: `owner` in lower case, `data` with the names in it written out."""

    owner: bytes
    type: int
    ttl: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Response:
    """A response of an upstream resolver. `size` is its length on the wire."""

    rcode: int
    truncated: bool
    records: tuple[Record, ...]
    size: int
    ends: bool = False
    """The authority for the last name has no further records (RFC 2308, section 2.2)."""

    def alias_of(self, name: bytes) -> Record | None:
        """The CNAME record of `name`."""
        return next(self._of(name, wire.CNAME), None)

    def of(self, name: bytes, kind: int) -> tuple[Record, ...]:
        """The records of that name and type."""
        return tuple(self._of(name, kind))

    def _of(self, name: bytes, kind: int) -> Iterator[Record]:
        return (record for record in self.records if record.type == kind and record.owner == name)


def read_response(message: bytes, number: int, name: bytes, kind: int, most: int) -> Response | None:
    """At most `most` records; None for another question's. Raises MalformedResponse for a broken rest."""
    parser = dns.wire.Parser(message)
    try:
        identity, flags, questions, answers, authorities, _ = _numbers(parser, "!HHHHHH")
        rcode = flags & _RCODE
        if identity != number or not flags & wire.QR or flags & wire.OPCODE:
            return None
        # Some do not repeat a question that they cannot make sense of.
        if questions == 0 and rcode != wire.NOERROR:
            return Response(rcode, False, (), len(message))
        if questions != 1 or not _is_question(parser, name, kind):
            return None
    except dns.exception.DNSException:
        return None
    truncated = bool(flags & wire.TC)
    try:
        records = () if truncated else tuple(_records(parser, kind, min(answers, most)))
        ends = not truncated and answers <= most and authorities > 0 and _is_soa(parser)
    except dns.exception.DNSException as error:
        raise MalformedResponse(str(error)) from error
    return Response(rcode, truncated, records, len(message), ends)


def _is_question(parser: dns.wire.Parser, name: bytes, kind: int) -> bool:
    asked = dns.name.from_wire_parser(parser).to_digestable()
    return (asked, *_numbers(parser, "!HH")) == (name, kind, wire.IN)


def _is_soa(parser: dns.wire.Parser) -> bool:
    dns.name.from_wire_parser(parser)
    return _numbers(parser, "!HH") == (wire.SOA, wire.IN)


def _records(parser: dns.wire.Parser, kind: int, count: int) -> Iterator[Record]:
    """The records of `kind`, and the CNAMEs, among the next `count`; others are no part of an answer."""
    for _ in range(count):
        owner = dns.name.from_wire_parser(parser)
        rtype, rclass, ttl, length = _numbers(parser, "!HHIH")
        if rclass != wire.IN or rtype not in (kind, wire.CNAME):
            parser.get_bytes(length)
            continue
        data = _data(parser, rtype, length)
        # A TTL with the top bit set is 0 (RFC 2181, section 8).
        yield Record(owner.to_digestable(), rtype, 0 if ttl >> 31 else ttl, data)


def _data(parser: dns.wire.Parser, kind: int, length: int) -> bytes:
    """A record's data with names written out, an alias's in lower case, to be compared with owners."""
    if (size := _ADDRESS_BYTES.get(kind)) is not None:
        if length != size:
            raise dns.exception.FormError
        return parser.get_bytes(size)
    with parser.restrict_to(length):
        data = dns.rdata.from_wire_parser(dns.rdataclass.IN, dns.rdatatype.RdataType.make(kind), parser)
    return data.to_digestable() if kind == wire.CNAME else data.to_wire() or b""


def _numbers(parser: dns.wire.Parser, form: str) -> tuple[int, ...]:
    return struct.unpack(form, parser.get_bytes(struct.calcsize(form)))
