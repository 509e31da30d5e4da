"""What a sandbox reaches by name: what its policy answers, and no more, whatever a resolver says and however
often it is asked.
"""

import json
import threading
import time
from collections.abc import Generator

import dns.message
import pytest
from lab import Box, Json, Lab, Way, allow, allowlist, deny, eventually, open_but, ways
from world import (
    CARRIER,
    HOST_PUBLIC,
    LAN,
    METADATA,
    OTHER,
    OTHER6,
    PRIVATE,
    PUBLIC_RESOLVER,
    RESERVED6,
    RESOLVER,
    SITE,
    SITE6,
    World,
)

from bay.linux.nftables import Nft

pytestmark = pytest.mark.host

GOOD, BAD = "good.example", "bad.example"
TTL_S = 60


@pytest.fixture(scope="module")
def shared(bay: Lab) -> Generator[Box]:
    """One sandbox, whose policy each test sets."""
    with bay.box() as made:
        yield made


@pytest.fixture
def zone(earth: World) -> Generator[dict[tuple[str, str], list[str]]]:
    """What the resolver knows: two sites, and what a test adds. It is honest again at the end."""
    resolver = earth.resolver
    resolver.zone.clear()
    resolver.zone |= {
        (GOOD, "A"): [SITE],
        (GOOD, "AAAA"): [SITE6],
        (BAD, "A"): [OTHER],
        (BAD, "AAAA"): [OTHER6],
    }
    yield resolver.zone
    resolver.lie, resolver.stream_lie, resolver.silent, resolver.ttl = None, None, False, TTL_S


@pytest.fixture
def box(shared: Box, zone: dict[tuple[str, str], list[str]]) -> Box:
    """It, with nothing open that a name opened for the test before."""
    del zone
    shared.set_policy(allowlist())
    shared.lab.world.forget()
    return shared


ASK = """if True:
    import socket, struct, sys, json
    OWN = open("/etc/resolv.conf").read().split()[1]
    def ask(name, kind, server=OWN, wait=8):
        question = struct.pack("!HHHHHH", 7, 0x100, 1, 0, 0, 0)
        question += b"".join(bytes([len(one)]) + one.encode() for one in name.split(".")) + b"\\0" + struct.pack("!HH", kind, 1)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(wait)
            sock.sendto(question, (server, 53))
            try:
                answer = sock.recv(65536)
            except OSError:
                return None
        return answer[3] & 15, struct.unpack("!H", answer[6:8])[0]
"""
"""Gives the code and the number of records of the answer to a question; None where nothing comes."""
NOERROR, SERVFAIL, NXDOMAIN, REFUSED = 0, 2, 3, 5


def asks(box: Box, *names: str, kind: int = 1) -> list[list[int] | None]:
    """What each name's question is answered with."""
    script = ASK + f"\n    print(json.dumps([ask(name, {kind}) for name in sys.argv[1:]]))"
    return json.loads(box.python(script, *names, wait=60))


def test_a_name_opens_its_addresses_and_nothing_else(box: Box) -> None:
    box.set_policy(allowlist(allow(domain=GOOD)))
    box.reaches_none_of(ways(SITE, SITE6, OTHER, OTHER6))  # a raw address is nobody's name
    box.reaches(ways(GOOD))
    box.reaches(ways(SITE, SITE6))
    box.reaches_none_of(ways(OTHER, OTHER6, BAD))
    assert box.lab.world.resolver.names().count(BAD) == 0


def test_a_name_opens_both_versions_of_ip(box: Box) -> None:
    box.set_policy(allowlist(allow(domain=GOOD)))
    assert asks(box, GOOD, kind=28) == [[NOERROR, 1]]
    box.reaches(ways(SITE6))
    box.reaches_none_of(ways(SITE))


def test_what_one_sandbox_resolved_opens_nothing_for_another(bay: Lab, box: Box) -> None:
    policy = allowlist(allow(domain=GOOD))
    box.set_policy(policy)
    with bay.box(policy) as other:
        box.reaches(ways(GOOD))
        bay.world.forget()
        other.reaches_none_of(ways(SITE))


