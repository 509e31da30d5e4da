"""A policy holds from the first packet to the last: over starts, freezes, copies and changes, and nothing
stays of what was removed.
"""

import copy
import json
import os
import time
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from lab import (
    NONE,
    Box,
    Json,
    Lab,
    allow,
    allowlist,
    deny,
    eventually,
    host_network,
    lab,
    of_sandboxes,
    open_but,
    ways,
)
from world import LAN, METADATA, OTHER, OTHER6, SITE, SITE6, World

import raw
from bay.network.conntrack import Conntrack
from bay.network.slots import NetworkSlot

pytestmark = [pytest.mark.host, pytest.mark.long]

TO_SITE = allowlist(allow(cidr=SITE), allow(cidr=SITE6))
POOLED: Json = {"pool_size": 1, "network_policy": TO_SITE}
_EACH: Json = {"start": "eager", "idle_timeout": None, "memory_mb": 256}
PROFILES: Json = {"python-default": _EACH, "pooled": {**_EACH, **POOLED}}


@pytest.fixture(scope="module")
def bay(earth: World, root: Path, cache: Path) -> Generator[Lab]:
    """A Bay with a pool of sandboxes that are held to an allowlist."""
    with lab(earth, root, cache, BAY_PROFILES=json.dumps(PROFILES)) as made:
        yield made
        assert made.server.end() == 0
    with lab(earth, root, cache) as last:  # a Bay without a pool, which removes what waits there
        left = lambda: (of_sandboxes(), directories(root), last.log()[-4000:])  # noqa: E731
        # Bay removes the network of a session before its container, and its directory last.
        eventually(lambda: not (of_sandboxes() or directories(root)), "the pool is empty", instead=left)
        assert last.server.end() == 0


def directories(root: Path) -> list[str]:
    """The directories of sessions of the Bay below `root`."""
    return os.listdir(root / "data/oci/sessions")


HAMMER = """if True:
    import socket, sys, time
    # Datagrams and calls to each of the places until it is ended, hundreds a second: not so many that it is a flood, which
    # is dropped before it is judged. It says how many, again and again.
    places = sys.argv[1].split(",")
    sent = 0
    while True:
        for place in places:
            family = socket.AF_INET6 if ":" in place else socket.AF_INET
            for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
                with socket.socket(family, kind) as sock:
                    sock.setblocking(False)
                    try:
                        sock.connect((place, 80))
                        if kind == socket.SOCK_DGRAM:
                            sock.send(b"hello")
                    except OSError:
                        pass
                    sent += 1
        time.sleep(0.004)
        if sent % 100 < 4:
            open("/workspace/sent", "w").write(str(sent))
"""


class Hammer:
    """A program in a sandbox that never stops knocking."""

    def __init__(self, box: Box, *places: str) -> None:
        self._box = box
        box.begin("python3", "-c", HAMMER, ",".join(places))

    def in_fork(self, box: Box) -> "Hammer":
        """Its copy in a live fork of the sandbox."""
        other = copy.copy(self)
        other._box = box
        return other

    def sent(self) -> int:
        """How often it knocked so far."""
        return int(self._box.run("sh", "-c", "cat /workspace/sent || echo 0")["stdout"] or 0)

    def goes_on(self) -> None:
        """Return when it knocked many times more."""
        before = self.sent()
        eventually(lambda: self.sent() > before + 400, "knocking")


def came_to(world: World, *places: str) -> list[Any]:
    """What came to `places`, wherever they are."""
    return [one for one in world.seen() if one[0] in places]


def test_a_change_ends_connections_that_it_does_not_allow_and_no_others(bay: Lab) -> None:
    script = """if True:
        import socket, sys, time
        def alive(sock):
            try:
                sock.send(b"x")
                return sock.recv(1) == b"x"
            except OSError:
                return False
        def opened(place, kind):
            family = socket.AF_INET6 if ":" in place else socket.AF_INET
            sock = socket.socket(family, kind)
            sock.settimeout(5)
            sock.connect((place, 8080))
            return sock
        kinds = (socket.SOCK_STREAM, socket.SOCK_DGRAM)
        live = [opened(place, kind) for place in sys.argv[1].split(",") for kind in kinds]
        doomed = [opened(place, kind) for place in sys.argv[2].split(",") for kind in kinds]
        assert all(map(alive, live + doomed))
        print("ready", flush=True)
        for sock in doomed:
            sock.settimeout(0.5)
            deadline = time.monotonic() + 20
            while alive(sock) and time.monotonic() < deadline:
                time.sleep(0.01)
        print([alive(sock) for sock in doomed], [alive(sock) for sock in live])
    """
    with bay.box() as box, bay.box() as other:
        untouched = other.begin("python3", "-c", _ECHO, OTHER)
        begun = box.begin("python3", "-c", script, f"{SITE},{SITE6}", f"{OTHER},{OTHER6}")
        eventually(
            lambda: "ready" in _output(box, begun) and "ready" in _output(other, untouched), "they are open"
        )
        box.set_policy(open_but(deny(cidr=OTHER), deny(cidr=OTHER6)))
        done = bay.ask("GET", box.path(f"/execs/{begun}"), params={"wait": 60})
        assert done["stdout"].split("\n")[1] == f"{[False] * 4} {[True] * 4}", done
        echoed = bay.world.echoed[OTHER]
        eventually(lambda: bay.world.echoed[OTHER] > echoed + 10, "the other sandbox's connection goes on")


