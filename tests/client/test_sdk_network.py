"""Network policies, ports, URLs and services through the SDK."""

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import canned
import fault_proxy
import httpx
import pytest
from real_bay import KEY

import bay

DOCS = bay.NetworkRule(action="allow", domain="*.example.com", ports=(443, "8000-8100"))
RANGE = bay.NetworkRule(action="deny", cidr="203.0.113.0/24", protocol="udp")


_NONE = {"allowed_connections": 0, "refused_connections": 0, "allowed_names": 0, "refused_names": 0}
STATE: dict[str, Any] = {
    "mode": "allowlist",
    "enforced": True,
    "counters": [
        {"rule": 0, "reason": None, **_NONE},
        {"rule": None, "reason": "reserved", **_NONE, "refused_connections": 4},
    ],
    "refused": [
        {
            "name": "evil.example", "type": "A", "reason": "policy", "rule": 1, "count": 3,
            "first_at": "2030-01-01T00:00:00Z", "last_at": "2030-01-01T00:00:02Z",
        }
    ],
    "received_bytes": 5000,
    "sent_bytes": 70,
}  # fmt: skip


def answering(answer: Callable[[httpx.Request], httpx.Response]) -> bay.Client:
    """A client of a server that says that."""
    return bay.Client("http://bay", KEY, transport=httpx.MockTransport(answer), retry_s=0)


def test_a_policy_is_set_as_a_mode_with_rules_or_as_a_whole_and_reset(box: bay.Box) -> None:
    assert box.network.get() == bay.NetworkPolicy()
    wanted = bay.NetworkPolicy(mode="allowlist", rules=(DOCS, RANGE))
    assert box.network.set("allowlist", [DOCS, RANGE]) == wanted
    assert box.network.get() == wanted
    assert box.refresh().network == "allowlist"
    assert box.network.set(bay.NetworkPolicy(mode="none")) == bay.NetworkPolicy(mode="none")
    assert box.network.set("open").mode == "open"
    assert box.network.reset() == bay.NetworkPolicy()


def test_a_rule_that_cannot_be_is_refused_by_its_place_and_changes_nothing(box: bay.Box) -> None:
    box.network.set("allowlist", [DOCS])
    with pytest.raises(bay.InvalidArgument, match="rule 1"):
        box.network.set("open", [DOCS, bay.NetworkRule(action="deny")])
    assert box.network.get().rules == (DOCS,)


def test_the_state_has_counts_by_rule_and_the_names_that_were_refused() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json=STATE if request.url.path.endswith("/network") else canned.SANDBOX)

    with answering(answer) as client:
        state = client.sandboxes.get("box").network.state()
    assert (state.mode, state.enforced, state.received_bytes, state.sent_bytes) == (
        "allowlist",
        True,
        5000,
        70,
    )
    assert [(counter.rule, counter.reason) for counter in state.counters] == [(0, None), (None, "reserved")]
    assert state.counters[1].refused_connections == 4
    assert [(name.name, name.count) for name in state.refused] == [("evil.example", 3)]


def test_a_create_says_what_is_reached_and_started(client: bay.Client, url: str) -> None:
    policy = bay.NetworkPolicy(mode="allowlist", rules=(DOCS,))
    public = bay.PortSettings(port=9000, access="public")
    web = bay.ServiceSpec(
        name="web", argv=("sleep", "600"), http_port=8000, health=bay.ServiceHealth(port=8000)
    )
    with client.sandbox(name="whole", network_policy=policy, url=8000, ports=[public], services=[web]) as box:
        assert (box.info.network, box.network.get()) == ("allowlist", policy)
        assert box.info.ports == (public,)
        assert box.info.url == bay.SandboxUrl(href=below_localhost(url, "whole"), port=8000)
        assert [(service.name, service.argv) for service in box.services.list()] == [
            ("web", ("sleep", "600"))
        ]
        assert box.services.get("web").health == bay.ServiceHealth(port=8000)


