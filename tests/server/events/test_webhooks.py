"""Webhooks: each event in order and at least once, signed; and never a request to where no user may reach."""

import asyncio
import ipaddress
import json
import ssl
import subprocess
from collections.abc import AsyncGenerator, Callable
from datetime import UTC, datetime
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any

import httpx
import pytest
from receiver import HANG, Got, receiving
from server_harness import WAIT_S, Json, World, assert_error, clear, create, until, within, world
from serving import KEY, serving
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

import bay as sdk
from bay.errors import InvalidArgument
from bay.server.events.webhook_delivery import BACKOFF, GIVE_UP, Poster
from bay.server.events.webhooks import MAX_WEBHOOKS
from bay.server.web.public_addresses import Addresses, checked_url, is_own, is_public, port_of
from bay.store import webhooks
from bay.store.connection import StoreConnection
from bay.webhook_signature import new_webhook_secret, webhook_signature

pytestmark = pytest.mark.anyio

PORTS = ("80", "443", "1024-65535")
LOOPBACK = (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128"))
PUBLIC = "https://[2606:4700::1111]/hook?token=hush"
"""A public address that nothing is ever sent to: the tests that use it ask for events that do not come."""


@pytest.fixture
async def hooked(root: Path) -> AsyncGenerator[World]:
    """A Bay that may send to this machine."""
    try:
        async with world(root, webhook_allow=LOOPBACK) as running:
            yield running
    finally:
        await clear(root)


async def hook(client: httpx.AsyncClient, url: str, **body: Any) -> Json:
    answer = await client.post("/v1/webhooks", json={"url": url, **body})
    assert answer.status_code == 201, answer.text
    return answer.json()


async def hook_when(client: httpx.AsyncClient, made: Json, done: Callable[[Json], bool]) -> Json:
    """The webhook once `done` holds for it; its row changes without a word to anybody."""
    async with asyncio.timeout(WAIT_S):
        while not done(found := (await client.get(f"/v1/webhooks/{made['id']}")).json()):  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    return found


def verified(made: Json, got: Got) -> sdk.Event:
    return sdk.verify_webhook(
        made["secret"], got.headers, got.body, now=float(got.headers["webhook-timestamp"])
    )


def pass_time(bay: World, seconds: float) -> None:
    bay.clock.advance(seconds)
    bay.bay.deliverer.recheck()


# Delivery


async def test_events_arrive_in_order_signed_and_as_the_api_shows_them(hooked: World) -> None:
    alice = await hooked.client()
    async with receiving() as receiver:
        made = await hook(alice, receiver.url)
        box = await create(alice, profile="eager", wait=WAIT_S)
        await alice.delete(f"/v1/sandboxes/{box['id']}")
        kept = (await alice.get("/v1/events")).json()["items"]
        await until(lambda: len(receiver.got) == len(kept))
    assert [json.loads(got.body) for got in receiver.got] == kept
    assert [verified(made, got).id for got in receiver.got] == [event["id"] for event in kept]
    assert receiver.kinds == [event["type"] for event in kept]
    assert len({got.headers["webhook-id"] for got in receiver.got}) == len(kept)
    assert {got.path for got in receiver.got} == {"/hook"}


async def test_only_the_wanted_types_come_and_only_from_then_on(hooked: World) -> None:
    alice = await hooked.client()
    await create(alice)
    async with receiving() as receiver:
        await hook(alice, receiver.url, types=["sandbox.deleted", "sandbox.created"])
        box = await create(alice, profile="eager", wait=WAIT_S)
        await alice.delete(f"/v1/sandboxes/{box['id']}")
        await until(lambda: len(receiver.got) == 2)
    assert receiver.kinds == ["sandbox.created", "sandbox.deleted"]


async def test_what_failed_is_sent_again_later_under_the_same_webhook_id(hooked: World) -> None:
    alice = await hooked.client()
    async with receiving("500", "404", "200", "204") as receiver:
        made = await hook(alice, receiver.url)
        await create(alice)
        failing = await hook_when(alice, made, lambda h: h["attempts"] == 1)
        assert failing["last_error"] == "answered 500"
        assert failing["next_attempt_at"] > made["created_at"]
        await create(alice)  # a later event does not overtake
        pass_time(hooked, 1)
        await hook_when(alice, made, lambda h: h["attempts"] == 2)
        pass_time(hooked, 1)  # the pause is two seconds by now
        pass_time(hooked, 1)
        well = await hook_when(alice, made, lambda h: h["attempts"] == 0)
        await until(lambda: len(receiver.got) == 4)
    assert (well["last_error"], well["next_attempt_at"]) == (None, None)
    deliveries = [got.headers["webhook-id"] for got in receiver.got]
    assert deliveries[0] == deliveries[1] == deliveries[2] != deliveries[3]
    assert [verified(made, got).type for got in receiver.got] == ["sandbox.created"] * 4


def test_pauses_double_up_to_an_hour() -> None:
    assert [BACKOFF.pause(n) for n in (1, 2, 3, 12, 13, 1000)] == [1, 2, 4, 2048, 3600, 3600]


async def test_after_a_day_an_event_is_given_up_and_the_next_one_comes(hooked: World) -> None:
    alice = await hooked.client()
    async with receiving("500", "500", "200") as receiver:
        made = await hook(alice, receiver.url)
        await create(alice, name="first")
        await create(alice, name="second")
        await hook_when(alice, made, lambda h: h["attempts"] == 1)
        hooked.clock.advance(GIVE_UP.total_seconds())
        last = await create(alice, name="third")
        pass_time(hooked, 0)
        await hook_when(alice, made, lambda h: h["attempts"] == 2)
        pass_time(hooked, 2)
        await hook_when(alice, made, lambda h: h["attempts"] == 0)
    assert len(receiver.got) == 3
    assert json.loads(receiver.got[0].body) == json.loads(receiver.got[1].body)
    assert verified(made, receiver.got[2]).sandbox_id == last["id"]  # what was as old went with it


async def test_a_restart_goes_on_where_it_was(root: Path) -> None:
    async with receiving("200", "500") as receiver:
        async with world(root, webhook_allow=LOOPBACK) as bay:
            alice = await bay.client()
            made = await hook(alice, receiver.url)
            await create(alice)
            await until(lambda: len(receiver.got) == 1)
            await create(alice)
            await hook_when(alice, made, lambda h: h["attempts"] == 1)
        async with world(root, webhook_allow=LOOPBACK) as bay:
            alice = await bay.client()
            pass_time(bay, 1)
            await create(alice)
            await until(lambda: len(receiver.got) == 4)
    ids = [verified(made, got).id for got in receiver.got]
    assert ids[1] == ids[2]
    assert len(set(ids)) == 3
    await clear(root)


async def test_a_receiver_that_hangs_holds_up_no_other(hooked: World) -> None:
    alice, bob = await hooked.client("alice"), await hooked.client("bob")
    async with (
        receiving(HANG, HANG, HANG, HANG, HANG, HANG) as dead,
        receiving() as alive,
        receiving() as bobs,
    ):
        for _ in range(3):
            await hook(alice, dead.url)
        await hook(alice, alive.url)
        await hook(bob, bobs.url)
        for _ in range(3):
            await create(alice)
            await create(bob)
        await until(lambda: len(alive.got) == len(bobs.got) == 3)
        await until(lambda: len(dead.got) == 3)


async def test_a_webhook_that_comes_while_the_others_are_read_is_served(
    hooked: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, go, ids = asyncio.Event(), asyncio.Event(), webhooks.ids

    async def held_ids(db: StoreConnection) -> list[tuple[str, str]]:
        found = await ids(db)
        read.set()
        await go.wait()
        return found

    monkeypatch.setattr(webhooks, "ids", held_ids)
    alice = await hooked.client()
    async with receiving() as first, receiving() as second:
        await hook(alice, first.url)
        await within(read.wait())
        await hook(alice, second.url)
        go.set()
        await create(alice)
        await until(lambda: len(first.got) == len(second.got) == 1)


async def test_a_deleted_webhook_gets_nothing_more(hooked: World) -> None:
    alice = await hooked.client()
    async with receiving(HANG) as receiver, receiving() as other:
        made = await hook(alice, receiver.url)
        await create(alice)
        await until(lambda: len(receiver.got) == 1)  # and hangs
        assert (await alice.delete(f"/v1/webhooks/{made['id']}")).status_code == 204
        await until(lambda: not hooked.bay.deliverer._tasks)
        await hook(alice, other.url)
        await create(alice)
        await until(lambda: len(other.got) == 1)
    assert len(receiver.got) == 1
    assert_error(await alice.delete(f"/v1/webhooks/{made['id']}"), 404, "not_found")


async def test_nobodys_webhook_is_told_of_anothers_events(hooked: World) -> None:
    alice, bob = await hooked.client("alice"), await hooked.client("bob")
    async with receiving() as hers, receiving() as his:
        await hook(alice, hers.url)
        await hook(bob, his.url)
        box, own = await create(alice), await create(bob)
        await until(lambda: bool(hers.got and his.got))
        await hook(bob, hers.url)
    assert [json.loads(got.body)["sandbox_id"] for got in hers.got] == [box["id"]]
    assert [json.loads(got.body)["sandbox_id"] for got in his.got] == [own["id"]]


# One request


def poster(**allowed: Any) -> Poster:
    return Poster(Addresses(allowed.pop("allow", LOOPBACK), PORTS), **allowed)


async def send(to: Poster, url: str) -> str | None:
    try:
        return await within(to.post(url, {"webhook-id": "x"}, b"{}"))
    finally:
        to._addresses.close()


async def test_what_goes_wrong_is_said_in_words() -> None:
    async with receiving(HANG, "500", "302 http://127.0.0.1/", "204") as receiver:
        assert await send(poster(deadline_s=0.1), receiver.url) == "no answer within 0.1 s"
        assert await send(poster(), receiver.url) == "answered 500"
        assert await send(poster(), receiver.url) == "answered 302; redirects are not followed"
        assert await send(poster(), receiver.url) is None
        gone = receiver.url
    assert await send(poster(), gone) == "the request failed: ConnectError"


async def test_a_redirect_is_not_followed() -> None:
    async with receiving() as secret, receiving(f"307 {secret.url}") as receiver:
        assert "redirects" in str(await send(poster(), receiver.url))
        assert secret.got == []


async def test_an_answer_without_end_is_not_read_to_its_end() -> None:
    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 x\r\n\r\n")
        try:
            while True:
                writer.write(b"x" * 65536)
                await writer.drain()
        except ConnectionError:
            writer.close()

    server = await asyncio.start_server(flood, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        assert await send(poster(deadline_s=WAIT_S), url) is None


async def test_proxies_of_the_environment_see_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async with receiving() as proxy, receiving() as receiver:
        for name in ("HTTP_PROXY", "ALL_PROXY", "http_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        assert await send(poster(), receiver.url) is None
        assert (len(proxy.got), len(receiver.got)) == (0, 1)


class Names:
    """A resolver of names that no name server knows. A second look-up gives another address."""

    def __init__(self, **names: list[str]) -> None:
        self._names = names
        self.asked: list[str] = []

    def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append(host)
        return self._names[host.replace(".", "_")] if self.asked.count(host) == 1 else ["192.0.2.1"]

    def poster(self) -> Poster:
        return Poster(Addresses(LOOPBACK, PORTS, self))


async def test_the_request_goes_to_the_address_that_was_checked_under_the_name() -> None:
    names = Names(receiver_test=["127.0.0.1"])
    async with receiving() as receiver:
        url = f"http://receiver.test:{receiver.port}/x?y=z"
        assert await send(names.poster(), url) is None
    assert names.asked == ["receiver.test"]
    assert receiver.got[0].headers["host"] == f"receiver.test:{receiver.port}"
    assert receiver.got[0].path == "/x?y=z"


async def test_the_next_address_is_tried_when_the_first_takes_no_connection() -> None:
    async with receiving() as receiver:
        names = Names(receiver_test=["::1", "127.0.0.1"])
        assert await send(names.poster(), f"http://receiver.test:{receiver.port}/") is None


def certificate(directory: Path, name: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """What a server of that name has, and what trusts it."""
    key, cert = directory / "key.pem", directory / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}", "-keyout", str(key), "-out", str(cert)],
        capture_output=True, timeout=30, check=True,
    )  # fmt: skip
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(cert, key)
    return server, ssl.create_default_context(cafile=str(cert))


async def test_the_certificate_must_be_the_names_and_not_the_addresss(tmp_path: Path) -> None:
    server, trust = await asyncio.to_thread(certificate, tmp_path, "receiver.test")
    seen: list[str | None] = []
    server.sni_callback = lambda _socket, name, _context: seen.append(name)
    async with receiving(tls=server) as receiver:
        for name, wanted in (("receiver.test", None), ("other.test", "the request failed: ConnectError")):
            to = Names(receiver_test=["127.0.0.1"], other_test=["127.0.0.1"]).poster()
            to._tls = trust
            assert await send(to, f"https://{name}:{receiver.port}/") == wanted
    assert seen == ["receiver.test", "other.test"]
    assert len(receiver.got) == 1


# Where no request goes


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.255.254",  # noqa: S104
        "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.8", "192.0.0.192", "192.0.2.1", "192.88.99.1",
        "192.168.1.1", "198.18.0.1", "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
        "168.63.129.16", "::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::ffff:169.254.169.254",
        "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2001::1", "2001:10::1", "2001:db8::1",
        "2002:7f00:1::", "2002:a9fe:a9fe::1", "3fff::1", "5f00::1", "fc00::1", "fd00:ec2::254", "fe80::1",
        "fe80::1%1", "2606:4700::1111%1", "fec0::1", "ff02::1", "ff0e::1", "100::1",
    ],
)  # fmt: skip
def test_an_address_that_is_not_the_internets_is_refused(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "93.184.216.34", "192.0.1.1", "2606:4700::1111", "2a00:1450::1"]
)
def test_an_address_of_the_internet_is_not(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "0", "localhost", "LOCALHOST", "[::1]", "[::]",
        "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "[fe80::1]", "10.0.0.1",
        "169.254.169.254", "\uff11\uff12\uff17.0.0.1", "127\u30020\u30020\u30021",
    ],
)  # fmt: skip
async def test_nothing_of_this_host_is_reached_however_it_is_written(bay: World, host: str) -> None:
    alice = await bay.client()
    async with receiving() as receiver:
        answer = await alice.post("/v1/webhooks", json={"url": f"http://{host}:{receiver.port}/"})
        error = assert_error(answer, 422, "validation_error")
        assert await send(poster(allow=()), f"http://{host}:{receiver.port}/") == error["message"]
    assert receiver.got == []


