"""The egress proxy, between sandboxes and hosts that are sockets of this machine under public addresses."""

import asyncio
import base64
import contextlib
import errno
import itertools
import random
import socket
import string
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from ipaddress import IPv4Network, ip_address
from typing import Any, cast

import pytest
from dns_harness import FAST
from dns_harness import anyio_backend as anyio_backend
from upstream import Upstream, upstream

from bay.clock import utc_now
from bay.errors import DatabaseUnavailable
from bay.meters import Meters
from bay.models import NetworkCounter, NetworkMode, NetworkPolicy, NetworkRule, NetworkState, RefusedName
from bay.network.dns.limits import DnsLimits
from bay.network.dns.names import ForwarderContext
from bay.network.http_passage import NotPassedOn
from bay.network.policy import CompiledPolicy, PolicyDecision, checked, compile_policy
from bay.network.proxy import server
from bay.network.proxy.credentials import environment, secret_of
from bay.network.proxy.guest import PolicyVersion, ProxyGuest
from bay.network.proxy.requests import EgressTarget
from bay.network.proxy.server import EgressProxy, ProxyLimits, ProxySession
from bay.network.proxy.sums import sum_of
from bay.network.reserved_ranges import Address

pytestmark = [pytest.mark.anyio, pytest.mark.pure]

ME, OTHER = "sess-me", "sess-other"
TOKEN = "a-token-of-ship"
SITE, SITE_ADDRESS = "site.example.com", "93.184.216.34"
WAIT_S = 10.0
HERE = "127.0.0.1"
ALLOWED = NetworkRule(action="allow", domain="*.example.com", ports=(80, 443), protocol="tcp")

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A host that says back what it hears, and ends when the other side does."""
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


def credentials(session_id: str = ME, secret: str | None = None) -> bytes:
    coded = base64.b64encode(f"{session_id}:{secret or secret_of(TOKEN + session_id)}".encode())
    return b"Proxy-Authorization: Basic " + coded + b"\r\n"


def connect(to: str, auth: bytes | None = None) -> bytes:
    auth = credentials() if auth is None else auth
    return f"CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n".encode() + auth + b"\r\n"


def get(url: str, *lines: bytes, host: str = "whatever.example.org") -> bytes:
    head = f"GET {url} HTTP/1.1\r\nHost: {host}\r\n".encode() + credentials()
    return head + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


@dataclass
class Door:
    """The proxy, what it knows of sessions, and what it did."""

    proxy: EgressProxy
    port: int
    dns: Upstream
    sessions: dict[str, ProxySession | None]
    policies: dict[str, PolicyVersion]
    dialled: list[tuple[str, int]]
    serve: list[Serve]
    meters: Meters
    writers: list[asyncio.StreamWriter] = field(default_factory=list[asyncio.StreamWriter])
    asked: list[str] = field(default_factory=list[str])
    fault: Exception | None = None

    async def enter(self, pod: str = HERE) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to the proxy from that address."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, local_addr=(pod, 0))
        self.writers.append(writer)
        return reader, writer

    async def say(self, data: bytes, pod: str = HERE) -> bytes:
        """All that comes back, to the end."""
        reader, writer = await self.enter(pod)
        with contextlib.suppress(ConnectionError):
            writer.write(data)
            async with asyncio.timeout(WAIT_S):
                return await reader.read()
        return b""

    async def status(self, data: bytes) -> int:
        """Of the answer to a request; 0 where there is none."""
        reader, writer = await self.enter()
        writer.write(data)
        return await status_of(reader)

    async def tunnel(self, to: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A tunnel that was opened."""
        reader, writer = await self.enter()
        writer.write(connect(to))
        assert await status_of(reader) == 200
        return reader, writer

    def hold(
        self,
        *rules: NetworkRule,
        mode: NetworkMode = "allowlist",
        session: str = ME,
        owner: str = "alice",
        pod: str = HERE,
    ) -> None:
        """Write another policy into the row."""
        version = self.policies[session].version + 1 if session in self.policies else 0
        policy = checked(NetworkPolicy(mode=mode, rules=rules), PRIVATE)
        self.policies[session] = PolicyVersion(
            policy=policy, plan=compile_policy(policy, PRIVATE), version=version
        )
        self.sessions[session] = ProxySession(
            secret=secret_of(TOKEN + session), owner=owner, address=ip_address(pod), version=version
        )


PRIVATE = (IPv4Network("10.9.0.0/16"),)


