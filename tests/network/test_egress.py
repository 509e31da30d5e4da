"""What a sandbox reaches by address: every kind of place, by TCP, UDP and ICMP, over IPv4 and IPv6, under
every kind of policy.
"""

import re
import socket
import time
from collections import Counter
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import pytest
from lab import NONE, Box, Json, Lab, Way, allow, allowlist, deny, open_but, ways
from world import (
    CARRIER,
    HOST_LAN,
    HOST_LAN6,
    HOST_PUBLIC,
    HOST_PUBLIC6,
    LAN,
    LAN6,
    METADATA,
    OTHER,
    OTHER6,
    PRIVATE,
    PUBLIC_RESOLVER,
    RESERVED,
    RESERVED6,
    RESOLVER,
    SITE,
    SITE6,
)

import raw
from bay.network.slots import GATEWAY_V4, GATEWAY_V6, INSIDE_V4, INSIDE_V6

pytestmark = pytest.mark.host

BOTH = (SITE, SITE6)
OTHERS = (OTHER, OTHER6)
METRICS_S = 120.0
"""Bound of the wait for two samples, which are ten seconds apart."""
EVERYTHING = open_but(allow(cidr="0.0.0.0/0"), allow(cidr="::/0"))


@pytest.fixture(scope="module")
def shared(bay: Lab) -> Generator[Box]:
    """One sandbox, whose policy each test sets."""
    with bay.box() as made:
        yield made


@pytest.fixture
def box(shared: Box) -> Box:
    """It, with the policy of its profile: `open`."""
    shared.set_policy(None)
    return shared


def cidrs(*addresses: str, **rule: object) -> list[Json]:
    return [{"action": "allow", "cidr": address, **rule} for address in addresses]


def test_open_reaches_public_addresses(box: Box) -> None:
    box.reaches([*ways(*BOTH, *OTHERS), (PUBLIC_RESOLVER, "udp", 53)])


def test_datagrams_in_fragments_pass_both_ways(box: Box) -> None:
    script = """if True:
        import socket, sys
        with socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(8)
            sock.sendto(bytes(9000), (sys.argv[1], 80))
            print(len(sock.recv(65536)))
    """
    assert [box.python(script, place) for place in BOTH] == ["9000\n", "9000\n"]


def test_fragments_hide_no_port(bay: Lab, box: Box) -> None:
    """The ports are in the first of two fragments, and what is denied is so by its port."""
    box.set_policy(open_but(deny(cidr="0.0.0.0/0", ports=[443]), deny(cidr="::/0", ports=[443])))
    bay.world.forget()
    for port in (443, 80):
        raw.send(
            raw.namespace_of(box),
            *raw.fragments(str(INSIDE_V4), SITE, port),
            *raw.fragments(str(INSIDE_V6), SITE6, port),
        )
    box.tries([(SITE, "tcp", 80)])
    came = set(bay.world.seen())
    assert {(SITE, "udp", 80), (SITE6, "udp", 80)} <= came
    assert not {one for one in came if one[1:] == ("udp", 443)}


def test_sandboxes_that_send_from_the_same_port_get_each_its_own_answers(bay: Lab, box: Box) -> None:
    script = """if True:
        import socket, sys
        place, word = sys.argv[1], sys.argv[2].encode()
        with socket.socket(socket.AF_INET6 if ":" in place else socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("", 4000))
            sock.settimeout(8)
            sock.connect((place, 80))
            for _ in range(100):
                sock.send(word)
                assert sock.recv(100) == word
        with socket.create_connection((place, 80), 8, source_address=("", 4006 if ":" in place else 4004)) as sock:
            for _ in range(100):
                sock.sendall(word)
                assert sock.recv(len(word), socket.MSG_WAITALL) == word
    """
    with bay.box() as other, ThreadPoolExecutor() as pool:
        for place in BOTH:
            both = [
                pool.submit(one.python, script, place, word)
                for one, word in ((box, "mine"), (other, "yours"))
            ]
            assert [one.result() for one in both] == ["", ""]