@pytest.mark.parametrize("protocol", ["tcp", "udp", "icmp"])
def test_a_rule_for_a_name_holds_for_its_protocol_alone(box: Box, protocol: str) -> None:
    box.set_policy(allowlist(allow(domain=GOOD, protocol=protocol)))
    asks(box, GOOD, kind=28)
    box.reaches([way for way in ways(GOOD, SITE6) if way[1] == protocol])
    box.reaches_none_of([way for way in ways(GOOD, SITE6, port=443) if way[1] != protocol], also=(SITE,))


def test_a_rule_for_a_name_holds_for_its_ports_alone(box: Box) -> None:
    box.set_policy(allowlist(allow(domain=GOOD, ports=[443, "8000-9000"])))
    box.reaches([(GOOD, by, port) for by in ("tcp", "udp") for port in (443, 8080)])
    box.reaches_none_of([*ways(GOOD)], also=(SITE,))


def test_a_wildcard_is_about_the_names_below(box: Box, zone: dict[tuple[str, str], list[str]]) -> None:
    zone |= {("api.good.example", "A"): [SITE], ("a.b.good.example", "A"): [SITE]}
    box.set_policy(allowlist(allow(domain="*.good.example")))
    assert asks(box, "api.good.example", "a.b.good.example", GOOD, "xgood.example") == [
        [NOERROR, 1],
        [NOERROR, 1],
        [REFUSED, 0],
        [REFUSED, 0],
    ]


def test_the_most_specific_name_decides(box: Box, zone: dict[tuple[str, str], list[str]]) -> None:
    zone |= {("api.good.example", "A"): [SITE], ("x.api.good.example", "A"): [SITE]}
    box.set_policy(
        allowlist(allow(domain="*"), deny(domain="*.good.example"), allow(domain="api.good.example"))
    )
    assert [one and one[0] for one in asks(box, BAD, "x.api.good.example", "api.good.example")] == [
        NOERROR,
        REFUSED,
        NOERROR,
    ]
    box.set_policy(allowlist(allow(domain=GOOD), deny(domain=GOOD)))
    assert asks(box, GOOD) == [[REFUSED, 0]]


def test_open_answers_every_name_but_those_denied(box: Box) -> None:
    box.set_policy(open_but(deny(domain=BAD)))
    assert asks(box, GOOD, BAD) == [[NOERROR, 1], [REFUSED, 0]]
    box.reaches(ways(GOOD))


def test_a_denied_cidr_beats_a_name(box: Box) -> None:
    """Who owns a name chooses its addresses."""
    box.set_policy(allowlist(allow(domain="*"), deny(cidr="151.101.0.0/16")))
    box.reaches(ways(GOOD))
    box.reaches_none_of(ways(BAD), also=(OTHER,))


def test_the_addresses_of_a_name_are_open_for_its_time(bay: Lab, box: Box) -> None:
    box.set_policy(allowlist(allow(domain=GOOD)))
    asks(box, GOOD)
    nft = Nft()
    listed = json.loads(json.dumps(nft.ask("list ruleset", elements=True)))
    nft.close()
    maps = [one["map"] for one in listed if "map" in one and "_nallow4" in one["map"]["name"]]
    found = [element[0]["elem"] for one in maps for element in one.get("elem", ())]
    assert [one["val"] for one in found if one["val"] == SITE]
    assert all(0 < one["expires"] <= one["timeout"] <= TTL_S + 60 for one in found)
    del bay


def test_aliases_are_followed_under_the_rule_for_the_name(
    box: Box, zone: dict[tuple[str, str], list[str]]
) -> None:
    zone |= {
        ("start.example", "CNAME"): ["middle.example."],
        ("middle.example", "CNAME"): ["end.example."],
        ("end.example", "A"): [SITE],
    }
    for chases in (True, False):
        box.lab.world.resolver.chases = chases
        box.set_policy(allowlist())
        box.set_policy(allowlist(allow(domain="start.example")))
        box.reaches(ways("start.example"))
        box.reaches(ways(SITE))
        assert asks(box, "middle.example", "end.example") == [[REFUSED, 0], [REFUSED, 0]]
    box.lab.world.resolver.chases = True