async def test_a_host_with_one_bad_address_among_good_ones_is_refused() -> None:
    names = Names(both_test=["93.184.216.34", "10.0.0.1"], good_test=["93.184.216.34"])
    addresses = Addresses((), PORTS, names)
    assert await addresses.public(checked_url("http://good.test/")) == ["93.184.216.34"]
    with pytest.raises(InvalidArgument):
        await addresses.public(checked_url("http://both.test/"))
    addresses.close()


@pytest.mark.parametrize("port", [22, 25, 110, 1023, 6667, 2049])
async def test_a_port_of_another_protocol_is_refused(alice: httpx.AsyncClient, port: int) -> None:
    url = f"http://127.0.0.1:{port}/"
    error = assert_error(await alice.post("/v1/webhooks", json={"url": url}), 422, "validation_error")
    assert f"port {port}" in error["message"]
    assert await send(poster(), url) == error["message"]


async def test_an_operator_says_which_ports_webhooks_may_have() -> None:
    names = Names(good_test=["93.184.216.34"])
    addresses = Addresses((), ("443", "8000-8002"), names)
    for url in ("https://good.test/", "http://good.test:8000/", "http://good.test:8002/"):
        assert addresses._check_port(port_of(checked_url(url))) is None
    for url in ("http://good.test/", "http://good.test:8003/"):
        with pytest.raises(InvalidArgument, match="BAY_WEBHOOK_PORTS"):
            await addresses.public(checked_url(url))
    addresses.close()