def test_sandboxes_that_send_from_the_same_port_at_the_same_moment_lose_nothing(bay: Lab, box: Box) -> None:
    """All sandboxes have one address, so two choose the same port often, also when they choose none."""
    script = """if True:
        import socket, sys, time
        start, lost = float(sys.argv[2]), 0
        for number in range(400):
            while time.time() < start + number * 0.005:
                pass
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.bind(("", 5000 + number))
                sock.connect((sys.argv[1], 80))
                sock.settimeout(4)
                sock.send(b"x")
                try:
                    sock.recv(100)
                except TimeoutError:
                    lost += 1
        print(lost, end="")
    """
    with bay.box() as other, ThreadPoolExecutor() as pool:
        start = str(time.time() + 1)
        both = [pool.submit(one.python, script, SITE, start, wait=60) for one in (box, other)]
        assert [one.result() for one in both] == ["0", "0"]


@pytest.mark.parametrize("policy", [open_but(), EVERYTHING], ids=["open", "all-allowed"])
@pytest.mark.parametrize("user", ["ship", "root"])
def test_no_private_metadata_or_reserved_address_is_reached(box: Box, policy: Json, user: str) -> None:
    box.set_policy(policy)
    box.reaches_none_of(ways(*PRIVATE, *METADATA, CARRIER, *RESERVED, RESOLVER), user=user)
    box.reaches_none_of([(RESOLVER, "tcp", 53), (RESOLVER, "udp", 53)], user=user)


@pytest.mark.parametrize("policy", [open_but(), EVERYTHING], ids=["open", "all-allowed"])
def test_no_form_of_ipv6_leads_to_what_is_reserved(box: Box, policy: Json) -> None:
    box.set_policy(policy)
    box.reaches_none_of(ways(*RESERVED6))


def test_the_host_itself_reaches_all_of_it(bay: Lab) -> None:
    """Or the tests around would show nothing."""
    for address in (*BOTH, *OTHERS, *PRIVATE, *METADATA, *RESERVED, *RESERVED6):
        with socket.create_connection((address, 80), 8) as link:
            link.sendall(b"x")
            assert link.recv(1) == b"x"
    seen = bay.world.seen()
    assert all(seen[address, "tcp", 80] for address in (*BOTH, *PRIVATE, *METADATA, *RESERVED))


def test_multicast_and_broadcast_reach_nobody(box: Box) -> None:
    before = box.lab.world.seen()
    script = """if True:
        import socket
        for family, to in ((2, "224.0.0.251"), (2, "255.255.255.255"), (2, "10.186.0.3"), (10, "ff02::1%eth0"), (10, "ff0e::1%eth0")):
            with socket.socket(family, socket.SOCK_DGRAM) as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
                try:
                    sock.sendto(b"hello", socket.getaddrinfo(to, 80, family, socket.SOCK_DGRAM)[0][4])
                except OSError:
                    pass
    """
    with _listening() as (tcp, udp):
        del tcp
        box.python(script.replace(", 80,", f", {udp.getsockname()[1]},"))
        assert _nothing_came(udp)
    assert [one for one in box.lab.world.seen() if one not in before and one[1] == "udp"] == []


HOST = (HOST_PUBLIC, HOST_LAN, HOST_PUBLIC6, HOST_LAN6, str(GATEWAY_V4), str(GATEWAY_V6))


@pytest.mark.parametrize("policy", [open_but(), EVERYTHING], ids=["open", "all-allowed"])
def test_no_address_of_the_host_is_reached(box: Box, policy: Json) -> None:
    box.set_policy(policy)
    with _listening() as (tcp, udp):
        found = ways(*HOST, "::ffff:5.5.5.2", port=tcp.getsockname()[1])
        assert [word for word in box.tries(found).values() if word == "open"] == []
        with pytest.raises(BlockingIOError):
            tcp.accept()
        assert _nothing_came(udp)
    api = [(one, "tcp", box.lab.server.port) for one in (*HOST, "127.0.0.1", "::1")]
    assert set(box.tries(api).values()) == {"refused"}


