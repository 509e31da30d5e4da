"""Bay is killed and started again under a sandbox that never stops knocking: nothing gets out that should
not, and what may goes on.
"""

import json
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from lab import Box, allow, allowlist, eventually, host_network, lab, of_sandboxes, open_but, ways
from world import (
    HOST_LAN,
    HOST_PUBLIC,
    LAN,
    LAN6,
    METADATA,
    OTHER,
    OTHER6,
    PUBLIC_RESOLVER,
    SITE,
    SITE6,
    World,
)

import raw

pytestmark = [pytest.mark.host, pytest.mark.long]

GOOD = "good.example"
POLICY = allowlist(allow(cidr=SITE6), allow(domain=GOOD))
REFUSED = (OTHER, OTHER6, LAN, LAN6, METADATA[0], HOST_PUBLIC, HOST_LAN, PUBLIC_RESOLVER)

LOOP = """if True:
    import json, os, socket, sys, threading, time
    # Knocks at every refused place by TCP, UDP and ICMP without a rest, beside two connections to allowed ones that must not
    # break and a new one each time. Ends when told, and says what it did.
    refused, by_address, by_name = sys.argv[1].split(","), sys.argv[2], sys.argv[3]
    over = lambda: os.path.exists("/workspace/over")
    said = {"knocks": 0, "got_in": [], "echoes": 0, "longest_s": 0.0, "broken": [], "new": 0, "failed": 0}

    def family(place):
        return socket.AF_INET6 if ":" in place else socket.AF_INET

    def knock(place):
        ping = socket.IPPROTO_ICMPV6 if ":" in place else socket.IPPROTO_ICMP
        for kind, protocol in ((socket.SOCK_DGRAM, 0), (socket.SOCK_STREAM, 0), (socket.SOCK_DGRAM, ping)):
            with socket.socket(family(place), kind, protocol) as sock:
                sock.setblocking(False)
                try:
                    sock.connect((place, 80))
                    sock.send(bytes([128 if ":" in place else 8]) + bytes(15))
                except OSError:
                    continue
                finally:
                    said["knocks"] += 1
                    time.sleep(0.0005)
                try:
                    if sock.recv(100):
                        said["got_in"].append(place)
                except OSError:
                    pass

    def echo(where):
        with socket.create_connection((where, 443), 10) as sock:
            sock.settimeout(30)
            while not over():
                begun = time.monotonic()
                try:
                    sock.sendall(b"x" * 100)
                    left = 100
                    while left:
                        data = sock.recv(left)
                        assert data, "it was closed"
                        left -= len(data)
                except (OSError, AssertionError) as error:
                    said["broken"].append(f"{where}: {error!r}")
                    return
                said["echoes"] += 1
                said["longest_s"] = max(said["longest_s"], time.monotonic() - begun)
                time.sleep(0.005)

    def call():
        while not over():
            try:
                with socket.create_connection((by_address, 8080), 10) as sock:
                    sock.sendall(b"x")
                    said["new"] += sock.recv(1) == b"x"
            except OSError:
                said["failed"] += 1
            time.sleep(0.02)

    threads = [threading.Thread(target=echo, args=(one,)) for one in (by_address, by_name)] + [threading.Thread(target=call)]
    for one in threads:
        one.start()
    while not over():
        for place in refused:
            knock(place)
    for one in threads:
        one.join()
    print(json.dumps(said))
"""


def test_a_killed_bay_lets_nothing_out_and_breaks_nothing(earth: World, root: Path, cache: Path) -> None:
    earth.resolver.zone[GOOD, "A"] = [SITE]
    with lab(earth, root, cache) as first:
        box = first.create(POLICY)
        loop = box.begin("python3", "-c", LOOP, ",".join(REFUSED), SITE6, GOOD)
        _goes_on(earth)
        earth.forget()
        first.server.end(signal.SIGKILL)
    _goes_on(earth)  # while there is none
    for number in (signal.SIGTERM, signal.SIGKILL):
        with lab(earth, root, cache) as next_one:
            box = Box(next_one, box.id)
            _goes_on(earth)
            box.reaches(ways(GOOD, SITE6))
            assert box.network()["mode"] == "allowlist"
            next_one.server.end(number)
        _goes_on(earth)
    with lab(earth, root, cache) as last:
        box = Box(last, box.id)
        # An echo is of 100 bytes: the proof below is of many, however quick the restarts were.
        eventually(lambda: earth.echoed[SITE] + earth.echoed[SITE6] > 110_000, "a thousand echoes")
        box.run("touch", "/workspace/over")
        done = last.ask("GET", box.path(f"/execs/{loop}"), params={"wait": 40})
        said = json.loads(done["stdout"])
        assert (said["got_in"], said["broken"], said["failed"]) == ([], [], 0), said
        assert said["knocks"] > 1000 < said["echoes"]
        assert said["longest_s"] < 5
        assert [one for one in earth.seen() if one[0] in REFUSED] == []
        # And it is held as before, and can be changed.
        box.reaches_none_of(ways(OTHER, LAN))
        box.set_policy(open_but())
        box.reaches(ways(OTHER, OTHER6))
        box.delete()
        _is_bare()
        assert last.server.end() == 0
    assert _of_bays() == []


