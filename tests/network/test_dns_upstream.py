"""Resolvers that are down, slow or lying, and what is taken from them."""

import asyncio
import os
import socket
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest
from dns_harness import FAST, KEY, World, addresses, data, is_refused, receive_stream, send_stream, world
from dns_harness import anyio_backend as anyio_backend
from upstream import sockets, upstream

from bay.network.dns.upstream import UpstreamResolver, resolver, resolvers_in

pytestmark = [pytest.mark.anyio, pytest.mark.pure]
PUBLIC, EVIL = "93.184.216.34", "6.6.6.6"


async def ask_by_stream(w: World, name: str, kind: str = "A") -> dns.message.Message:
    """What a question by TCP is answered."""
    with await w.connect() as tcp:
        await send_stream(tcp, dns.message.make_query(name, kind).to_wire())
        return dns.message.from_wire(await receive_stream(tcp))


def evil(question: bytes, change: Callable[[dns.message.Message], object]) -> bytes:
    """An answer with somebody else's address, and something wrong with it."""
    query = dns.message.from_wire(question)
    answer = dns.message.make_response(query)
    answer.answer.append(dns.rrset.from_text(query.question[0].name, 60, "IN", "A", EVIL))
    change(answer)
    return answer.to_wire()


def wrong_id(answer: dns.message.Message) -> None:
    """Another question's."""
    answer.id ^= 1


def wrong_name(answer: dns.message.Message) -> None:
    """To a question for another name."""
    answer.question[0].name = dns.name.from_text("other.example")


def wrong_type(answer: dns.message.Message) -> None:
    """To a question for another type."""
    answer.question[0].rdtype = dns.rdatatype.AAAA


def no_answer(answer: dns.message.Message) -> None:
    """A question."""
    answer.flags &= ~dns.flags.QR


def no_question(answer: dns.message.Message) -> None:
    """To no question."""
    answer.question.clear()


LIES = [wrong_id, wrong_name, wrong_type, no_answer, no_question]


@pytest.mark.parametrize("change", LIES)
async def test_an_answer_to_another_question_is_not_listened_to(
    change: Callable[[dns.message.Message], None],
) -> None:
    async with world() as w:
        w.upstream.zone["a.example", "A"] = [PUBLIC]
        w.upstream.lie = lambda question, honest: [evil(question, change), honest.to_wire()]
        assert data(await w.ask("a.example")) == [PUBLIC]
        assert len(w.upstream.asked) == 1


@pytest.mark.parametrize("change", LIES)
async def test_a_resolver_that_only_lies_is_no_answer(
    change: Callable[[dns.message.Message], None],
) -> None:
    async with world(limits=FAST) as w:
        w.upstream.lie = lambda question, honest: [evil(question, change)] * 40
        assert (await w.ask("a.example")).rcode() == dns.rcode.SERVFAIL
        assert w.reasons() == ["upstream"]


async def test_an_answer_from_another_port_is_not_listened_to() -> None:
    async with world(limits=FAST) as w:
        w.upstream.zone["a.example", "A"] = [PUBLIC]
        w.upstream.from_elsewhere = True
        assert (await w.ask("a.example")).rcode() == dns.rcode.SERVFAIL


async def test_every_question_has_an_id_and_a_port_of_its_own() -> None:
    async with world() as w:
        for number in range(40):
            await w.ask(f"n{number}.example")
        assert len(set(w.upstream.ids)) > 35
        assert len(set(w.upstream.ports)) > 30


async def test_records_that_the_question_is_not_about_open_nothing() -> None:
    def stuffed(question: bytes, honest: dns.message.Message) -> list[bytes]:
        honest.answer.append(dns.rrset.from_text("bank.example.", 60, "IN", "A", EVIL))
        honest.authority.append(dns.rrset.from_text("a.example.", 60, "IN", "NS", "evil.example."))
        honest.additional.append(dns.rrset.from_text("a.example.", 60, "IN", "A", EVIL))
        return [honest.to_wire()]

    async with world() as w:
        w.upstream.zone["a.example", "A"] = [PUBLIC]
        w.upstream.lie = stuffed
        answer = await w.ask("a.example")
        assert (data(answer), answer.authority, answer.additional) == ([PUBLIC], [], [])
        assert w.opened.calls[0][1] == addresses(PUBLIC)


async def test_a_cut_answer_is_asked_for_again_by_stream() -> None:
    async with world() as w:
        w.upstream.zone["many.example", "A"] = [f"93.184.{n // 250}.{n % 250}" for n in range(1000)]
        answer = await ask_by_stream(w, "many.example")
        assert len(data(answer)) == 256
        assert not answer.flags & dns.flags.TC
        assert [way for _, _, way in w.upstream.asked] == ["udp", "tcp"]
        assert set(w.opened.calls[0][1]) == set(addresses(*data(answer)))