@contextmanager
def _listening() -> Generator[tuple[socket.socket, socket.socket]]:
    """A TCP and a UDP socket on one port of every address of the host."""
    with socket.socket(socket.AF_INET6) as tcp, socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as udp:
        tcp.bind(("::", 0))
        udp.bind(("::", tcp.getsockname()[1]))
        tcp.listen()
        tcp.setblocking(False)
        udp.setblocking(False)
        yield tcp, udp


def _nothing_came(udp: socket.socket) -> bool:
    try:
        udp.recv(100)
    except BlockingIOError:
        return True
    return False


def test_no_sandbox_reaches_another(bay: Lab, box: Box) -> None:
    """They have the same address: whoever calls it meets itself."""
    box.set_policy(EVERYTHING)
    places = (str(INSIDE_V4), str(INSIDE_V6), "10.186.0.3", "fdba::3", str(GATEWAY_V4), str(GATEWAY_V6))
    with bay.box(EVERYTHING) as other:
        other.begin("python3", "-c", _SERVE)
        other.python(_WAIT_FOR_IT)
        assert set(box.tries([(one, "tcp", 8080) for one in places], wait_s=0.5).values()) == {"refused"}
        with raw.listening(raw.namespace_of(other)) as came:
            for source in (str(INSIDE_V4), "10.186.0.9"):
                raw.send(raw.namespace_of(box), raw.udp(source, str(INSIDE_V4), 8080))
            assert came() == []
            other.tries([(SITE, "udp", 80)])
            assert came() != []  # it does hear what is for it


_SERVE = """if True:
    import socket, time
    server = socket.create_server(("::", 8080), family=socket.AF_INET6, dualstack_ipv6=True)
    time.sleep(600)
"""
_WAIT_FOR_IT = """if True:
    import socket, time
    while True:
        with socket.socket() as sock:
            if sock.connect_ex(("10.186.0.2", 8080)) == 0:
                break
        time.sleep(0.02)
"""


def test_nobody_outside_reaches_a_sandbox(bay: Lab) -> None:
    """Not the host, not its neighbours, not the internet: nothing but what answers the sandbox comes in."""
    with bay.box(EVERYTHING) as box:
        box.begin("python3", "-c", _SERVE)
        box.python(_WAIT_FOR_IT)
        with raw.listening(raw.namespace_of(box)) as came:
            for outside in (bay.world.lan.inside, bay.world.internet.inside, _here):
                outside(lambda: _knock(str(INSIDE_V4)))
                outside(lambda: _knock(str(INSIDE_V6)))
            assert came() == []


def _here(work: Callable[[], None]) -> None:
    work()


def _knock(place: str) -> None:
    family = socket.AF_INET6 if ":" in place else socket.AF_INET
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(family, kind) as sock, suppress(OSError):
            sock.setblocking(False)
            sock.connect((place, 8080))
            sock.send(b"hello")


def test_the_host_forwards_for_sandboxes_alone(bay: Lab) -> None:
    """It forwarded nothing before Bay came."""
    bay.world.forget()
    for place in (SITE, SITE6):
        bay.world.lan.inside(lambda place=place: _knock(place))
    for place in (LAN, LAN6):
        bay.world.internet.inside(lambda place=place: _knock(place))
    assert bay.world.seen().total() == 0


def test_what_others_rules_send_elsewhere_goes_nowhere(bay: Lab, box: Box) -> None:
    """It was judged by the address that it was sent to."""
    raw.nft(
        "add table ip theirs; add chain ip theirs before { type nat hook prerouting priority -100; }; "
        f"add rule ip theirs before ip daddr {SITE} dnat to {LAN}"
    )
    try:
        bay.world.forget()
        box.reaches_none_of(ways(SITE))
        assert [one for one in bay.world.seen() if one[0] == LAN] == []
    finally:
        raw.nft("delete table ip theirs")
    box.reaches(ways(SITE))