def test_what_is_not_given_is_not_sent() -> None:
    sent: list[Any] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(json.loads(request.content))
        return httpx.Response(201, json=canned.SANDBOX)

    rule = bay.NetworkRule(action="allow", cidr="10.1.0.0/16")
    with answering(answer) as client:
        box = client.sandboxes.create(network_policy=bay.NetworkPolicy(rules=(rule,)), url=None)
        box.update(url=None, ports=[bay.PortSettings(port=80)])
        box.update(url=bay.PortSettings(port=80, access="public"))
    assert sent == [
        {"network_policy": {"mode": "open", "rules": [{"action": "allow", "cidr": "10.1.0.0/16"}]}},
        {"url": None, "ports": [{"port": 80, "access": "owner"}]},
        {"url": {"port": 80, "access": "public"}},
    ]


def below_localhost(url: str, host: str) -> str:
    """Where the sandbox with that name is for a browser."""
    return f"http://{host}.localhost:{urlsplit(url).port}/"


def test_the_url_is_where_its_setting_says(box: bay.Box, url: str) -> None:
    with pytest.raises(bay.NotFound, match="name one with update"):
        box.url()
    box.update(url=8000)
    assert box.url() == below_localhost(url, box.id)
    box.update(url=None)
    with pytest.raises(bay.NotFound):
        box.url()


def test_access_is_given_and_taken_back(box: bay.Box) -> None:
    assert box.ports.set_access(8000, "public") == bay.PortSettings(port=8000, access="public")
    assert box.refresh().ports == (bay.PortSettings(port=8000, access="public"),)
    box.ports.forget(8000)
    box.ports.forget(8000)
    assert box.refresh().ports == ()


def test_a_link_says_how_long_it_lasts(box: bay.Box, url: str) -> None:
    link = box.ports.link(9000, expires_in=60, once=True)
    assert link.url.startswith(below_localhost(url, f"9000-{box.id}") + ".bay/open?token=")
    assert link.once
    later = box.ports.link(9000, expires_in=600)
    assert (later.once, later.expires_at > link.expires_at) == (False, True)


@pytest.mark.parametrize("port", [0, -1, 65_536])
def test_what_is_no_port_is_refused_before_it_is_sent(box: bay.Box, port: int) -> None:
    with pytest.raises(bay.InvalidArgument, match="is not a port"):
        box.ports.link(port)
    with pytest.raises(bay.InvalidArgument, match="is not a port"):
        box.tunnel(port)


def test_a_service_prints_by_offset(box: bay.Box) -> None:
    box.services.put(
        bay.ServiceSpec(
            name="web", argv=("sh", "-c", "echo one; echo two >&2; sleep 0.2; echo three"), restart="never"
        )
    )
    whole = b"".join(chunk.data for chunk in box.services.logs("web", follow=True))
    assert sorted(whole.split()) == [b"one", b"three", b"two"]
    later = [(chunk.offset, chunk.data) for chunk in box.services.logs("web", since=8)]
    assert later == [(8, b"three\n")]


def test_a_service_hears_a_signal(box: bay.Box) -> None:
    box.services.put(bay.ServiceSpec(name="web", argv=("sleep", "600"), restart="never"))
    box.services.signal("web", "TERM")
    assert list(box.services.logs("web", follow=True)) == []
    assert box.services.get("web").signal == 15


def test_logs_are_taken_up_where_the_connection_broke(proxy: fault_proxy.Proxy, box: bay.Box) -> None:
    box.services.put(
        bay.ServiceSpec(name="web", argv=("sh", "-c", "echo one; sleep 0.3; echo two"), restart="never")
    )
    with bay.Client(f"{proxy.url}/cut", KEY) as client:
        again = client.sandboxes.get(box.id)
        chunks = list(again.services.logs("web", follow=True))
    assert [(chunk.offset, chunk.data) for chunk in chunks] == [(0, b"one\n"), (4, b"two\n")]


@pytest.mark.anyio
async def test_the_async_client_does_the_same(url: str, box: bay.Box) -> None:
    async with bay.AsyncClient(url, KEY) as client:
        again = await client.sandboxes.get(box.id)
        assert (await again.network.set("allowlist", [DOCS])).rules == (DOCS,)
        assert (await again.network.state()).mode == "allowlist"
        assert await again.ports.list() == []
        await again.update(url=8000)
        assert await again.url() == below_localhost(url, box.id)
        await again.services.put(bay.ServiceSpec(name="web", argv=("echo", "hello"), restart="never"))
        assert [chunk.data async for chunk in again.services.logs("web", follow=True)] == [b"hello\n"]