async def test_a_cut_answer_gives_nothing_by_itself() -> None:
    def cut(question: bytes, honest: dns.message.Message) -> list[bytes]:
        honest.flags |= dns.flags.TC
        return [honest.to_wire()]

    async with world(limits=FAST) as w:
        w.upstream.zone["a.example", "A"] = [PUBLIC]
        w.upstream.lie = w.upstream.stream_lie = cut
        assert (await w.ask("a.example")).rcode() == dns.rcode.SERVFAIL
        assert w.opened.calls == []


@pytest.mark.parametrize("part", [b"", b"\0", b"\0\x20short", b"\xff\xff"])
async def test_a_stream_that_breaks_off_is_no_answer(part: bytes) -> None:
    def cut(question: bytes, honest: dns.message.Message) -> list[bytes]:
        honest.flags |= dns.flags.TC
        return [honest.to_wire()]

    async with world(limits=FAST) as w:
        w.upstream.lie = cut
        w.upstream.stream_lie = lambda question, honest: [part]
        assert (await w.ask("a.example")).rcode() == dns.rcode.SERVFAIL


QR = b"\x81\x80"
GARBAGE: list[Callable[[bytes], bytes]] = [
    lambda question: b"",
    lambda question: os.urandom(300),
    lambda question: question[:2],
    lambda question: question[:2] + QR + question[4:],
    lambda question: question[:2] + QR + b"\0\1\xff\xff\0\0\0\0" + question[12:],
    # an owner that points to itself, and an address of three bytes
    lambda question: one_record(question, b"\xc0\x1b\0\1\0\1\0\0\0\1\0\4" + bytes(4)),
    lambda question: one_record(question, b"\xc0\x0c\0\1\0\1\0\0\0\1\0\3abc"),
    lambda question: one_record(question, b"\xc0\x0c\0\1\0\1\0\0\0\1\0\4abc"),
]


def one_record(question: bytes, record: bytes) -> bytes:
    """An answer with these bytes in the place of a record; a question of ours ends with 11 bytes of EDNS."""
    return question[:2] + QR + b"\0\1\0\1\0\0\0\0" + question[12:-11] + record


@pytest.mark.parametrize("garbage", GARBAGE)
async def test_garbage_is_no_answer(garbage: Callable[[bytes], bytes]) -> None:
    async with world(limits=FAST) as w:
        w.upstream.lie = lambda question, honest: [garbage(question)]
        answer = await w.ask("a.example")
        assert answer.rcode() in (dns.rcode.SERVFAIL, dns.rcode.NOERROR)
        assert answer.answer == []
        assert w.opened.calls == []


@pytest.mark.parametrize("rcode", [dns.rcode.SERVFAIL, dns.rcode.REFUSED, dns.rcode.YXDOMAIN])
async def test_a_resolver_that_cannot_is_followed_by_the_next(rcode: int) -> None:
    async with (
        upstream(rcode=int(rcode)) as first,
        upstream(zone={("a.example", "A"): [PUBLIC]}) as second,
        world(limits=FAST, resolvers=[first.resolver, second.resolver]) as w,
    ):
        assert data(await w.ask("a.example")) == [PUBLIC]
        assert len(first.asked) == 1


async def test_when_no_resolver_can_each_was_asked_once() -> None:
    async with (
        upstream(rcode=2) as first,
        upstream(rcode=5) as second,
        world(resolvers=[first.resolver, second.resolver]) as w,
    ):
        assert (await w.ask("a.example")).rcode() == dns.rcode.SERVFAIL
        assert (len(first.asked), len(second.asked)) == (1, 1)
        assert (await w.ask("a.example")).rcode() == dns.rcode.SERVFAIL
        assert (len(first.asked), len(second.asked)) == (1, 1), "a failure holds for a second"
        w.ticks.advance(1)
        await w.ask("a.example")
        assert (len(first.asked), len(second.asked)) == (2, 2)


async def test_a_resolver_without_edns_is_asked_without_it() -> None:
    def plain(question: bytes, honest: dns.message.Message) -> list[bytes]:
        if dns.message.from_wire(question).edns >= 0:
            return [question[:2] + b"\x80\x01" + bytes(8)]
        return [honest.to_wire()]

    async with world() as w:
        w.upstream.zone["a.example", "A"] = [PUBLIC]
        w.upstream.lie = plain
        assert data(await w.ask("a.example")) == [PUBLIC]