def _goes_on(earth: World) -> None:
    """Return when both connections carried more, and new ones were taken."""
    before, taken = (earth.echoed[SITE], earth.echoed[SITE6]), earth.accepted[SITE6]
    eventually(
        lambda: (
            earth.echoed[SITE] > before[0] + 2000
            and earth.echoed[SITE6] > before[1] + 2000
            and earth.accepted[SITE6] > taken + 3
        ),
        "what is allowed goes on",
    )


def _is_bare() -> None:
    """Of sandboxes nothing is left on the host: no device, no rule, no chain, map, set or counter."""
    eventually(lambda: not of_sandboxes(), "all of it is removed", instead=of_sandboxes)


def test_what_a_killed_bay_left_is_removed_by_the_next(earth: World, other_root: Path, cache: Path) -> None:
    """Killed in the middle of creates, changes and removals."""
    for after_s in (0.1, 0.3):
        with lab(earth, other_root, cache) as bay:
            boxes = [bay.create(POLICY) for _ in range(2)]
            acts: list[Callable[[], object]] = [
                boxes[0].delete, lambda boxes=boxes: boxes[1].set_policy(open_but()), lambda bay=bay: bay.create(POLICY), lambda bay=bay: bay.create(),
            ]  # fmt: skip
            threads = [threading.Thread(target=_quietly, args=(act,), daemon=True) for act in acts]
            for one in threads:
                one.start()
            time.sleep(after_s)  # how far it comes until it is killed
            bay.server.end(signal.SIGKILL)
            for one in threads:
                one.join(30)
    with lab(earth, other_root, cache) as last:
        for one in last.ask("GET", "/v1/sandboxes", params={"limit": 200})["items"]:
            last.ask("DELETE", f"/v1/sandboxes/{one['id']}")
        _is_bare()
        assert host_network()["tables"] != ["table inet bay_guard"]
        assert last.server.end() == 0
    assert _of_bays() == []


def _of_bays() -> list[str]:
    """What is left of all Bays, but for what they share."""
    found = host_network()
    return [
        *found["devices"],
        *found["routes"],
        *(one for one in found["tables"] if one != "table inet bay_guard"),
    ]


def _quietly(act: Callable[[], object]) -> None:
    with suppress(AssertionError, httpx.HTTPError):  # of a Bay that was killed meanwhile
        act()


def test_a_device_that_bay_does_not_know_reaches_nothing(earth: World, root: Path, cache: Path) -> None:
    """What a Bay of this host made and died over: no chain names it, so all of it is dropped."""
    with lab(earth, root, cache) as bay, bay.box() as box:
        namespace = raw.namespace_of(box)
        earth.forget()
        device = next(
            one.split("@")[0]
            for one in host_network()["devices"]
            if one.split("@")[0][-4:] not in ("0000", "ffff")
        )
        table = next(
            one.split()[-1] for one in host_network()["tables"] if "bay_" in one and "guard" not in one
        )
        for name in ("enter", "judge", "leave"):
            raw.nft(f'delete element inet {table} {name} {{ "{device}" }}')
        raw.send(namespace, raw.udp("10.186.0.2", SITE, 80), raw.udp("fdba::2", SITE6, 80))
        assert set(box.tries(ways(SITE, SITE6, OTHER), wait_s=0.4).values()) == {"silent"}
        assert earth.seen().total() == 0


def test_a_ruleset_that_others_flushed_is_made_again_and_meanwhile_nothing_passes(
    earth: World, root: Path, cache: Path
) -> None:
    with lab(earth, root, cache) as bay:
        box = bay.create(POLICY)
        raw.nft("flush ruleset")
        box.reaches(ways(SITE6))  # Bay hears of it
        box.reaches_none_of(ways(OTHER, OTHER6, LAN, HOST_LAN))
        namespace = raw.namespace_of(box)
        bay.server.end(signal.SIGKILL)
    raw.nft("flush ruleset")  # and nobody hears
    earth.forget()
    raw.send(namespace, *(raw.udp("10.186.0.2", place, 443) for place in (SITE, OTHER, LAN, HOST_LAN)))
    assert earth.seen().total() == 0
    with lab(earth, root, cache) as last:
        box = Box(last, box.id)
        box.reaches(ways(SITE6))
        box.reaches_none_of(ways(OTHER, OTHER6, LAN, HOST_LAN))
        box.delete()
        raw.nft("flush ruleset")
        assert last.server.end() == 0