def test_a_source_that_is_not_its_own_is_dropped(bay: Lab, box: Box) -> None:
    bay.world.forget()
    namespace = raw.namespace_of(box)
    for source in ("10.186.0.3", LAN, HOST_PUBLIC, "1.2.3.4", "0.0.0.0", "127.0.0.1", "255.255.255.255"):  # noqa: S104
        raw.send(namespace, raw.udp(source, SITE, 443))
    for source in ("fdba::3", LAN6, HOST_PUBLIC6, "2001:470::1", "::", "::1", "fe80::1"):
        raw.send(namespace, raw.udp(source, SITE6, 443))
    box.tries(ways(*BOTH))
    assert not bay.world.seen()[SITE, "udp", 443]
    assert not bay.world.seen()[SITE6, "udp", 443]
    raw.send(namespace, raw.udp(str(INSIDE_V4), SITE, 443))
    raw.send(namespace, raw.udp(str(INSIDE_V6), SITE6, 443))
    box.tries(ways(*BOTH))
    assert bay.world.seen()[SITE, "udp", 443]
    assert bay.world.seen()[SITE6, "udp", 443]
    assert bay.world.internet.senders() <= {HOST_PUBLIC, HOST_PUBLIC6}


def test_no_protocol_but_tcp_udp_and_ping_passes(bay: Lab, box: Box) -> None:
    bay.world.forget()
    for protocol in (2, 4, 41, 47, 50, 89, 132, 255):  # IGMP, two tunnels, GRE, ESP, OSPF, SCTP, raw
        _send(box, lambda source, to, protocol=protocol: raw.packet(source, to, protocol, b"\0" * 40))
    for kind in (3, 5, 13, 17):  # unreachable, redirect, timestamp, mask
        raw.send(raw.namespace_of(box), raw.icmp(str(INSIDE_V4), OTHER, kind))
    for kind in (
        1,
        2,
        133,
        137,
        139,
    ):  # unreachable, too big, router solicitation, redirect, node information
        raw.send(raw.namespace_of(box), raw.icmp(str(INSIDE_V6), OTHER6, kind))
    raw.send(raw.namespace_of(box), raw.packet(str(INSIDE_V4), OTHER, 58, b"\x80\0\0\0\0\0\0\0"))
    raw.send(raw.namespace_of(box), raw.packet(str(INSIDE_V6), OTHER6, 1, b"\x08\0\0\0\0\0\0\0"))
    box.tries(ways(*BOTH, port=8080))
    assert set(bay.world.seen()) == set(ways(*BOTH, port=8080))
    assert _counter(box, "protocol")["refused_connections"] > 8
    _send(box, lambda source, to: raw.icmp(source, to, 128 if ":" in to else 8))
    box.tries(ways(*BOTH, port=8080))
    assert set(bay.world.seen()) == {*ways(*BOTH, port=8080), (OTHER, "icmp", 0), (OTHER6, "icmp", 0)}


def _send(box: Box, made: Callable[[str, str], bytes]) -> None:
    """One packet of each version of IP to the other site."""
    pairs = ((str(INSIDE_V4), OTHER), (str(INSIDE_V6), OTHER6))
    raw.send(raw.namespace_of(box), *(made(*pair) for pair in pairs))


def test_root_inside_changes_nothing_of_its_network(box: Box) -> None:
    script = """if True:
        import fcntl, socket, struct
        def tries(act):
            try:
                act()
            except OSError as error:
                return error.errno
        print(tries(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0x300)))
        print(tries(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 17)))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            address = struct.pack("16sHH4s8x", b"eth0", 2, 0, socket.inet_aton("10.186.0.3"))
            print(tries(lambda: fcntl.ioctl(sock, 0x8916, address)))
            print(tries(lambda: sock.setsockopt(socket.SOL_SOCKET, 36, 7)))  # SO_MARK
            print(tries(lambda: sock.setsockopt(0, 19, 1)))  # IP_TRANSPARENT
    """
    assert box.python(script, user="root").split() == ["1", "1", "1", "1", "1"]


