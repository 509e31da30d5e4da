"""Sandboxes in gVisor are held to policies as containers are: many of the same tests, and those of what they
have of their own, between a network stack of theirs and the host.

The packets that `raw` sends at `eth0` are those that an attacker could who has the sentry.
"""

import json
import signal
from collections import Counter
from collections.abc import Generator
from pathlib import Path

import pytest
from lab import NONE, Box, Lab, allow, allowlist, eventually, host_network, lab, of_sandboxes, ways
from test_egress import (
    BOTH,
    HOST,
    box,
    shared,
    test_a_source_that_is_not_its_own_is_dropped,
    test_an_allowlist_without_rules_reaches_nothing,
    test_datagrams_in_fragments_pass_both_ways,
    test_fragments_hide_no_port,
    test_multicast_and_broadcast_reach_nobody,
    test_no_address_of_the_host_is_reached,
    test_no_form_of_ipv6_leads_to_what_is_reserved,
    test_no_private_metadata_or_reserved_address_is_reached,
    test_no_protocol_but_tcp_udp_and_ping_passes,
    test_no_sandbox_reaches_another,
    test_nobody_outside_reaches_a_sandbox,
    test_open_reaches_public_addresses,
)
from test_egress_by_name import asks
from test_network_life import (
    POOLED,
    TO_SITE,
    Hammer,
    directories,
    test_a_change_ends_connections_that_it_does_not_allow_and_no_others,
    test_a_policy_holds_from_the_first_packet_after,
    test_a_policy_that_changed_while_stopped_holds_at_the_start,
    test_a_pooled_sandbox_is_held_before_it_is_anybody_s,
    test_no_connection_slips_through_a_change,
)
from world import LAN, LAN6, METADATA, OTHER, OTHER6, SITE, SITE6, World

import raw
from bay.network.slots import INSIDE_V4

pytestmark = [pytest.mark.host, pytest.mark.long]

# Tests and fixtures are found by their names here.
__all__ = [
    "box",
    "shared",
    "test_a_change_ends_connections_that_it_does_not_allow_and_no_others",
    "test_a_policy_holds_from_the_first_packet_after",
    "test_a_policy_that_changed_while_stopped_holds_at_the_start",
    "test_a_pooled_sandbox_is_held_before_it_is_anybody_s",
    "test_a_source_that_is_not_its_own_is_dropped",
    "test_an_allowlist_without_rules_reaches_nothing",
    "test_datagrams_in_fragments_pass_both_ways",
    "test_fragments_hide_no_port",
    "test_multicast_and_broadcast_reach_nobody",
    "test_no_address_of_the_host_is_reached",
    "test_no_connection_slips_through_a_change",
    "test_no_form_of_ipv6_leads_to_what_is_reserved",
    "test_no_private_metadata_or_reserved_address_is_reached",
    "test_no_protocol_but_tcp_udp_and_ping_passes",
    "test_no_sandbox_reaches_another",
    "test_nobody_outside_reaches_a_sandbox",
    "test_open_reaches_public_addresses",
]

_PROFILES = {
    name: {"start": "eager", "idle_timeout": None, "isolation": "gvisor", "memory_mb": 512, **more}
    for name, more in {"python-default": {}, "pooled": POOLED}.items()
}
GVISOR = {"BAY_RUNSC": "runsc", "BAY_PROFILES": json.dumps(_PROFILES)}
_WITHOUT_POOL = {**GVISOR, "BAY_PROFILES": json.dumps({"python-default": _PROFILES["python-default"]})}


@pytest.fixture(scope="module")
def bay(earth: World, root: Path, cache: Path) -> Generator[Lab]:
    """A Bay whose sandboxes run in gVisor."""
    with lab(earth, root, cache, BAY_NETWORK_PRIVATE=f'["{LAN}","{LAN6}"]', **GVISOR) as made:
        yield made
        assert made.server.end() == 0
    with lab(earth, root, cache, **_WITHOUT_POOL) as last:
        left = lambda: (of_sandboxes(), directories(root), last.log()[-4000:])  # noqa: E731
        eventually(lambda: not (of_sandboxes() or directories(root)), "the pool is empty", instead=left)
        assert last.server.end() == 0


def test_a_sandbox_is_in_gvisor_and_has_the_address_of_every_sandbox(box: Box) -> None:
    assert "gVisor" in box.run("dmesg")["stdout"]
    address = "import socket; s = socket.socket(type=socket.SOCK_DGRAM); s.connect(('9.9.9.9', 9)); print(s.getsockname()[0])"
    assert box.python(address) == f"{INSIDE_V4}\n"


def test_names_are_answered_by_the_policy_and_open_their_addresses(bay: Lab, box: Box) -> None:
    bay.world.resolver.zone |= {
        ("good.example", "A"): [SITE],
        ("bad.example", "A"): [OTHER],
        ("inward.example", "A"): [METADATA[0]],
    }
    box.set_policy(allowlist(allow(domain="good.example"), allow(domain="inward.example")))
    box.reaches_none_of(ways(SITE, OTHER))
    box.reaches(ways("good.example"))
    box.reaches(ways(SITE))
    box.reaches_none_of(ways(OTHER, "bad.example", METADATA[0], "inward.example"))
    assert asks(box, "good.example", "bad.example", "inward.example") == [[0, 1], [5, 0], [5, 0]]
    # No other service of the two addresses is there, and none of the namespace's kernel.
    box.reaches_none_of(ways("10.186.0.5", "10.186.0.6", "10.186.0.53", "10.186.0.54"))