def test_this_hosts_own_addresses_are_known_however_public_they_look() -> None:
    assert is_own(ipaddress.ip_address("127.0.0.1"), 80)
    assert not is_own(ipaddress.ip_address("8.8.8.8"), 80)


@pytest.mark.parametrize(
    "url",
    [
        "", "x", "//host/", "/path", "ftp://example.org/", "file:///etc/passwd", "http://", "http:///x", "http://user@x.test/",
        "http://user:pass@x.test/", "http://:p@x.test/", "http://x.test/#part", "http://x.test:0/", "http://x.test:99999/",
        "http://x y/", "http://x.test/\r\nX: y", "http://[::1/", "gopher://x/", "http://" + "a" * 3000,
    ],
)  # fmt: skip
async def test_what_is_no_url_for_a_webhook_is_refused(bay: World, url: str) -> None:
    answer = await (await bay.client()).post("/v1/webhooks", json={"url": url})
    assert "resolve" not in assert_error(answer, 422, "validation_error")["message"]  # so nobody was asked


async def test_a_name_that_comes_to_mean_this_host_is_refused_at_the_delivery(root: Path) -> None:
    async with receiving() as receiver:
        async with world(root, webhook_allow=LOOPBACK) as bay:
            made = await hook(await bay.client(), receiver.url)
        async with world(root) as bay:
            alice = await bay.client()
            await create(alice)
            failing = await hook_when(alice, made, lambda h: h["attempts"] == 1)
    assert failing["last_error"] == "127.0.0.1 does not resolve to public addresses only; use a public host"
    assert receiver.got == []
    await clear(root)