def test_none_is_loopback_alone(box: Box) -> None:
    box.set_policy(NONE)
    box.reaches_none_of(ways(*BOTH, LAN, METADATA[0], *HOST))
    names = box.run("sh", "-c", "cat /proc/net/dev | tail -n +3 | cut -d: -f1 | tr -d ' '")["stdout"].split()
    assert names == ["lo"]
    assert (
        box.python(
            "import socket; s = socket.create_server(('127.0.0.1', 0)); socket.create_connection(s.getsockname()); print('ok')"
        )
        == "ok\n"
    )
    box.set_policy(open_but())
    box.reaches(ways(*BOTH))


def test_an_allowlist_without_rules_reaches_nothing(box: Box) -> None:
    box.set_policy(allowlist())
    box.reaches_none_of([*ways(*BOTH, *OTHERS), (PUBLIC_RESOLVER, "udp", 53), (PUBLIC_RESOLVER, "tcp", 443)])


@pytest.mark.parametrize("protocol", ["tcp", "udp", "icmp"])
def test_a_rule_for_a_protocol_allows_that_alone(box: Box, protocol: str) -> None:
    box.set_policy(allowlist(*cidrs(*BOTH, protocol=protocol)))
    box.reaches([way for way in ways(*BOTH) if way[1] == protocol])
    box.reaches_none_of([way for way in ways(*BOTH, port=443) if way[1] != protocol])
    box.reaches_none_of(ways(*OTHERS))


@pytest.mark.parametrize("protocol", ["tcp", "udp", "icmp"])
def test_a_rule_for_a_protocol_denies_that_alone(box: Box, protocol: str) -> None:
    box.set_policy(open_but(*({**rule, "action": "deny"} for rule in cidrs(*BOTH, protocol=protocol))))
    box.reaches([way for way in ways(*BOTH) if way[1] != protocol])
    box.lab.world.forget()
    box.reaches_none_of([way for way in ways(*BOTH) if way[1] == protocol])
    box.reaches(ways(*OTHERS))


def test_a_rule_for_ports_allows_those_alone(box: Box) -> None:
    box.set_policy(allowlist(*cidrs(*BOTH, ports=[80, "8000-8100"])))
    allowed: list[Way] = [(one, by, port) for one in BOTH for by in ("tcp", "udp") for port in (80, 8080)]
    box.reaches(allowed)
    box.lab.world.forget()
    box.reaches_none_of(
        [*((one, by, 443) for one in BOTH for by in ("tcp", "udp")), *((one, "icmp", 0) for one in BOTH)]
    )


def test_a_rule_without_protocol_and_ports_allows_all_of_a_place(box: Box) -> None:
    box.set_policy(allowlist(*cidrs(*BOTH)))
    box.reaches([*ways(*BOTH), *ways(*BOTH, port=443)])
    box.reaches_none_of(ways(*OTHERS))


def test_the_most_specific_cidr_decides(box: Box) -> None:
    box.lab.world.forget()
    box.set_policy(open_but(
        deny(cidr="93.0.0.0/8"), allow(cidr="93.184.216.0/24"),
        allow(cidr="151.0.0.0/8"), deny(cidr=OTHER),
        deny(cidr="2606:2800::/32"), allow(cidr=SITE6), allow(cidr="2a04::/16"), deny(cidr=OTHER6),
    ))  # fmt: skip
    box.reaches(ways(*BOTH))
    box.reaches_none_of(ways(*OTHERS))


def test_of_equal_rules_the_deny_decides(box: Box) -> None:
    box.lab.world.forget()
    box.set_policy(allowlist(*cidrs(*BOTH, *OTHERS), deny(cidr=OTHER), deny(cidr=OTHER6)))
    box.reaches(ways(*BOTH))
    box.reaches_none_of(ways(*OTHERS))