def test_aliases_in_a_circle_end(box: Box, zone: dict[tuple[str, str], list[str]]) -> None:
    zone |= {("a.example", "CNAME"): ["b.example."], ("b.example", "CNAME"): ["a.example."]}
    box.set_policy(allowlist(allow(domain="*")))
    for chases in (True, False):
        box.lab.world.resolver.chases = chases
        assert asks(box, "a.example") == [[SERVFAIL, 0]]
    box.lab.world.resolver.chases = True
    assert len(box.lab.world.resolver.asked) < 40


def test_a_name_with_a_thousand_addresses_is_bounded_and_all_told_are_open(
    box: Box, zone: dict[tuple[str, str], list[str]]
) -> None:
    zone[GOOD, "A"] = [SITE, *(f"93.184.{high}.{low}" for high in range(4) for low in range(250))]
    box.set_policy(allowlist(allow(domain=GOOD)))
    told = json.loads(box.python(_RESOLVE, GOOD))
    assert 1 <= len(told) <= 256
    found: list[Way] = [(one, "udp", 80) for one in told]
    box.tries(found, wait_s=0.2)
    came = box.lab.world.seen()
    assert [way for way in found if way not in came] == []
    box.reaches_none_of([("93.184.9.9", "udp", 80)])


_RESOLVE = "import json, sys, socket; print(json.dumps([one[4][0] for one in socket.getaddrinfo(sys.argv[1], 80, 2, 1)]))"

INWARD = (LAN, *PRIVATE, *METADATA, CARRIER, RESOLVER, "127.0.0.1", "0.0.0.0", "224.0.0.1", "10.186.0.1")  # noqa: S104


@pytest.mark.parametrize("policy", [open_but(), allowlist(allow(domain="*"))], ids=["open", "allowlist"])
def test_a_name_that_points_inward_is_not_answered(
    box: Box, zone: dict[tuple[str, str], list[str]], policy: Json
) -> None:
    zone |= {(f"in{number}.example", "A"): [address] for number, address in enumerate(INWARD)}
    zone |= {
        (f"six{number}.example", "AAAA"): [address]
        for number, address in enumerate((*RESERVED6, "::1", "fe80::1"))
    }
    zone |= {("mixed.example", "A"): [LAN, SITE]}
    box.set_policy(policy)
    names = [name for name, _ in zone if name.startswith(("in", "six"))]
    assert [one for one in asks(box, *names) if one and one[1]] == []
    assert [one for one in asks(box, *names, kind=28) if one and one[1]] == []
    assert asks(box, "mixed.example") == [[NOERROR, 1]]
    box.reaches(ways("mixed.example"))
    box.reaches_none_of(ways(*names[:3]), also=INWARD)


def test_a_name_may_point_to_a_private_host_that_a_rule_allows(
    box: Box, zone: dict[tuple[str, str], list[str]]
) -> None:
    """The setting `network_private` of this Bay opens 10.20.0.5 to rules."""
    zone["in.example", "A"] = [LAN]
    box.set_policy(open_but(allow(cidr=LAN, ports=[8080])))
    box.reaches([("in.example", "tcp", 8080)])
    box.reaches_none_of(ways("in.example"), also=(LAN,))
    box.set_policy(open_but())
    assert asks(box, "in.example") == [[REFUSED, 0]]


def test_a_name_that_turns_inward_later_leads_nowhere(
    box: Box, zone: dict[tuple[str, str], list[str]]
) -> None:
    """DNS rebinding: first a public address, then, when the program trusts the name, a private one."""
    box.lab.world.resolver.ttl = 0
    zone["rebind.example", "A"] = [SITE]
    box.set_policy(open_but())
    box.reaches(ways("rebind.example"))
    zone["rebind.example", "A"] = [METADATA[0]]
    script = (
        ASK
        + """
    import time
    for _ in range(200):
        if ask("rebind.example", 1) != (0, 1):
            break
        time.sleep(0.1)
    print(ask("rebind.example", 1)[1])
    """
    )
    assert box.python(script, wait=40) == "0\n"
    box.reaches_none_of(ways("rebind.example"), also=METADATA)


def test_the_host_s_own_address_is_not_reached_by_a_name(
    box: Box, zone: dict[tuple[str, str], list[str]]
) -> None:
    zone["host.example", "A"] = [HOST_PUBLIC]
    box.set_policy(open_but())
    found: list[Way] = [("host.example", "tcp", box.lab.server.port), *ways("host.example")]
    assert [word for word in box.tries(found).values() if word == "open"] == []