# The API


async def test_the_secret_is_shown_once(bay: World) -> None:
    alice = await bay.client()
    made = await hook(alice, PUBLIC, types=["sandbox.failed", "sandbox.failed"])
    assert made["secret"].startswith("whsec_")
    assert made["types"] == ["sandbox.failed"]
    shown = (await alice.get(f"/v1/webhooks/{made['id']}")).json()
    assert shown == {**made, "secret": None}
    assert (await alice.get("/v1/webhooks")).json() == {
        "items": [shown],
        "has_more": False,
        "next_cursor": None,
    }


async def test_a_repeated_create_makes_one_webhook(bay: World) -> None:
    alice = await bay.client()
    body = {"url": PUBLIC, "types": ["sandbox.failed"]}
    headers = {"Idempotency-Key": "once"}
    first, second = [(await alice.post("/v1/webhooks", json=body, headers=headers)).json() for _ in range(2)]
    assert first == second
    assert len((await alice.get("/v1/webhooks")).json()["items"]) == 1
    other = await alice.post("/v1/webhooks", json={**body, "types": []}, headers=headers)
    assert_error(other, 409, "conflict")


async def test_an_unknown_type_is_refused(bay: World) -> None:
    answer = await (await bay.client()).post(
        "/v1/webhooks", json={"url": PUBLIC, "types": ["sandbox.cretaed"]}
    )
    assert "sandbox.created" in assert_error(answer, 422, "validation_error")["details"]["available"]