async def test_a_silent_resolver_is_asked_last_for_a_while() -> None:
    zone = {(f"n{n}.example", "A"): [PUBLIC] for n in range(9)}
    async with (
        upstream(silent=True) as first,
        upstream(zone=zone) as second,
        world(limits=FAST, resolvers=[first.resolver, second.resolver]) as w,
    ):
        await w.ask("n0.example")
        await w.ask("n1.example")
        assert first.names() == ["n0.example"]
        assert second.names() == ["n0.example", "n1.example"]
        first.silent, first.zone = False, zone
        w.ticks.advance(10)
        assert data(await w.ask("n2.example")) == [PUBLIC]
        assert first.names() == ["n0.example", "n2.example"]


async def test_a_port_where_nothing_listens_is_known_at_once() -> None:
    udp, tcp = sockets()
    dead = UpstreamResolver(IPv4Address("127.0.0.1"), udp.getsockname()[1])
    udp.close()
    tcp.close()
    async with (
        upstream(zone={("a.example", "A"): [PUBLIC]}) as second,
        world(resolvers=[dead, second.resolver]) as w,
        asyncio.timeout(0.9),
    ):
        assert data(await w.ask("a.example")) == [PUBLIC]


async def test_without_a_resolver_there_is_no_answer() -> None:
    async with world(resolvers=[]) as w:
        assert (await w.ask("a.example")).rcode() == dns.rcode.SERVFAIL
        assert w.refused() == [("a.example", "A", "upstream", None)]


async def bounded(w: World, name: str) -> dns.message.Message:
    """The answer, within the whole time that there is."""
    async with asyncio.timeout(FAST.answer_s + 0.5):
        return await w.ask(name)


async def test_slow_resolvers_take_no_longer_than_an_answer_may() -> None:
    async with world(limits=FAST) as w:
        w.upstream.silent = True
        began = asyncio.get_running_loop().time()
        assert (await bounded(w, "a.example")).rcode() == dns.rcode.SERVFAIL
        assert asyncio.get_running_loop().time() - began < FAST.answer_s
        assert len(w.upstream.asked) == 2


async def test_an_opener_that_hangs_takes_no_longer_than_an_answer_may() -> None:
    async with world(limits=FAST) as w:
        w.upstream.zone["a.example", "A"] = [PUBLIC]
        w.opened.gate = asyncio.Event()
        assert (await bounded(w, "a.example")).rcode() == dns.rcode.SERVFAIL


async def test_aliases_that_never_end_take_no_longer_than_an_answer_may() -> None:
    def further(question: bytes, honest: dns.message.Message) -> list[bytes]:
        name = honest.question[0].name
        honest.set_rcode(dns.rcode.NOERROR)
        honest.answer = [dns.rrset.from_text(name, 60, "IN", "CNAME", f"x{len(name.to_text())}.{name}")]
        return [honest.to_wire()]

    async with world() as w:
        w.upstream.lie = further
        assert (await w.ask("a.example")).rcode() == dns.rcode.SERVFAIL
        assert w.reasons() == ["loop"]
        assert len(w.upstream.asked) == 9


async def test_an_answer_that_came_when_nobody_waits_is_no_matter() -> None:
    async with world() as w:
        w.upstream.gate = asyncio.Event()
        with w.client() as udp:
            udp.send(dns.message.make_query("a.example", "A").to_wire())
            async with asyncio.timeout(5):
                await w.upstream.heard.wait()
        await w.forwarder.stop(KEY)
        await w.forwarder.stop(KEY)
        assert w.udp.fileno() == -1
        assert w.forwarder.names_of(KEY) == {}


async def test_a_reverse_answer_is_a_name_only() -> None:
    async with world() as w:
        assert is_refused(await w.ask("1.0.0.127.in-addr.arpa", "PTR"))


def test_the_resolvers_of_a_host_are_those_it_names() -> None:
    text = "# c\nnameserver 127.0.0.53\nnameserver\nnameserver fe80::1%3\nnameserver bad\nsearch x\nnameserver 127.0.0.53\n"
    assert resolvers_in(text) == (
        UpstreamResolver(IPv4Address("127.0.0.53")),
        UpstreamResolver(IPv6Address("fe80::1%3")),
    )
    assert resolvers_in(text)[1].place == ("fe80::1", 53, 0, 3)
    assert resolver("9.9.9.9").place == ("9.9.9.9", 53)
    assert resolver("2620:fe::fe").family == socket.AF_INET6
    with pytest.raises(ValueError):
        resolver("dns.example")
