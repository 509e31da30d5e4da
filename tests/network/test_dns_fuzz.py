"""Bytes that nobody meant: from sandboxes, and from resolvers."""

import string
from typing import Any

import dns.exception
import dns.message
import dns.name
import dns.rdatatype
import dns.rrset
import pytest
from dns_harness import OPEN, Opened, Ticks
from hypothesis import example, given
from hypothesis import strategies as st

from bay.clock import ManualClock
from bay.meters import Meters
from bay.network.dns import wire
from bay.network.dns.limits import DnsLimits, looks_random, weight
from bay.network.dns.names import ForwarderContext
from bay.network.dns.responses import MalformedResponse, Response, read_response
from bay.network.dns.sandbox_resolver import SandboxResolver
from bay.network.dns.upstream import Upstream
from bay.token_bucket import TokenBucket

pytestmark = pytest.mark.pure

LABEL = st.binary(min_size=1, max_size=63)
NAMES = st.lists(LABEL, max_size=8).filter(lambda labels: sum(map(len, labels)) + len(labels) < 255)
HOSTS = st.from_regex(r"[a-z0-9_-]{1,20}(\.[a-z0-9_-]{1,20}){0,5}", fullmatch=True)
KINDS = st.integers(0, 65535)


@st.composite
def queries(draw: st.DrawFn) -> bytes:
    """Questions as clients send them, or nearly so."""
    name = dns.name.Name([*draw(NAMES), b""])
    query = dns.message.make_query(name, "A", use_edns=draw(st.sampled_from([-1, 0])), payload=draw(KINDS))
    query.question[0].rdtype = dns.rdatatype.RdataType.make(draw(KINDS))
    return mutated(draw, query.to_wire())


@st.composite
def responses(draw: st.DrawFn) -> bytes:
    """What a resolver says to `a.example`, or nearly so."""
    query = dns.message.make_query("a.example", "A", id=7)
    answer = dns.message.make_response(query)
    for owner, kind, text in draw(st.lists(st.sampled_from(RECORDS), max_size=6)):
        answer.answer.append(dns.rrset.from_text(owner, draw(st.integers(0, 2**31 - 1)), "IN", kind, text))
    return mutated(draw, answer.to_wire())


RECORDS = [
    ("a.example.", "A", "93.184.216.34"),
    ("a.example.", "CNAME", "b.a.example."),
    ("b.a.example.", "A", "10.0.0.1"),
    ("b.a.example.", "MX", "1 c.example."),
    ("a.example.", "TXT", '"text"'),
]


def mutated(draw: st.DrawFn, message: bytes) -> bytes:
    """With some bytes changed and some missing."""
    changed = bytearray(message)
    for at, byte in draw(
        st.lists(st.tuples(st.integers(0, len(message) - 1), st.integers(0, 255)), max_size=4)
    ):
        changed[at] = byte
    return bytes(changed[: draw(st.integers(0, len(changed)) | st.just(len(changed)))])


_METERS = Meters()


def replies_of(message: bytes) -> list[bytes | None]:
    """What a resolver without resolvers says at once."""

    class NoTasks:
        def start(self, work: Any) -> None:
            work.close()

    limits, ticks = DnsLimits(), Ticks()
    around = ForwarderContext(
        Upstream((), limits, ticks), Opened(), lambda _: True, True, limits, ticks, ManualClock(), _METERS
    )
    resolver = SandboxResolver(1, OPEN, around)
    resolver._tasks = NoTasks()  # type: ignore[assignment]
    replies: list[bytes | None] = []
    resolver.receive(message, stream=False, deliver=replies.append)
    return replies


@given(queries() | st.binary(max_size=600))
def test_any_bytes_get_one_short_reply_that_fits_their_question(message: bytes) -> None:
    replies = replies_of(message)
    assert len(replies) <= 1
    for reply in filter(None, replies):
        assert len(reply) <= wire.UDP_BYTES
        assert reply[:2] == message[:2]
        assert reply[2] & 0x80
        dns.message.from_wire(reply)