async def test_there_are_so_many_webhooks_and_no_more(bay: World) -> None:
    alice = await bay.client()
    made = [await hook(alice, PUBLIC, types=["sandbox.failed"]) for _ in range(MAX_WEBHOOKS)]
    answer = await alice.post("/v1/webhooks", json={"url": PUBLIC})
    assert_error(answer, 429, "quota_exceeded")
    await alice.delete(f"/v1/webhooks/{made[0]['id']}")
    await hook(alice, PUBLIC, types=["sandbox.failed"])
    await hook(await bay.client("bob"), PUBLIC, types=["sandbox.failed"])


async def test_a_reading_key_sees_webhooks_and_makes_none(bay: World) -> None:
    reader = await bay.client("alice", "read")
    assert (await reader.get("/v1/webhooks")).status_code == 200
    assert_error(await reader.post("/v1/webhooks", json={"url": PUBLIC}), 403, "forbidden")


async def test_the_log_names_the_host_of_a_webhook_and_nothing_more(root: Path) -> None:
    with serving(root, BAY_WEBHOOK_ALLOW='["127.0.0.0/8"]') as server:
        headers = {"Authorization": f"Bearer {KEY}"}
        async with httpx.AsyncClient(base_url=server.url, headers=headers, timeout=WAIT_S) as client:
            made = await hook(client, "http://127.0.0.1:1024/hush-hush?token=hush-hush")
            await create(client)
            await hook_when(client, made, lambda h: h["attempts"] > 0)
        server.end()
    log = (root / "log").read_text()
    assert "webhook.undelivered" in log
    assert "hush-hush" not in log
    assert made["secret"] not in log
    await clear(root)