def test_another_resolver_is_no_way_around(box: Box, zone: dict[tuple[str, str], list[str]]) -> None:
    del zone
    box.set_policy(allowlist(allow(domain=GOOD)))
    box.reaches_none_of([(PUBLIC_RESOLVER, by, port) for by in ("tcp", "udp") for port in (53, 443)])


def test_a_resolver_that_lies_is_not_believed(box: Box) -> None:
    def forged(question: bytes, answer: dns.message.Message) -> list[bytes]:
        wrong_id = answer.to_wire()
        other = dns.message.make_response(dns.message.make_query("other.example", "A"))
        return [
            bytes([wrong_id[0] ^ 1]) + wrong_id[1:],
            question[:2] + other.to_wire()[2:],
            b"",
            question[:5],
        ]

    box.set_policy(allowlist(allow(domain=GOOD)))
    box.lab.world.resolver.lie = forged
    assert asks(box, GOOD) == [[SERVFAIL, 0]]
    box.reaches_none_of(ways(SITE))


def test_a_resolver_that_is_silent_is_not_waited_for_long(box: Box) -> None:
    box.set_policy(allowlist(allow(domain="*")))
    box.lab.world.resolver.silent = True
    begun = time.monotonic()
    assert asks(box, "silent.example") == [[SERVFAIL, 0]]
    assert time.monotonic() - begun < 8
    box.lab.world.resolver.silent = False
    eventually(lambda: asks(box, GOOD) == [[NOERROR, 1]], "the resolver is back")


def test_the_names_that_were_refused_are_told(box: Box) -> None:
    box.set_policy(allowlist(allow(domain=GOOD)))
    asks(box, GOOD, "told.example", "told.example", "other.example")
    state = box.network()
    refused = {one["name"]: (one["count"], one["reason"]) for one in state["refused"] if one["type"] == "A"}
    assert refused["told.example"] == (2, "policy")
    assert refused["other.example"] == (1, "policy")
    counted = {
        (one["rule"], one["reason"]): (one["allowed_names"], one["refused_names"])
        for one in state["counters"]
    }
    assert counted[0, None] == (1, 0)
    assert counted[None, "default"] == (0, 3)


def test_who_floods_with_questions_keeps_nobody_from_theirs(bay: Lab, box: Box) -> None:
    flood = (
        ASK
        + """
    import time
    began, sent = time.monotonic(), 0
    question = struct.pack("!HHHHHH", 7, 0x100, 1, 0, 0, 0) + b"\\4good\\7example\\0" + struct.pack("!HH", 1, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((OWN, 53))
        while time.monotonic() - began < 3:
            try:
                for number in range(200):
                    sock.send(question[:13] + b"%04d" % (sent % 10000) + question[17:])
                    sent += 1
            except OSError:
                pass
    print(sent)
    """
    )
    box.set_policy(allowlist(allow(domain="*")))
    with bay.box(allowlist(allow(domain="*"))) as other:
        sent: list[str] = []
        flooding = threading.Thread(target=lambda: sent.append(box.python(flood, wait=30)))
        flooding.start()
        begun = time.monotonic()
        assert asks(other, *[f"{number}.example" for number in range(20)]) == [[NXDOMAIN, 0]] * 20
        assert time.monotonic() - begun < 10
        flooding.join(40)
    assert int(sent[0]) > 5000
    assert len(bay.world.resolver.asked) < 1500  # 400 at once and 100 a second


def test_names_are_no_way_to_carry_data_out(box: Box) -> None:
    script = (
        ASK
        + """
    import os
    print(json.dumps([ask(os.urandom(28).hex() + ".leak.example", 16, wait=2) for _ in range(100)]))
    """
    )
    box.set_policy(allowlist(allow(domain="*.leak.example")))
    said = json.loads(box.python(script, wait=60))
    carried = [name for name in box.lab.world.resolver.names() if name.endswith(".leak.example")]
    assert said[-1] in ([REFUSED, 0], None)
    assert sum(len(name) // 2 for name in carried) < 2000
    assert any(one["reason"] != "policy" for one in box.network()["refused"])
