"""What a sandbox may do to the forwarder: garbage, floods, half messages, many connections, names as a way
out.
"""

import asyncio
import socket
import struct
from collections.abc import Iterable

import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import pytest
from dns_harness import (
    FAST,
    KEY,
    World,
    allow,
    data,
    is_refused,
    plan,
    receive,
    receive_stream,
    send_stream,
    world,
)
from dns_harness import anyio_backend as anyio_backend
from upstream import sockets

from bay.network.dns.limits import DnsLimits

pytestmark = [pytest.mark.anyio, pytest.mark.pure]
PUBLIC = "93.184.216.34"


def question(name: str = "a.example", kind: str = "A") -> bytes:
    """A question's bytes."""
    return dns.message.make_query(name, kind).to_wire()


async def rcode_of(w: World, message: bytes) -> int:
    """What a message is answered."""
    reply = await w.send(message)
    assert reply[:2] == message[:2]
    return reply[3] & 0xF


async def test_what_cannot_be_read_is_said_to_be_so() -> None:
    async with world() as w:
        good = question()
        for broken in (
            good[:12],
            good[:-1],
            good[:-3],
            good[:4] + b"\0\2" + good[6:],
            good[:4] + b"\0\0" + good[6:],
            good[:6] + b"\0\1" + good[8:],
            good[:8] + b"\0\1" + good[10:],
            good[:10] + b"\0\1" + good[12:],
            good[:12] + b"\xc0\x0c\0\1\0\1",
            good[:12] + b"\x40a\0\0\1\0\1",
            good[:12] + (b"\x3f" + b"a" * 63) * 4 + b"\0\0\1\0\1",
        ):
            assert await rcode_of(w, broken) == dns.rcode.FORMERR
        assert w.upstream.asked == []


async def test_what_is_no_question_gets_no_answer() -> None:
    async with world() as w:
        w.upstream.zone["a.example", "A"] = [PUBLIC]
        answer = question()[:2] + b"\x81\x80" + question()[4:]
        with w.client() as udp:
            for message in (b"", b"x", question()[:11], answer):
                udp.send(message)
            udp.send(question())
            assert data(dns.message.from_wire(await receive(udp))) == [PUBLIC]


async def test_other_operations_are_not_implemented() -> None:
    async with world() as w:
        for opcode in (dns.opcode.UPDATE, dns.opcode.NOTIFY, dns.opcode.STATUS):
            query = dns.message.make_query("a.example", "A")
            query.set_opcode(opcode)
            assert await rcode_of(w, query.to_wire()) == dns.rcode.NOTIMP


async def test_a_later_edns_is_answered_with_ours() -> None:
    async with world() as w:
        query = dns.message.make_query("a.example", "A", use_edns=1)
        answer = dns.message.from_wire(await w.send(query.to_wire()))
        assert (answer.rcode(), answer.edns) == (dns.rcode.BADVERS, 0)


async def test_a_signature_in_place_of_edns_is_left_aside() -> None:
    async with world() as w:
        w.upstream.zone["a.example", "A"] = [PUBLIC]
        signed = question()[:10] + b"\0\1" + question()[12:] + b"\1k\0" + struct.pack("!HHIH", 250, 255, 0, 0)
        assert await rcode_of(w, signed) == dns.rcode.NOERROR


async def test_another_class_is_refused() -> None:
    async with world() as w:
        query = dns.message.make_query("version.bind", "TXT", "CH")
        assert is_refused(await w.ask_message(query))
        w.upstream.zone["a.example", "A"] = [PUBLIC]
        await w.ask("a.example")
        assert is_refused(await w.ask_message(dns.message.make_query("a.example", "A", "CH")))