def test_of_the_same_cidr_the_rule_for_some_services_decides(box: Box) -> None:
    box.set_policy(
        open_but(
            deny(cidr=SITE),
            allow(cidr=SITE, ports=[443], protocol="tcp"),
            allow(cidr=SITE6),
            deny(cidr=SITE6, protocol="icmp"),
        )
    )
    box.reaches([(SITE, "tcp", 443), (SITE6, "tcp", 80), (SITE6, "udp", 80)])
    box.lab.world.forget()
    box.reaches_none_of([*ways(SITE), (SITE, "udp", 443), (SITE6, "icmp", 0)])


def test_a_private_host_is_reached_where_setting_and_rule_say_so(box: Box) -> None:
    """The setting `network_private` of this Bay opens 10.20.0.5 and fd00:20::5 to rules."""
    box.set_policy(open_but(*cidrs(LAN, LAN6, ports=[8080], protocol="tcp")))
    box.reaches([(LAN, "tcp", 8080), (LAN6, "tcp", 8080), *ways(*BOTH)])
    box.lab.world.forget()
    box.reaches_none_of(
        [*ways(LAN, LAN6), (LAN, "udp", 8080), *ways(RESOLVER, *PRIVATE[1:], HOST_LAN, HOST_LAN6)]
    )


def test_a_rule_cannot_allow_a_private_network_that_the_setting_does_not(box: Box) -> None:
    for cidr in (
        RESOLVER,
        "10.0.0.0/8",
        "192.168.0.0/16",
        METADATA[0],
        CARRIER,
        "fd00::/8",
        "fe80::/10",
        "127.0.0.1",
    ):
        answer = box.lab.call("PUT", box.path("/network-policy"), json=allowlist(allow(cidr=cidr)))
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "validation_error"), cidr


def test_counters_tell_what_each_rule_did(bay: Lab) -> None:
    policy = open_but(allow(cidr=SITE), deny(cidr=OTHER), deny(cidr=OTHER6, protocol="udp"))
    with bay.box(policy) as box:
        box.tries([*ways(SITE), *ways(OTHER, OTHER6), (LAN, "tcp", 80)])
        state = box.network()
        counted = {
            (one["rule"], one["reason"]): (one["allowed_connections"], one["refused_connections"])
            for one in state["counters"]
        }
    assert counted == {
        (0, None): (3, 0),
        (1, None): (0, 3),
        (2, None): (0, 1),
        (None, "default"): (2, 0),
        (None, "reserved"): (0, 1),
    }
    assert (state["mode"], state["enforced"]) == ("open", True)
    assert state["received_bytes"] > 0 < state["sent_bytes"]


def test_refused_packets_are_in_the_metrics_and_stay_when_the_sandbox_goes(bay: Lab) -> None:
    before = _refused(bay)
    with bay.box(open_but(deny(cidr=OTHER))) as box:
        box.tries([(OTHER, "tcp", 80), (OTHER, "udp", 80), (LAN, "tcp", 80)])
        assert _refused(bay) == before + Counter({"rule": 2, "reserved": 1})
    assert _refused(bay) == before + Counter({"rule": 2, "reserved": 1})


def _refused(bay: Lab) -> Counter[str]:
    text = bay.call("GET", "/metrics").text
    found = re.findall(r'(?m)^bay_network_packets_refused_total\{reason="(\w+)"\} (\S+)$', text)
    return Counter({reason: int(float(packets)) for reason, packets in found})


def test_the_bytes_of_a_network_are_in_the_metrics(bay: Lab) -> None:
    with bay.box(open_but()) as box:
        until = time.monotonic() + METRICS_S
        sent = received = 0.0
        while not (sent > 0 < received):
            assert time.monotonic() < until, (sent, received)
            box.tries(ways(SITE))
            points = bay.ask("GET", box.path("/metrics"))["points"]
            sent = sum(one["sent_bytes"] or 0 for one in points)
            received = sum(one["received_bytes"] or 0 for one in points)
        state = box.network()
    assert sent <= state["sent_bytes"]
    assert received <= state["received_bytes"]


def _counter(box: Box, reason: str) -> Json:
    return next(one for one in box.network()["counters"] if one["reason"] == reason)