_ECHO = """if True:
    import socket, sys, time
    with socket.create_connection((sys.argv[1], 8080), 8) as sock:
        print("ready", flush=True)
        while True:
            sock.sendall(b"x")
            assert sock.recv(1) == b"x"
            time.sleep(0.01)
"""


def _output(box: Box, exec_id: str) -> str:
    return box.lab.ask("GET", box.path(f"/execs/{exec_id}"), params={"wait": 0.2}).get("stdout") or ""


def test_no_connection_slips_through_a_change(bay: Lab) -> None:
    """A thousand are begun while the policy goes to and fro; when a change was answered, none is left that it
    refuses.
    """
    with bay.box() as box:
        Hammer(box, OTHER).goes_on()
        slot = raw.slot_of(box)
        with closing(Conntrack()) as table:
            for _ in range(8):
                box.set_policy(open_but())
                eventually(lambda: _to(table, slot, OTHER) > 0, "connections")
                box.set_policy(TO_SITE)
                bay.world.forget()
                assert _to(table, slot, OTHER) == 0
                assert came_to(bay.world, OTHER) == []


def _to(table: Conntrack, slot: NetworkSlot, place: str) -> int:
    return sum(str(one.address) == place for one in table.connections(slot))


def _stopped_and_started(box: Box) -> Box:
    box.act("stop")
    box.act("start")
    return box


def _frozen_and_thawed(box: Box) -> Box:
    box.act("pause")
    box.act("resume")
    return box


def _restored(box: Box) -> Box:
    made = box.lab.ask("POST", box.path("/checkpoints"), json={})
    box.lab.ask("POST", box.path(f"/checkpoints/{made['id']}/restore"))
    return box


def _forked(box: Box) -> Box:
    made = box.lab.ask("POST", box.path("/fork"), json={"count": 1})
    return Box(box.lab, made["items"][0]["id"])


def _copied(box: Box) -> Box:
    made = box.lab.ask("POST", box.path("/checkpoints"), json={})
    return box.lab.create(TO_SITE, from_checkpoint=made["id"])


WAYS: list[Callable[[Box], Box]] = [_stopped_and_started, _frozen_and_thawed, _restored, _forked, _copied]


@pytest.mark.parametrize("way", WAYS, ids=[way.__name__.strip("_") for way in WAYS])
def test_a_policy_holds_from_the_first_packet_after(bay: Lab, way: Callable[[Box], Box]) -> None:
    with bay.box(TO_SITE) as box:
        bay.world.forget()
        after = way(box)
        after.reaches_none_of(ways(OTHER, OTHER6, LAN, METADATA[0]))
        after.reaches(ways(SITE, SITE6))
        assert came_to(bay.world, OTHER, OTHER6, LAN, METADATA[0]) == []
        assert after.network()["mode"] == "allowlist"
        if after.id != box.id:
            after.delete()


def test_a_policy_that_changed_in_the_freeze_holds_at_the_thaw(bay: Lab) -> None:
    with bay.box() as box:
        hammer = Hammer(box, OTHER, OTHER6)
        hammer.goes_on()
        box.act("pause")
        assert box.look()["compute"] == "warm"
        box.set_policy(TO_SITE)
        bay.world.forget()
        box.act("resume")
        hammer.goes_on()
        assert came_to(bay.world, OTHER, OTHER6) == []


def test_a_policy_that_changed_while_stopped_holds_at_the_start(bay: Lab) -> None:
    with bay.box() as box:
        box.act("stop")
        box.set_policy(NONE)
        box.act("start")
        box.reaches_none_of(ways(SITE, OTHER, SITE6))
        box.act("stop")
        box.set_policy(TO_SITE)
        box.act("start")
        box.reaches(ways(SITE))
        box.reaches_none_of(ways(OTHER))


def test_a_pooled_sandbox_is_held_before_it_is_anybody_s(bay: Lab) -> None:
    def pool() -> Json:
        return next(one for one in bay.ask("GET", "/v1/admin/pool")["items"] if one["profile"] == "pooled")

    eventually(lambda: pool()["ready"] == 1, "the pool is full")
    hits = pool()["hits"]
    with bay.box(profile="pooled") as box:
        assert pool()["hits"] == hits + 1
        bay.world.forget()
        box.reaches_none_of(ways(OTHER, OTHER6, LAN))
        box.reaches(ways(SITE, SITE6))
    with bay.box(allowlist(allow(cidr=OTHER)), profile="pooled") as box:
        bay.world.forget()
        box.reaches_none_of(ways(SITE, SITE6))
        box.reaches(ways(OTHER))