@pytest.mark.parametrize(
    "labels",
    [
        (b"www.example", b"com"),
        (b"evil.example.com\0", b"net"),
        (b"a b", b"example", b"com"),
        (b"a\\", b"example", b"com"),
        (b"*", b"example", b"com"),
        (b"\xff\x00\x80", b"example", b"com"),
        (),
    ],
)
async def test_a_name_that_no_host_has_is_refused(labels: tuple[bytes, ...]) -> None:
    async with world(plan("allowlist", allow("*.com"), allow("*"))) as w:
        name = dns.name.Name([*labels, b""])
        assert is_refused(await w.ask_message(dns.message.make_query(name, "A")))
        assert w.refused() == [(name.to_text(omit_final_dot=bool(labels)), "A", "policy", None)]
        assert w.upstream.asked == []


async def test_the_longest_name_is_answered() -> None:
    name = ".".join(["a" * 63] * 3 + ["b" * 61])
    async with world() as w:
        w.upstream.zone[name, "A"] = [PUBLIC]
        assert data(await w.ask(name)) == [PUBLIC]


async def test_a_small_datagram_is_not_made_longer_by_records() -> None:
    async with world() as w:
        w.upstream.zone["a.example", "A"] = [f"93.184.216.{n}" for n in range(100)]
        answer = await w.send(question())
        assert len(answer) <= 512
        assert dns.message.from_wire(answer).flags & dns.flags.TC
        assert len(await w.send(dns.message.make_query("a.example", "A", payload=65000).to_wire())) <= 1232


async def test_several_questions_go_over_one_connection() -> None:
    async with world() as w:
        w.upstream.zone |= {("a.example", "A"): [PUBLIC], ("b.example", "A"): [PUBLIC]}
        with await w.connect() as tcp:
            for name in ("a.example", "b.example", "a.example"):
                await send_stream(tcp, question(name))
            for _ in range(3):
                assert data(dns.message.from_wire(await receive_stream(tcp))) == [PUBLIC]


async def ended(tcp: socket.socket) -> bool:
    """Whether the other side ends the connection, soon."""
    async with asyncio.timeout(5):
        try:
            return await asyncio.get_running_loop().sock_recv(tcp, 10) == b""
        except ConnectionError:
            return True


@pytest.mark.parametrize("part", [b"", b"\0", b"\0\x1dhalf", b"\xff\xff", b"\x10\1"])
async def test_a_connection_with_half_a_message_ends(part: bytes) -> None:
    async with world(limits=FAST) as w:
        w.upstream.zone["a.example", "A"] = [PUBLIC]
        with await w.connect() as tcp:
            if part:
                tcp.send(part)
            assert await ended(tcp)
        assert data(await w.ask("a.example")) == [PUBLIC]


async def test_a_connection_that_is_dropped_in_the_middle_harms_nobody() -> None:
    async with world() as w:
        w.upstream.zone["a.example", "A"] = [PUBLIC]
        w.upstream.gate = asyncio.Event()
        with await w.connect() as tcp:
            await send_stream(tcp, question())
            async with asyncio.timeout(5):
                await w.upstream.heard.wait()
            tcp.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        w.upstream.gate.set()
        assert data(await w.ask("a.example")) == [PUBLIC]


async def test_connections_past_the_limit_end_and_leave_room_again() -> None:
    async with world(limits=DnsLimits(connections=2, pause_s=0.01)) as w:
        w.upstream.zone["a.example", "A"] = [PUBLIC]
        first, second = await w.connect(), await w.connect()
        with second:
            with first:
                for tcp in (first, second):
                    await send_stream(tcp, question())
                    await receive_stream(tcp)
                with await w.connect() as third:
                    assert await ended(third)
            async with asyncio.timeout(5):
                while True:
                    with await w.connect() as again:
                        await send_stream(again, question())
                        if not await ended_or_answered(again):
                            break


async def ended_or_answered(tcp: socket.socket) -> bool:
    """True when the connection ends without an answer."""
    try:
        await receive_stream(tcp)
    except ConnectionError:
        return True
    return False