@given(queries())
def test_questions_are_read_as_dnspython_reads_them(message: bytes) -> None:
    try:
        question = wire.read_question(message)
    except wire.MalformedQuery:
        return
    try:
        theirs = dns.message.from_wire(message, ignore_trailing=True)
    except dns.exception.DNSException:
        return  # an option or a record after the question that we do not look into
    asked = theirs.question[0]
    assert question.name == asked.name.to_digestable()
    assert (question.type, question.qclass, question.id) == (asked.rdtype, asked.rdclass, theirs.id)
    if question.udp_bytes is not None and theirs.opt is not None:
        assert question.udp_bytes == theirs.payload


@given(responses() | st.binary(max_size=600))
def test_any_answer_is_read_or_put_aside(message: bytes) -> None:
    try:
        response = read_response(message, 7, b"\1a\7example\0", wire.A, 512)
    except MalformedResponse:
        return
    assert response is None or isinstance(response, Response)
    for record in response.records if response else ():
        assert record.type in (wire.A, wire.CNAME)
        assert record.type != wire.A or len(record.data) == 4


@given(st.lists(st.binary(max_size=40), max_size=8), KINDS, st.integers(12, 65535))
def test_a_reply_is_never_longer_than_there_is_room(data: list[bytes], kind: int, room: int) -> None:
    question = wire.read_question(dns.message.make_query("a.example", "A", use_edns=0).to_wire())
    records = wire.answer_records(question.name, (b"\1b\0",), kind, tuple(data))
    whole = wire.reply(question, 0, records, ttl=9)
    cut = wire.reply(question, 0, records, ttl=9, room=max(room, 200))
    assert len(cut) <= max(room, 200)
    assert (cut == whole) or cut[2] & 0x02


@given(HOSTS)
@example("a")
@example("xn--bcher-kva.example")
def test_the_names_of_hosts_are_themselves(name: str) -> None:
    wired = dns.name.from_text(name).to_digestable()
    assert wire.host_name(wired) == name
    assert wire.printable(wired) == name


@given(NAMES)
def test_the_text_of_a_name_is_one_name_again(labels: list[bytes]) -> None:
    name = dns.name.Name([*labels, b""])
    wired = name.to_digestable()
    assert dns.name.from_text(wire.printable(wired)) == name
    host = wire.host_name(wired)
    if host is not None:
        assert set(host) <= set(string.ascii_lowercase + string.digits + "-_.")
        assert host.count(".") == len(labels) - 1


def test_words_are_told_from_letters_at_random() -> None:
    words = [
        "static-content-delivery-frontend",
        "production-customer-database",
        "my-company-artifacts-europe-west",
        "documentation-images-thumbnails",
        "registry-authentication-service",
    ]
    noise = [
        "4d5a90000300000004000000ffff0000b800000000000000",
        "mfrggzdfmztwq2lknnwg23tpobyxe43uov3ho6dz",
        "a3f8c0d1e9b74562a3f8c0d1e9b74562",
        "zxqjkvwpqzxjvkqwzpxjqvkz",
    ]
    assert not any(map(looks_random, words))
    assert all(map(looks_random, noise))
    assert not looks_random("d111111abcdef8")
    assert weight("a.bc") == 3


def test_a_bucket_fills_with_time_and_owes_no_more_than_it_holds() -> None:
    ticks = Ticks()
    bucket = TokenBucket(2, 4, ticks)
    assert [bucket.take(1) for _ in range(5)] == [True] * 4 + [False]
    ticks.advance(1)
    assert [bucket.take(1) for _ in range(3)] == [True, True, False]
    bucket.charge(1000)
    ticks.advance(2)
    assert not bucket.take(1)
    ticks.advance(0.5)
    assert bucket.take(1)