def test_root_inside_has_no_raw_sockets_and_marks_of_its_change_nothing(bay: Lab, box: Box) -> None:
    script = """if True:
        import fcntl, socket, struct
        for family, kind in ((socket.AF_PACKET, 0x300), (socket.AF_INET, 17)):
            try:
                socket.socket(family, socket.SOCK_RAW, kind)
            except PermissionError:
                print("no")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            address = struct.pack("16sHH4s8x", b"eth0", 2, 0, socket.inet_aton("10.186.0.3"))
            try:
                fcntl.ioctl(sock, 0x8916, address)
            except OSError:
                print("no")
            sock.setsockopt(socket.SOL_SOCKET, 36, 7)  # SO_MARK, of which gVisor takes no notice
            sock.sendto(b"hello", ("151.101.1.69", 443))
    """
    box.set_policy(allowlist(allow(cidr=SITE)))
    bay.world.forget()
    assert box.python(script, user="root").split() == ["no", "no", "no"]
    box.reaches(ways(SITE))
    assert not bay.world.seen()[OTHER, "udp", 443]


def test_a_policy_that_changed_in_the_freeze_holds_at_the_thaw(bay: Lab) -> None:
    with bay.box() as box:
        hammer = Hammer(box, OTHER, OTHER6)
        hammer.goes_on()
        box.act("pause")
        assert box.look()["compute"] == "warm"
        box.set_policy(TO_SITE)
        bay.world.forget()
        taken = Counter(bay.world.accepted)
        box.act("resume")
        hammer.goes_on()
        # No segments of TCP are counted: the host resets a connection that stood half open in the freeze and
        # that its other side offers again.
        assert [one for one in bay.world.seen() if one[0] in (OTHER, OTHER6) and one[1] != "tcp"] == []
        assert [bay.world.accepted[one] - taken[one] for one in (OTHER, OTHER6)] == [0, 0]


def test_none_leads_nowhere_and_a_change_of_it_needs_no_start(bay: Lab) -> None:
    with bay.box(NONE) as box:
        box.reaches_none_of(ways(*BOTH, LAN, METADATA[0], *HOST))
        box.reaches_none_of([(str(one), "udp", 53) for one in ("10.186.0.53", "127.0.0.53")])
        devices = raw.namespace_of(box).parents[1] / "net/dev"
        assert "uplink" not in devices.read_text()
        box.set_policy({"mode": "open"})
        box.reaches(ways(SITE, SITE6))
        box.set_policy(NONE)
        assert "uplink" not in devices.read_text()
        box.reaches_none_of(ways(*BOTH))


def test_a_flood_of_calls_fills_no_table_of_the_host_and_keeps_nobody_from_theirs(bay: Lab) -> None:
    with bay.box() as flooder, bay.box() as other:
        namespace = raw.namespace_of(flooder)
        raw.send(namespace, *(raw.syn(str(INSIDE_V4), "5.6.7.8", port) for port in range(1, 20_001)))
        count = raw.inside(namespace, lambda: int(_CONNECTIONS.read_text()))
        assert 4_000 < count <= 8_192 + 64
        other.reaches(ways(SITE, SITE6))


_CONNECTIONS = Path("/proc/sys/net/netfilter/nf_conntrack_count")


def test_a_served_port_is_reached_through_bay_while_the_policy_is_none(bay: Lab) -> None:
    with bay.box(NONE) as box:
        box.begin("python3", "-m", "http.server", "8000", "--bind", "127.0.0.1")

        def answers() -> bool:
            ports = bay.ask("GET", box.path("/ports"))["items"]
            return 8000 in [one["port"] for one in ports]

        eventually(answers, "the port is listed")
        answer = bay.call("GET", box.path("/ports/8000/"))
        assert answer.status_code == 200, answer.text
        assert "Directory listing" in answer.text


def test_nothing_stays_of_a_sandbox_that_is_stopped(bay: Lab) -> None:
    eventually(lambda: bay.ask("GET", "/v1/admin/pool")["items"][0]["ready"] == 1, "the pool is full")
    before = host_network()
    with bay.box() as box:
        box.reaches(ways(SITE))
        assert host_network() != before
        box.act("stop")
        eventually(lambda: host_network() == before, "a stopped sandbox has none")


def test_no_packet_of_ipv6_passes_where_sandboxes_have_none(
    earth: World, cache: Path, other_root: Path
) -> None:
    """The default."""
    with lab(earth, other_root, cache, BAY_NETWORK_IPV6="false", **_WITHOUT_POOL) as bay, bay.box() as box:
        earth.forget()
        box.reaches_none_of(ways(SITE6))
        box.reaches(ways(SITE))
        raw.send(raw.namespace_of(box), raw.udp("fdba::2", SITE6, 80), raw.udp("fe80::2", SITE6, 80))
        box.tries(ways(SITE))
        assert [one for one in earth.seen() if one[0] == SITE6] == []


def test_a_bay_that_takes_a_sandbox_over_answers_its_names_and_holds_it(
    earth: World, cache: Path, other_root: Path
) -> None:
    earth.resolver.zone |= {("good.example", "A"): [SITE]}
    with lab(earth, other_root, cache, **_WITHOUT_POOL) as first:
        made = first.create(allowlist(allow(domain="good.example")))
        made.reaches(ways("good.example"))
        first.server.end(signal.SIGKILL)
    with lab(earth, other_root, cache, **_WITHOUT_POOL) as second:
        box = Box(second, made.id)
        box.reaches_none_of(ways(OTHER))
        box.reaches(ways("good.example"))
        box.set_policy(NONE)
        box.reaches_none_of(ways(SITE))
        box.delete()