async def test_a_flood_is_refused_then_not_heard_and_over_once_it_ends() -> None:
    limits = DnsLimits(questions_at_once=20, refusals_at_once=10, pause_s=0.01)
    async with world(plan("allowlist"), limits=limits) as w:
        with w.client() as udp:
            for number in range(60):
                udp.send(question(f"n{number}.example"))
            answers = [await receive(udp) for _ in range(30)]
            assert {answer[3] & 0xF for answer in answers} == {dns.rcode.REFUSED}
            last = w.forwarder.refused(KEY)[-1]
            assert (last.name, last.reason) == ("*", "rate")
            assert len(w.forwarder.refused(KEY)) == 21
            for _ in range(2):  # the kernel still held some of it
                w.ticks.advance(10)
                assert is_refused(await w.ask("later.example"))
            assert w.refused()[-1] == ("later.example", "A", "policy", None)


async def test_who_floods_one_sandbox_delays_no_other() -> None:
    async with world(limits=DnsLimits(questions_at_once=5, refusals_at_once=5)) as w:
        w.upstream.zone["a.example", "A"] = [PUBLIC]
        udp, tcp = sockets()
        place = udp.getsockname()
        await w.forwarder.listen(KEY + 1, udp, tcp, plan("open"))
        with w.client() as flood, socket.socket(type=socket.SOCK_DGRAM) as other:
            for number in range(200):
                flood.send(question(f"n{number}.example"))
            other.setblocking(False)
            other.connect(place)
            other.send(question())
            assert data(dns.message.from_wire(await receive(other))) == [PUBLIC]
        assert w.forwarder.refused(KEY + 1) == ()


async def test_questions_in_flight_are_bounded() -> None:
    async with world(limits=DnsLimits(in_flight=3)) as w:
        w.upstream.gate = asyncio.Event()
        with w.client() as udp:
            for number in range(5):
                udp.send(question(f"n{number}.example"))
            answers = [await receive(udp) for _ in range(2)]
            assert {answer[3] & 0xF for answer in answers} == {dns.rcode.SERVFAIL}
            assert w.reasons() == ["rate", "rate"]
            w.upstream.gate.set()
            answers = [await receive(udp) for _ in range(3)]
            assert {answer[3] & 0xF for answer in answers} == {dns.rcode.NXDOMAIN}


async def test_equal_questions_in_flight_are_bounded_too() -> None:
    async with world(limits=DnsLimits(in_flight=3)) as w:
        w.upstream.gate = asyncio.Event()
        with w.client() as udp:
            for _ in range(5):
                udp.send(question())
            assert [(await receive(udp))[3] & 0xF for _ in range(2)] == [dns.rcode.SERVFAIL] * 2
            w.upstream.gate.set()
            assert [(await receive(udp))[3] & 0xF for _ in range(3)] == [dns.rcode.NXDOMAIN] * 3


async def test_long_answers_cost_as_many_questions() -> None:
    async with world(limits=DnsLimits(questions_at_once=10, questions_per_s=1)) as w:
        w.upstream.cuts = False
        for number in range(4):
            w.upstream.zone[f"fat{number}.example", "TXT"] = [f'"{"x" * 250}{n}"' for n in range(10, 23)]
        answers = [await w.ask(f"fat{n}.example", "TXT") for n in range(4)]
        assert [is_refused(answer) for answer in answers] == [False, False, False, True]
        w.ticks.advance(2)
        assert is_refused(await w.ask("fat3.example", "TXT"))
        w.ticks.advance(20)
        assert not is_refused(await w.ask("fat3.example", "TXT"))


async def test_held_answers_may_be_asked_for_more_often() -> None:
    async with world(limits=DnsLimits(questions_at_once=10)) as w:
        w.upstream.zone["a.example", "A"] = [PUBLIC]
        for _ in range(60):
            assert data(await w.ask("a.example")) == [PUBLIC]