# What a receiver does


SECRET = new_webhook_secret()
BODY = (
    b'{"id":"1","type":"sandbox.ready","sandbox_id":"s","at":"2030-01-01T00:00:00Z","data":{"a":1},"new":2}'
)


def test_a_request_that_is_not_bays_or_is_old_is_refused() -> None:
    headers = {
        "Webhook-Id": "msg",
        "Webhook-Timestamp": "1000",
        "Webhook-Signature": "v1,g0hM9SsE+OTPJr/saYtyDDuJkRRLIEkgBsHp3t4hsVE=",
    }
    with pytest.raises(sdk.InvalidArgument, match="signature of this request is invalid"):
        sdk.verify_webhook(SECRET, headers, BODY, now=1000)
    headers["Webhook-Signature"] += " " + webhook_signature(SECRET, "msg", "1000", BODY)
    assert sdk.verify_webhook(SECRET, headers, BODY, now=1000).data == {"a": 1}
    assert sdk.verify_webhook(SECRET, headers, BODY, now=1299).type == "sandbox.ready"
    for secret, changed, late in (
        (new_webhook_secret(), BODY, 1000.0),
        (SECRET, BODY + b" ", 1000.0),
        (SECRET, BODY, 1301.0),
        ("secret", BODY, 1000.0),
        ("whsec_", BODY, 1000.0),
        ("whsec_\u00e9", BODY, 1000.0),
    ):
        with pytest.raises(sdk.InvalidArgument):
            sdk.verify_webhook(secret, headers, changed, now=late)
    for missing in headers:
        with pytest.raises(sdk.InvalidArgument):
            sdk.verify_webhook(SECRET, {n: v for n, v in headers.items() if n != missing}, BODY, now=1000)


async def test_the_library_of_standard_webhooks_verifies_what_bay_sends(hooked: World) -> None:
    hooked.clock.advance(
        (datetime.now(UTC) - hooked.clock()).total_seconds()
    )  # the library reads the real clock
    alice = await hooked.client()
    async with receiving() as receiver:
        made = await hook(alice, receiver.url)
        box = await create(alice)
        await until(lambda: len(receiver.got) == 1)
    (got,) = receiver.got
    assert Webhook(made["secret"]).verify(got.body, got.headers)["sandbox_id"] == box["id"]
    with pytest.raises(WebhookVerificationError):
        Webhook(made["secret"]).verify(got.body + b" ", got.headers)


def test_bay_verifies_what_the_library_of_standard_webhooks_signs() -> None:
    now = datetime.now(UTC)
    headers = {
        "webhook-id": "msg",
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(SECRET).sign("msg", now, BODY.decode()),
    }
    assert sdk.verify_webhook(SECRET, headers, BODY).id == "1"