def test_ten_thousand_rules_are_one_step(bay: Lab) -> None:
    cidrs = [
        f"{first}.{second}.{third}.0/24"
        for first in (20, 21)
        for second in range(250)
        for third in range(0, 250, 13)
    ]
    rules = [
        allow(cidr=cidr, ports=[443] if number % 2 else [80]) for number, cidr in enumerate(cidrs[:9_990])
    ]
    with bay.box() as box:
        Hammer(box, OTHER).goes_on()
        begun = time.monotonic()
        box.set_policy(allowlist(*rules, allow(cidr=SITE)))
        box.set_policy(allowlist(*rules[:1000], allow(cidr=SITE)))
        took = time.monotonic() - begun
        bay.world.forget()
        box.reaches(ways(SITE))
        assert came_to(bay.world, OTHER) == []
        assert box.lab.ask("GET", box.path("/network-policy"))["rules"][1]["cidr"] == cidrs[1]
    assert took < 30
    too_many = bay.call(
        "POST", "/v1/sandboxes", json={"network_policy": allowlist(*[allow(cidr=SITE)] * 10_001)}
    )
    assert too_many.status_code == 422


@pytest.mark.parametrize(
    "rule",
    [
        allow(),
        allow(cidr="1.2.3.4", domain="x.example"),
        allow(cidr="1.2.3.4/33"),
        allow(cidr="1.2.3.4/8"),
        allow(cidr="::ffff:1.2.3.4/128"),
        allow(domain="not a name"),
        allow(domain="*.*.example"),
        allow(cidr="1.2.3.4", ports=[]),
        allow(cidr="1.2.3.4", ports=[0]),
        allow(cidr="1.2.3.4", ports=["9-3"]),
        allow(cidr="1.2.3.4", protocol="icmp", ports=[1]),
        allow(cidr="1.2.3.4", protocol="gre"),
        {"action": "perhaps", "cidr": "1.2.3.4"},
    ],
    ids=json.dumps,
)  # fmt: skip
def test_a_malformed_rule_is_refused_and_changes_nothing(shared: Box, rule: Json) -> None:
    answer = shared.lab.call("PUT", shared.path("/network-policy"), json=open_but(rule))
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "validation_error")
    assert shared.lab.ask("GET", shared.path("/network-policy"))["mode"] == "allowlist"


@pytest.fixture(scope="module")
def shared(bay: Lab) -> Generator[Box]:
    """A sandbox that is not changed."""
    with bay.box(TO_SITE) as made:
        yield made


def test_who_floods_with_calls_keeps_nobody_from_theirs(bay: Lab) -> None:
    with bay.box() as flooder, bay.box() as other:
        namespace = raw.namespace_of(flooder)
        raw.send(namespace, *(raw.syn("10.186.0.2", "5.6.7.8", port) for port in range(1, 20_001)))
        counters = {one["reason"]: one["refused_connections"] for one in flooder.network()["counters"]}
        assert counters["flood"] > 5_000
        other.reaches(ways(SITE, SITE6))


def test_nothing_stays_of_a_sandbox(bay: Lab) -> None:
    eventually(lambda: bay.ask("GET", "/v1/admin/pool")["items"][0]["ready"] == 1, "the pool is full")
    before = host_network()
    with bay.box(open_but(allow(domain="*.example"), deny(cidr=OTHER))) as box:
        box.tries(ways(SITE, OTHER))
        box.set_policy(TO_SITE)
        assert host_network() != before
    eventually(lambda: host_network() == before, "all of it is removed")
    with bay.box() as box:
        box.act("stop")
        eventually(lambda: host_network() == before, "a stopped sandbox has none")


def test_a_host_without_ipv6_for_sandboxes_has_no_hole(earth: World, cache: Path, other_root: Path) -> None:
    """The default: AAAA has no records, there is no address, and no packet leaves."""
    earth.resolver.zone |= {("six.example", "AAAA"): [SITE6], ("six.example", "A"): [SITE]}
    with lab(earth, other_root, cache, BAY_NETWORK_IPV6="false") as bay, bay.box() as box:
        earth.forget()
        box.reaches_none_of(ways(SITE6, OTHER6))
        box.reaches(ways(SITE, "six.example"))
        assert box.python("print(open('/proc/net/if_inet6').read())").split() in ([], _LOOPBACK)
        namespace = raw.namespace_of(box)
        raw.send(namespace, raw.udp("fdba::2", SITE6, 80))
        raw.send(namespace, raw.udp("fe80::2", SITE6, 80))
        box.tries(ways(SITE))
        assert came_to(earth, SITE6) == []


_LOOPBACK = ["00000000000000000000000000000001", "01", "80", "10", "80", "lo"]