async def status_of(reader: asyncio.StreamReader) -> int:
    async with asyncio.timeout(WAIT_S):
        head = await reader.readuntil(b"\r\n\r\n")
    return int(head.split()[1])


async def ended(reader: asyncio.StreamReader) -> bytes:
    """What still comes before the end."""
    async with asyncio.timeout(WAIT_S):
        try:
            return await reader.read()
        except ConnectionError:
            return b""


@asynccontextmanager
async def door(
    limits: ProxyLimits | None = None, serve: Serve = echo, dns_limits: DnsLimits = FAST
) -> AsyncGenerator[Door]:
    """A proxy that knows the session ME with the rule ALLOWED. Hosts of all addresses are one server."""
    serving, dialled = [serve], list[tuple[str, int]]()
    sides: list[asyncio.StreamWriter] = []

    async def host(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sides.append(writer)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await serving[0](reader, writer)
        writer.close()

    async with (
        upstream(zone={(SITE, "A"): [SITE_ADDRESS]}) as dns,
        await asyncio.start_server(host, "127.0.0.1", 0) as hosts,
    ):
        place = hosts.sockets[0].getsockname()[1]

        async def dial(address: Address, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            dialled.append((str(address), port))
            return await asyncio.open_connection("127.0.0.1", place)

        async def sessions(session_id: str) -> ProxySession | None:
            made.asked.append(session_id)
            if made.fault is not None:
                raise made.fault
            return made.sessions.get(session_id)

        async def policies(session_id: str) -> PolicyVersion | None:
            return made.policies.get(session_id)

        meters = Meters()
        proxy = EgressProxy(
            sessions=sessions,
            policies=policies,
            resolvers=[dns.resolver],
            deny=[IPv4Network("93.184.217.0/24")],
            is_own=lambda address: str(address) == "93.184.218.1",
            dial=dial,
            limits=limits,
            dns_limits=dns_limits,
            meters=meters,
        )
        port = await proxy.open("127.0.0.1", 0)
        made = Door(proxy, port, dns, {}, {}, dialled, serving, meters)
        made.hold(ALLOWED)
        try:
            yield made
        finally:
            await proxy.aclose()
            for side in (*made.writers, *sides):
                side.transport.abort()


async def test_a_tunnel_carries_bytes_both_ways_and_each_end_by_itself() -> None:
    async with door() as made:
        reader, writer = await made.tunnel(f"{SITE}:443")
        sent = random.Random(1).randbytes(3_000_000)  # noqa: S311 - any bytes
        writer.write(sent)
        writer.write_eof()
        assert await ended(reader) == sent
        assert made.dialled == [(SITE_ADDRESS, 443)]
        state = made.proxy.state(ME)
        assert state is not None
        assert state.proxied
        assert [(one.rule, one.allowed_connections, one.allowed_names) for one in state.counters] == [
            (0, 1, 1)
        ]
        counted = made.meters.registry.get_sample_value
        assert counted("bay_egress_proxy_connections_total", {"verdict": "allowed"}) == 1
        writer.close()
        async with asyncio.timeout(WAIT_S):
            while not counted("bay_egress_proxy_bytes_total", {"direction": "out"}):  # noqa: ASYNC110
                await asyncio.sleep(0.001)


async def test_a_connect_may_say_that_it_has_no_body() -> None:
    async with door() as made:
        said = connect(f"{SITE}:443").replace(b"\r\n", b"\r\nContent-Length: 0\r\n", 1)
        assert await made.status(said) == 200


async def test_bytes_that_come_with_the_head_are_the_first_of_the_tunnel() -> None:
    async with door() as made:
        reader, writer = await made.enter()
        writer.write(connect(f"{SITE}:443") + b"early")
        assert await status_of(reader) == 200
        async with asyncio.timeout(WAIT_S):
            assert await reader.readexactly(5) == b"early"


async def test_a_request_for_a_url_goes_to_its_host_without_what_is_the_proxy_s() -> None:
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nProxy-Authenticate: Basic\r\n\r\nok")

    async with door(serve=serve) as made:
        reader, writer = await made.enter()
        for path in ("/a?b=c", "?only"):
            writer.write(get(f"http://{SITE}{path}", b"Proxy-Connection: keep-alive", b"X-Kept: 1"))
            async with asyncio.timeout(WAIT_S):
                head = await reader.readuntil(b"\r\n\r\n")
                assert await reader.readexactly(2) == b"ok"
            assert b"authenticate" not in head.lower()
    assert [head.split(b" ")[1] for head in heads] == [b"/a?b=c", b"/?only"]
    for head in heads:
        lines = head.lower().split(b"\r\n")
        assert f"host: {SITE}".encode() in lines
        assert b"x-kept: 1" in lines
        assert b"proxy" not in head.lower()
        assert b"whatever" not in head
    assert made.dialled == [(SITE_ADDRESS, 80)] * 2


async def test_a_body_goes_up_and_comes_down_in_pieces() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = await reader.readuntil(b"0\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body)

    async with door(serve=serve) as made:
        head = get(f"http://{SITE}/", b"Transfer-Encoding: chunked", b"Connection: close").replace(
            b"GET", b"POST", 1
        )
        said = await made.say(head + b"5\r\nhello\r\n0\r\n\r\n")
        assert b"hello" in said


STRANGERS = {
    "nothing": b"",
    "a wrong secret": credentials(secret="x" * 64),
    "another session's secret": credentials(secret=secret_of(TOKEN + OTHER)),
    "a session that is over": credentials("sess-gone"),
    "no password": b"Proxy-Authorization: Basic " + base64.b64encode(ME.encode()) + b"\r\n",
    "another scheme": b"Proxy-Authorization: Bearer " + secret_of(TOKEN + ME).encode() + b"\r\n",
    "no Base64": b"Proxy-Authorization: Basic ***\r\n",
    "credentials twice": credentials() * 2,
    "very long ones": credentials(secret="x" * 2000),
    "letters outside of ASCII": credentials(secret="\u00e4"),
}


@pytest.mark.parametrize("auth", STRANGERS.values(), ids=STRANGERS)
async def test_a_stranger_is_told_to_show_credentials_and_nothing_else(auth: bytes) -> None:
    async with door() as made:
        said = await made.say(connect(f"{SITE}:443", auth))
        assert said.startswith(b"HTTP/1.1 407 ")
        assert b'proxy-authenticate: basic realm="bay"' in said.lower()
        assert made.dialled == []
        assert made.dns.asked == []


async def test_the_secret_of_a_session_opens_nothing_from_another_address() -> None:
    async with door() as made:
        session = made.sessions[ME]
        assert session is not None
        made.sessions[ME] = replace(session, address=ip_address("10.1.2.3"))
        assert await made.status(connect(f"{SITE}:443")) == 407


async def test_a_connection_stays_with_the_session_that_began_it() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    async with door(serve=serve) as made:
        made.hold(ALLOWED, session=OTHER)
        reader, writer = await made.enter()
        writer.write(get(f"http://{SITE}/"))
        assert await status_of(reader) == 200
        writer.write(get(f"http://{SITE}/").replace(credentials(), credentials(OTHER)))
        assert await status_of(reader) == 407


async def test_a_database_that_is_away_is_no_way_in() -> None:
    async with door() as made:
        made.fault = DatabaseUnavailable("away")
        assert await made.status(connect(f"{SITE}:443")) == 503
        assert made.dialled == []


@pytest.mark.parametrize("port", [22, 8443])
async def test_a_rule_for_ports_allows_those_alone(port: int) -> None:
    async with door() as made:
        assert await made.status(connect(f"{SITE}:{port}")) == 403
        assert made.dialled == []


async def test_a_name_that_no_rule_allows_is_refused_without_a_question_to_the_outside() -> None:
    async with door() as made:
        made.dns.zone["evil.example.org", "A"] = [SITE_ADDRESS]
        assert await made.status(connect("evil.example.org:443")) == 403
        assert made.dns.asked == []
        state = made.proxy.state(ME)
        assert state is not None
        assert [(one.name, one.reason, one.count) for one in state.refused] == [
            ("evil.example.org", "policy", 1)
        ]


INWARD = [
    "127.0.0.1", "10.0.0.1", "10.9.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0",  # noqa: S104
     "93.184.217.9", "93.184.218.1",
    "168.63.129.16", "224.0.0.1", "192.168.1.1",
]  # fmt: skip


@pytest.mark.parametrize("address", INWARD)
async def test_a_name_that_leads_inward_leads_nowhere(address: str) -> None:
    async with door() as made:
        made.hold(ALLOWED, NetworkRule(action="allow", cidr="0.0.0.0/0"))
        made.dns.zone["inward.example.com", "A"] = [address]
        assert await made.status(connect("inward.example.com:443")) == 403
        assert await made.status(connect(f"{address}:443")) == 403
        assert made.dialled == []


@pytest.mark.parametrize(
    "host",
    ["[::1]", "[::ffff:10.0.0.1]", "[64:ff9b::a00:1]", "[fe80::1]", "[fd00::1]", "[2606:2800:220:1::1]"],
)
async def test_no_form_of_ipv6_leads_anywhere_where_it_is_off(host: str) -> None:
    async with door() as made:
        made.hold(NetworkRule(action="allow", cidr="::/0"), mode="open")
        assert await made.status(connect(f"{host}:443")) == 403
        assert made.dialled == []


@pytest.mark.parametrize("host", ["2130706433", "0x7f.1", "127.1", "017700000001", "0177.0.0.1", "localhost"])
async def test_other_spellings_of_addresses_are_names_that_do_not_exist(host: str) -> None:
    async with door() as made:
        made.hold(mode="open")
        assert await made.status(connect(f"{host}:443")) in (403, 502)
        assert made.dialled == []


async def test_of_a_name_with_addresses_of_both_kinds_only_public_ones_are_dialled() -> None:
    async with door() as made:
        made.dns.zone[SITE, "A"] = ["10.0.0.1", "93.184.217.1", SITE_ADDRESS, "127.0.0.1"]
        await made.tunnel(f"{SITE}:443")
        assert made.dialled == [(SITE_ADDRESS, 443)]


async def test_a_name_that_turns_inward_later_leads_nowhere() -> None:
    async with door() as made:
        made.dns.ttl = 0
        await made.tunnel(f"{SITE}:443")
        made.dns.zone[SITE, "A"] = ["10.0.0.1"]
        made.dns.zone["again.example.com", "A"] = ["10.0.0.1"]
        assert await made.status(connect("again.example.com:443")) == 403
        assert {address for address, _ in made.dialled} == {SITE_ADDRESS}


async def test_a_private_host_is_reached_where_setting_and_rule_say_so() -> None:
    async with door() as made:
        made.hold(NetworkRule(action="allow", cidr="10.9.0.1", ports=(443,)))
        await made.tunnel("10.9.0.1:443")
        assert await made.status(connect("10.9.0.2:443")) == 403
        assert await made.status(connect("10.9.0.1:80")) == 403
        assert made.dialled == [("10.9.0.1", 443)]


async def test_a_denied_cidr_beats_a_name() -> None:
    async with door() as made:
        made.hold(ALLOWED, NetworkRule(action="deny", cidr="93.184.216.0/24"))
        assert await made.status(connect(f"{SITE}:443")) == 403
        assert made.dialled == []


async def test_open_with_denied_names_reaches_all_others() -> None:
    async with door() as made:
        made.hold(NetworkRule(action="deny", domain="denied.example.com"), mode="open")
        made.dns.zone["denied.example.com", "A"] = ["93.184.216.35"]
        assert await made.status(connect("denied.example.com:443")) == 403
        await made.tunnel(f"{SITE}:8443")


async def test_a_changed_row_holds_for_the_next_connection_without_another_word() -> None:
    async with door() as made:
        await made.tunnel(f"{SITE}:443")
        made.hold()
        assert await made.status(connect(f"{SITE}:443")) == 403
        made.hold(ALLOWED)
        await made.tunnel(f"{SITE}:443")


async def test_a_change_ends_connections_that_it_does_not_allow_and_no_others() -> None:
    async with door() as made:
        made.dns.zone["kept.example.com", "A"] = [SITE_ADDRESS]
        gone, _ = await made.tunnel(f"{SITE}:443")
        kept, writer = await made.tunnel("kept.example.com:443")
        made.hold(NetworkRule(action="allow", domain="kept.example.com"))
        await made.proxy.renew(ME)
        assert await ended(gone) == b""
        writer.write(b"on")
        async with asyncio.timeout(WAIT_S):
            assert await kept.readexactly(2) == b"on"


async def test_a_change_during_the_dial_holds() -> None:
    async with door() as made:
        asked = made.dns.gate = asyncio.Event()
        answer = asyncio.ensure_future(made.status(connect(f"{SITE}:443")))
        await made.dns.heard.wait()
        made.hold()
        await made.proxy.renew(ME)
        asked.set()
        assert await answer in (403, 502)


async def test_the_end_of_a_session_ends_its_connections() -> None:
    async with door() as made:
        reader, _ = await made.tunnel(f"{SITE}:443")
        del made.policies[ME]
        made.sessions[ME] = None
        await made.proxy.renew(ME)
        assert await ended(reader) == b""
        assert await made.status(connect(f"{SITE}:443")) == 407
        assert made.proxy.known(connected=False) == {}


async def test_a_session_has_so_many_connections_and_others_have_theirs() -> None:
    async with door(ProxyLimits(connections=3)) as made:
        for _ in range(3):
            await made.tunnel(f"{SITE}:443")
        assert await made.say(connect(f"{SITE}:443")) == b""
        state = made.proxy.state(ME)
        assert state is not None
        assert [one.refused_connections for one in state.counters if one.reason == "flood"] == [1]


async def stalled(made: Door, session: str, pod: str) -> list[asyncio.StreamWriter]:
    """Tunnels of a session that nobody reads from, as many as it gets."""
    made.hold(ALLOWED, session=session, owner=session.partition("-")[0], pod=pod)
    got: list[asyncio.StreamWriter] = []
    while True:
        reader, writer = await made.enter(pod)
        writer.write(connect(f"{SITE}:443", credentials(session)))
        try:
            if await status_of(reader) != 200:
                return got
        except (asyncio.IncompleteReadError, ConnectionError):
            return got
        got.append(writer)


async def test_one_owner_s_sandboxes_leave_connections_to_those_of_every_other_owner() -> None:
    async with door(ProxyLimits(connections=8, all_connections=24)) as made:
        hostile = [await stalled(made, f"mallory-{number}", f"127.0.0.{2 + number}") for number in range(4)]
        assert [len(one) for one in hostile] == [8, 8, 0, 0]
        assert len(await stalled(made, "alice-1", "127.0.0.8")) > 3
        assert len(await stalled(made, "bob-1", "127.0.0.9")) > 0


async def test_connections_that_are_over_are_free_for_their_owner_and_others() -> None:
    async with door(ProxyLimits(connections=100, all_connections=24)) as made:
        for session, pod in (
            ("mallory-1", "127.0.0.2"),
            ("mallory-2", "127.0.0.3"),
            ("alice-1", "127.0.0.4"),
        ):
            got = await stalled(made, session, pod)
            assert len(got) == 16
            for writer in got:
                writer.close()
            await until_free(made)


async def test_an_owner_with_its_share_is_told_so_and_the_sandbox_counts_it() -> None:
    async with door(ProxyLimits(connections=2, all_connections=3)) as made:
        assert len(await stalled(made, "mallory-1", "127.0.0.2")) == 2
        made.hold(ALLOWED, session="mallory-2", owner="mallory", pod="127.0.0.3")
        told = await made.say(connect(f"{SITE}:443", credentials("mallory-2")), "127.0.0.3")
        assert told.startswith(b"HTTP/1.1 429 "), told
        assert b"have their share of connections" in told
        state = made.proxy.state("mallory-2")
        assert state is not None
        assert [one.refused_connections for one in state.counters if one.reason == "flood"] == [1]


async def test_addresses_that_show_no_credentials_leave_connections_to_others() -> None:
    async with door(ProxyLimits(connections=100, all_connections=24)) as made:
        taken: list[asyncio.StreamReader] = []
        for _ in range(24):
            reader, _ = await made.enter("127.0.0.2")
            taken.append(reader)
        cut = [reader for reader in taken[16:] if await ended(reader) == b""]
        assert len(cut) == 8
        assert len(await stalled(made, "alice-1", "127.0.0.3")) > 3


async def until_free(made: Door) -> None:
    """Return once no connection is counted."""
    async with asyncio.timeout(WAIT_S):
        while made.proxy.connections:  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def test_a_flood_of_connections_is_cut_before_bay_looks_anything_up() -> None:
    async with door(ProxyLimits(requests_per_s=0.001, requests_at_once=5)) as made:
        for _ in range(20):
            await made.say(connect(f"{SITE}:443", b""))
        for _ in range(20):
            await made.say(connect(f"{SITE}:443"))
        assert len(made.asked) <= 5


async def test_a_head_that_comes_slowly_is_not_waited_for() -> None:
    async with door(ProxyLimits(head_s=0.2)) as made:
        assert await made.say(b"CONNECT site") == b""
        assert await made.say(b"") == b""
    assert made.dialled == []


async def test_a_tunnel_without_a_word_ends() -> None:
    async with door(ProxyLimits(tunnel_idle_s=0.2)) as made:
        reader, _ = await made.tunnel(f"{SITE}:443")
        assert await ended(reader) == b""


async def test_a_side_that_takes_nothing_holds_the_other_one_up() -> None:
    held_up = asyncio.Event()

    async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                writer.write(bytes(1 << 20))
                async with asyncio.timeout(0.5):
                    await writer.drain()
        except TimeoutError:
            held_up.set()

    async with door(serve=serve) as made:
        reader, writer = await made.tunnel(f"{SITE}:443")
        writer.transport.pause_reading()  # type: ignore[attr-defined] - a transport of a socket
        async with asyncio.timeout(WAIT_S):
            await held_up.wait()
        state = made.proxy.state(ME)
        assert state is not None
        assert 0 < state.received_bytes < 32 << 20
        assert not reader.at_eof()


async def test_however_much_is_carried_the_event_loop_has_time_for_others() -> None:
    async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(bytes(1 << 18))
            await writer.drain()

    async def swallow(reader: asyncio.StreamReader) -> None:
        while await reader.read(1 << 18):
            pass

    async with door(ProxyLimits(pieces=2), serve=serve) as made:
        tunnels = [await made.tunnel(f"{SITE}:443") for _ in range(12)]
        swallowing = [asyncio.ensure_future(swallow(reader)) for reader, _ in tunnels]
        seen: list[int] = []
        async with asyncio.timeout(WAIT_S):
            while len(seen) < 100 or seen[-1] < 16 << 20:
                await asyncio.sleep(0)
                state = made.proxy.state(ME)
                assert state is not None
                seen.append(state.received_bytes)
        for one in swallowing:
            one.cancel()
        await asyncio.gather(*swallowing, return_exceptions=True)
        in_a_turn = max(later - sooner for sooner, later in itertools.pairwise(seen))
        assert 0 < in_a_turn <= 2 * 65536


async def test_the_end_of_what_a_client_sends_reaches_a_host_that_reads_slowly() -> None:
    """The host has ended its own side, so that the client's end is that of the tunnel."""
    sent, heard = 2_000_000, asyncio.get_running_loop().create_future()
    may_read = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write_eof()
        await may_read.wait()
        heard.set_result(len(await reader.read()))

    async with door(serve=serve) as made:
        dial = made.proxy.dial

        async def narrow(address: Address, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            reader, writer = await dial(address, port)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
            return reader, writer

        made.proxy.dial = narrow
        reader, writer = await made.tunnel(f"{SITE}:443")
        assert await ended(reader) == b""
        writer.write(bytes(sent))
        writer.write_eof()
        await carried_until_it_stalls(made)
        may_read.set()
        async with asyncio.timeout(WAIT_S):
            assert await heard == sent


async def carried_until_it_stalls(made: Door) -> None:
    """Return when something was sent, and no more goes on for a hundred turns of the loop."""
    last, same = 0, 0
    async with asyncio.timeout(WAIT_S):
        while same < 100 or not last:
            await asyncio.sleep(0)
            state = made.proxy.state(ME)
            assert state is not None
            last, same = state.sent_bytes, same + 1 if state.sent_bytes == last else 0


async def turns_until(fact: Callable[[], bool]) -> None:
    """Return after as many turns of the event loop as it takes."""
    async with asyncio.timeout(WAIT_S):
        while not fact():  # noqa: ASYNC110 - turns of the loop, not time
            await asyncio.sleep(0)


@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
async def test_a_refusal_is_told_whatever_the_method(method: bytes) -> None:
    async with door() as made:
        said = await made.say(get("http://other.example.org/").replace(b"GET", method, 1))
        assert said.startswith(b"HTTP/1.1 403 Refused\r\n")
        assert (said.partition(b"\r\n\r\n")[2] == b"") == (method == b"HEAD")


async def test_of_a_name_with_hundreds_of_addresses_few_are_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    judged: list[Address] = []
    decide = CompiledPolicy.decide

    def counted(self: CompiledPolicy, address: Address, *given: Any) -> PolicyDecision:
        judged.append(address)
        return decide(self, address, *given)

    monkeypatch.setattr(CompiledPolicy, "decide", counted)
    async with door() as made:
        made.dns.zone["many.example.com", "A"] = [f"93.184.216.{last}" for last in range(1, 201)]
        assert await made.status(connect("many.example.com:22")) == 403
    assert 0 < len(judged) < 20


async def test_so_many_names_are_asked_for_at_a_time_and_one_name_once() -> None:
    names = [f"n{number}.example.com" for number in range(6)]
    async with door(dns_limits=replace(FAST, in_flight=2, tries_s=(WAIT_S,), answer_s=WAIT_S)) as made:
        made.dns.zone |= {(name, "A"): [SITE_ADDRESS] for name in names}
        made.dns.gate = asyncio.Event()
        asking = [asyncio.ensure_future(made.status(connect(f"{name}:443"))) for name in names * 2]
        await turns_until(lambda: len(made.asked) == len(asking) and len(made.dns.asked) >= 2)
        for _ in range(200):
            await asyncio.sleep(0)
        assert len(made.dns.asked) == 2
        made.dns.gate.set()
        assert await asyncio.gather(*asking) == [200] * len(asking)
        assert len(made.dns.asked) <= len(names) + 1  # the two that are asked at first may be the same


async def test_a_policy_is_read_once_however_many_connections_wait_for_it() -> None:
    async with door() as made:
        gate, reading = asyncio.Event(), 0
        policies = made.proxy._policies  # pyright: ignore[reportPrivateUsage]

        async def slow(session_id: str) -> PolicyVersion | None:
            nonlocal reading
            reading += 1
            await gate.wait()
            return await policies(session_id)

        made.proxy._policies = slow  # pyright: ignore[reportPrivateUsage]
        asking = [asyncio.ensure_future(made.status(connect(f"{SITE}:443"))) for _ in range(20)]
        await turns_until(lambda: len(made.asked) == len(asking))
        gate.set()
        assert await asyncio.gather(*asking) == [200] * len(asking)
        assert reading == 1


@pytest.mark.parametrize(("fault", "is_own"), [(errno.EMFILE, True), (errno.ENETUNREACH, False)])
def test_an_address_that_bay_has_no_descriptor_to_look_at_counts_as_its_own(
    monkeypatch: pytest.MonkeyPatch, fault: int, is_own: bool
) -> None:
    def full(*_: object) -> None:
        raise OSError(fault, "no")

    monkeypatch.setattr(server.socket, "socket", full)
    assert server._is_own(ip_address(SITE_ADDRESS)) is is_own  # pyright: ignore[reportPrivateUsage]


def test_the_counts_of_former_rules_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bay.network.proxy.guest._COUNTED", 10)

    def version(number: int) -> PolicyVersion:
        rule = NetworkRule(action="deny", cidr=f"20.0.{number}.0/24")
        policy = checked(NetworkPolicy(mode="open", rules=(rule,)))
        return PolicyVersion(policy=policy, plan=compile_policy(policy), version=number)

    around = ForwarderContext(
        cast(Any, None), cast(Any, None), lambda _: True, False, FAST, lambda: 0.0, utc_now, Meters()
    )
    guest = ProxyGuest(1, ME, "alice", version(0), around, lambda _: False)
    for number in range(50):
        guest.hold(version(number))
        with pytest.raises(NotPassedOn):
            asyncio.run(guest.addresses(EgressTarget(ip_address(f"20.0.{number}.1"), 80)))
        assert len(guest._counts) <= 11  # pyright: ignore[reportPrivateUsage]
    assert [one.refused_connections for one in guest.state().counters] == [1]


MALFORMED = {
    "no request": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 30 + b"\r\n\r\n", 400),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 407),
    "a path": (b"GET / HTTP/1.1\r\nHost: a\r\n" + credentials() + b"\r\n", 400),
    "https": (get(f"https://{SITE}/"), 400),
    "ftp": (get(f"ftp://{SITE}/"), 400),
    "a password in the URL": (get(f"http://user:pw@{SITE}/"), 400),
    "a fragment": (get(f"http://{SITE}/#part"), 400),
    "CONNECT without a port": (connect(SITE), 400),
    "port 0": (connect(f"{SITE}:0"), 400),
    "port 65536": (connect(f"{SITE}:65536"), 400),
    "a URL in CONNECT": (connect(f"http://{SITE}:443/"), 400),
    "a zone": (connect("[fe80::1%25eth0]:443"), 400),
    "an empty label": (connect("site..example.com:443"), 400),
    "a long label": (connect("a" * 64 + ".example.com:443"), 400),
    "a long name": (connect(".".join(["a" * 60] * 5) + ":443"), 400),
    "CONNECT with a body": (connect(f"{SITE}:443").replace(b"\r\n", b"\r\nContent-Length: 5\r\n", 1), 400),
    "CONNECT with chunks": (
        connect(f"{SITE}:443").replace(b"\r\n", b"\r\nTransfer-Encoding: chunked\r\n", 1),
        400,
    ),
    "two lengths": (get(f"http://{SITE}/", b"Content-Length: 1", b"Transfer-Encoding: chunked"), 400),
    "two hosts": (get(f"http://{SITE}/", b"Host: other"), 400),
    "a long head": (get(f"http://{SITE}/", *(b"X-Long: " + b"x" * 1000,) * 100), 431),
}


@pytest.mark.parametrize(("said", "status"), MALFORMED.values(), ids=MALFORMED)
async def test_a_malformed_request_reaches_no_host(said: bytes, status: int) -> None:
    async with door() as made:
        assert await made.status(said) == status
        assert made.dialled == []


async def test_noise_reaches_no_host_and_harms_no_one_else() -> None:
    noise = random.Random(7)  # noqa: S311 - the same each time
    letters = string.printable.encode() + bytes(range(256))
    parts = [b"CONNECT ", b"GET http://", SITE.encode(), b":443", b" HTTP/1.1\r\n", b"Host: a\r\n", credentials(),
             b"\r\n", b"\r\n\r\n", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"10.0.0.1", b"[::1]",
             b"Proxy-Authorization: Basic ", b"\0", b"\xff" * 9]  # fmt: skip
    async with door(
        ProxyLimits(requests_per_s=1e6, requests_at_once=1e6, head_s=0.05, idle_s=0.05, tunnel_idle_s=0.05)
    ) as made:
        made.hold(NetworkRule(action="allow", domain=SITE, ports=(443,)))
        for _ in range(150):
            count = noise.randrange(1, 12)
            said = b"".join(
                noise.choice(parts)
                if noise.random() < 0.8
                else bytes(noise.choices(letters, k=noise.randrange(40)))
                for _ in range(count)
            )
            await made.say(said)
        assert set(made.dialled) <= {(SITE_ADDRESS, 443)}
        reader, writer = await made.tunnel(f"{SITE}:443")
        writer.write(b"on")
        assert await reader.readexactly(2) == b"on"


def test_the_traffic_of_a_session_is_that_of_all_proxies_together() -> None:
    def counter(rule: int | None, allowed: int) -> NetworkCounter:
        return NetworkCounter(
            rule=rule, reason=None if rule is not None else "default", allowed_connections=allowed,
            refused_connections=1, allowed_names=2, refused_names=0,
        )  # fmt: skip

    def refused(name: str, second: int, count: int) -> RefusedName:
        at = datetime(2026, 1, 1, 0, 0, second, tzinfo=UTC)
        return RefusedName(
            name=name, type="A", reason="policy", rule=None, count=count, first_at=at, last_at=at
        )

    def state(*counters: NetworkCounter, names: tuple[RefusedName, ...] = ()) -> NetworkState:
        return NetworkState(
            mode="allowlist", enforced=True, counters=counters, refused=names, received_bytes=10, sent_bytes=1
        )

    one = state(counter(1, 5), counter(None, 1), names=(refused("a", 1, 3), refused("b", 5, 1)))
    other = state(counter(0, 1), counter(1, 2), names=(refused("a", 9, 4),))
    found = sum_of(state(), [one, other])
    assert found.proxied
    assert (found.received_bytes, found.sent_bytes) == (20, 2)
    assert [(c.rule, c.allowed_connections, c.refused_connections) for c in found.counters] == [
        (0, 1, 1),
        (1, 7, 2),
        (None, 1, 1),
    ]
    assert [(name.name, name.count) for name in found.refused] == [("b", 1), ("a", 7)]
    assert [name.name for name in sum_of(state(), [one, other], names=1).refused] == ["a"]


def test_programs_find_the_proxy_and_their_credentials_in_both_spellings() -> None:
    found = environment("10.1.2.3:8701", ME, TOKEN)
    url = f"http://{ME}:{secret_of(TOKEN)}@10.1.2.3:8701"
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        assert found[name] == found[name.lower()] == url
    assert found["NO_PROXY"] == found["no_proxy"] == "localhost,127.0.0.1,::1"
    assert TOKEN not in url
    assert secret_of("another") != secret_of(TOKEN)