async def test_names_below_a_wildcard_pay_for_the_letters_they_carry() -> None:
    limits = DnsLimits(letters_at_once=100, letters_per_s=10)
    async with world(
        plan("allowlist", allow("*.example.com"), allow("free.example.net")), limits=limits
    ) as w:
        for number in range(10):
            answer = await w.ask(f"customer{number}x.example.com")
            assert answer.rcode() == dns.rcode.NXDOMAIN
        assert is_refused(await w.ask("customer11.example.com"))
        assert w.refused() == [("customer11.example.com", "A", "entropy", 0)]
        assert not is_refused(await w.ask("free.example.net"))
        assert not is_refused(await w.ask("customer1x.example.com")), "what is held leaves no second time"
        w.ticks.advance(1)
        assert (await w.ask("customer11.example.com")).rcode() == dns.rcode.NXDOMAIN
        assert len(w.upstream.asked) == 12


async def test_random_letters_cost_eightfold() -> None:
    limits = DnsLimits(letters_at_once=400, letters_per_s=0)
    async with world(plan("allowlist", allow("*.example.com")), limits=limits) as w:
        assert not is_refused(await w.ask("mfrggzdfmztwq2lknnwg23tpobyxe43.example.com"))
        assert is_refused(await w.ask("4d5a90000300000004.000000ffff0000b8.example.com"))
        assert not is_refused(await w.ask("static-content-delivery-frontend.example.com"))


async def test_under_open_names_carry_what_they_like() -> None:
    async with world(limits=DnsLimits(letters_at_once=1)) as w:
        assert (await w.ask("mfrggzdfmztwq2lknnwg23tpobyxe43.example.com")).rcode() == dns.rcode.NXDOMAIN


async def test_the_log_of_refused_names_is_bounded() -> None:
    async with world(plan("allowlist"), limits=DnsLimits(questions_at_once=1000)) as w:
        for number in range(250):
            await w.ask(f"n{number}.example")
        await w.ask("n60.example")
        names = [one.name for one in w.forwarder.refused(KEY)]
        assert len(names) == 200
        assert names[0] == "n50.example"
        assert names[-2:] == ["n249.example", "n60.example"]


async def asked_for(w: World, letter: str, numbers: Iterable[int]) -> int:
    """How many of these names upstream is asked for: those whose answers are not held."""
    before = len(w.upstream.asked)
    for number in numbers:
        await w.ask(f"{letter}{number}.example")
    return len(w.upstream.asked) - before


async def test_what_is_held_and_remembered_is_bounded() -> None:
    limits = DnsLimits(addresses=100, held_answers=30, questions_at_once=1000)
    async with world(limits=limits) as w:
        for number in range(40):
            w.upstream.zone[f"n{number}.example", "A"] = [f"93.184.{number}.{n}" for n in range(5)]
            await w.ask(f"n{number}.example")
        assert await asked_for(w, "n", range(20, 40)) == 0
        assert await asked_for(w, "n", [19]) == 1
        assert len(w.forwarder.names_of(KEY)) == 100
        for number in range(40):
            w.upstream.zone[f"m{number}.example", "A"] = [PUBLIC]
            await w.ask(f"m{number}.example")
        assert await asked_for(w, "m", range(10, 40)) == 0
        assert await asked_for(w, "m", [9]) == 1
        assert len(next(iter(w.forwarder.names_of(KEY).values()))) <= 16


async def test_sockets_may_be_changed_and_knowledge_stays() -> None:
    async with world() as w:
        w.upstream.zone["a.example", "A"] = [PUBLIC]
        await w.ask("a.example")
        udp, tcp = sockets()
        w.place = udp.getsockname()
        await w.forwarder.listen(KEY, udp, tcp, plan("open"))
        assert w.udp.fileno() == -1
        assert data(await w.ask("a.example")) == [PUBLIC]
        assert len(w.upstream.asked) == 1
