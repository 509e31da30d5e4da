"""What a policy means, without a kernel: the flattened plan against a reading of the rules one by one, and
bad input.
"""

import time
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address, ip_network
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bay.errors import InvalidArgument
from bay.models import NetworkMode, NetworkPolicy, NetworkProtocol, NetworkRule
from bay.network.policy import MAX_RULES, CompiledPolicy, PolicyDecision, checked, compile_policy
from bay.network.reserved_ranges import RESERVED_V4, RESERVED_V6, Address, Network, is_reserved, is_within

pytestmark = pytest.mark.pure

PRIVATE = (IPv4Network("10.1.0.0/16"),)


def allow(target: str, **more: Any) -> NetworkRule:
    return _rule("allow", target, **more)


def deny(target: str, **more: Any) -> NetworkRule:
    return _rule("deny", target, **more)


def _rule(action: Any, target: str, **more: Any) -> NetworkRule:
    kind = "cidr" if "/" in target else "domain"
    return NetworkRule(action=action, **{kind: target}, **more)


def plan(mode: NetworkMode, *rules: NetworkRule, private: tuple[Network, ...] = ()) -> CompiledPolicy:
    return compile_policy(checked(NetworkPolicy(mode=mode, rules=rules), private), private)


def reached(
    of: CompiledPolicy, address: str, port: int = 443, protocol: NetworkProtocol = "tcp", *names: str
) -> bool:
    return of.decide(ip_address(address), protocol, port, names).allowed


# The order of strength, said once more and one rule at a time: what a reader of docs would do with a pencil.


def _covers(rule: NetworkRule, protocol: str, port: int) -> bool:
    if rule.protocol is not None and rule.protocol != protocol:
        return False
    if rule.ports is None:
        return True
    return protocol != "icmp" and any(_in_range(port, one) for one in rule.ports)


def _in_range(port: int, ports: int | str) -> bool:
    ends = [int(end) for end in str(ports).split("-")]
    return ends[0] <= port <= ends[-1]


def _strength(rule: NetworkRule, length: int, index: int) -> tuple[int, bool, bool, int]:
    return length, rule.ports is not None or rule.protocol is not None, rule.action == "deny", -index


def _match_length(pattern: str, name: str) -> int | None:
    if pattern == "*":
        return 0
    if pattern == name:
        return 1000
    return len(pattern) if pattern.startswith("*.") and name.endswith(pattern[1:]) else None


def pencil(policy: NetworkPolicy, address: Address, protocol: str, port: int, names: set[str]) -> bool:
    rules = [(i, rule) for i, rule in enumerate(policy.rules) if _covers(rule, protocol, port)]
    by_cidr: list[tuple[Any, NetworkRule, Network]] = []
    for index, rule in rules:
        if rule.cidr and address in (network := ip_network(rule.cidr)):
            by_cidr.append((_strength(rule, network.prefixlen, index), rule, network))
    best = max(by_cidr, key=lambda one: one[0], default=None)
    if is_reserved(address):
        inside = (
            best is not None and best[1].action == "allow" and any(is_within(best[2], one) for one in PRIVATE)
        )
        return policy.mode != "none" and inside
    if policy.mode == "none" or (best and best[1].action == "deny" and best[2].prefixlen):
        return False
    said: set[str] = set()
    for name in names:
        verdicts = [
            _named(policy, name, *service)
            for service in (("tcp", 1), ("udp", 1), ("icmp", 0), *_edges(policy))
        ]
        if not any(one == "allow" or (one is None and policy.mode == "open") for one in verdicts):
            continue
        if (one := _named(policy, name, protocol, port)) is not None:
            said.add(one)
    if said:
        return "deny" not in said
    return best[1].action == "allow" if best else policy.mode == "open"


def _edges(policy: NetworkPolicy) -> set[tuple[str, int]]:
    ends = {int(end) for rule in policy.rules for one in rule.ports or () for end in str(one).split("-")}
    ports = {port for end in ends for port in (end - 1, end, end + 1)} | {65_535}
    return {(protocol, port) for protocol in ("tcp", "udp") for port in ports}


def _named(policy: NetworkPolicy, name: str, protocol: str, port: int) -> str | None:
    found = [
        (_strength(rule, length, index), rule.action)
        for index, rule in enumerate(policy.rules)
        if rule.domain and _covers(rule, protocol, port)
        if (length := _match_length(rule.domain, name)) is not None
    ]
    return max(found)[1] if found else None


CIDRS = [
    *("0.0.0.0/0", "8.0.0.0/6", "8.8.0.0/16", "8.8.8.0/24", "8.8.8.8/32", "8.8.4.0/24", "128.0.0.0/1"),
    *("10.1.0.0/16", "10.1.2.0/24", "0.0.0.0/1", "::/0", "2600::/12", "2600:1::/32", "2600:1::8/128"),
]
DOMAINS = ["*", "*.example.com", "api.example.com", "*.api.example.com", "*.com", "other.net"]
ADDRESSES = [
    *("8.8.8.8", "8.8.8.9", "8.8.4.4", "9.9.9.9", "10.1.2.3", "10.1.9.9", "10.2.0.1", "130.1.1.1"),
    *("127.0.0.1", "2600:1::8", "2600:1::9", "2600:2::1", "2a00::1", "fd12::1"),
]
NAMES = ["api.example.com", "a.example.com", "b.api.example.com", "example.com", "other.net", "x.org"]
SERVICES: list[tuple[NetworkProtocol, int]] = [
    *(("tcp", 443), ("tcp", 80), ("udp", 443), ("tcp", 22), ("udp", 8050), ("icmp", 0), ("tcp", 450)),
]
PORTS = st.sampled_from([None, None, (443,), (80, 443), ("8000-8100",), ("1-65535",), ("400-500", 443)])


@st.composite
def drawn_rules(draw: st.DrawFn) -> NetworkRule:
    ports = draw(PORTS)
    protocols = ("tcp", "udp") if ports else ("tcp", "udp", "icmp")
    target = draw(st.sampled_from([*CIDRS, *DOMAINS]))
    make = draw(st.sampled_from([allow, deny]))
    return make(target, ports=ports, protocol=draw(st.sampled_from([None, None, *protocols])))


@settings(max_examples=400, deadline=None)
@given(
    mode=st.sampled_from(["none", "allowlist", "open"]),
    rules=st.lists(drawn_rules(), max_size=7),
    address=st.sampled_from(ADDRESSES),
    service=st.sampled_from(SERVICES),
    names=st.sets(st.sampled_from(NAMES), max_size=2),
)
def test_a_plan_decides_as_the_rules_read_one_by_one(
    mode: NetworkMode,
    rules: list[NetworkRule],
    address: str,
    service: tuple[NetworkProtocol, int],
    names: set[str],
) -> None:
    policy = checked(NetworkPolicy(mode=mode, rules=tuple(rules)), PRIVATE)
    expected = pencil(policy, ip_address(address), *service, names)
    assert compile_policy(policy, PRIVATE).decide(ip_address(address), *service, names).allowed == expected


@settings(max_examples=200, deadline=None)
@given(st.lists(drawn_rules(), max_size=12))
def test_intervals_are_disjoint_ascending_and_never_empty(rules: list[NetworkRule]) -> None:
    of = plan("open", *rules, private=PRIVATE)
    for intervals in (*of.cidrs(4), *of.cidrs(6)):
        assert all(one.first <= one.last for one in intervals)
        assert all(one.last < after.first for one, after in pairwise(intervals))


@settings(max_examples=200, deadline=None)
@given(st.lists(drawn_rules(), max_size=12))
def test_every_service_is_in_exactly_one_class(rules: list[NetworkRule]) -> None:
    spans = sorted(span for one in plan("open", *rules, private=PRIVATE).services for span in one.spans)
    for protocol, top in (("tcp", 65_535), ("udp", 65_535), ("icmp", 0)):
        mine = [span[1:] for span in spans if span[0] == protocol]
        assert mine[0][0] == 0
        assert mine[-1][1] == top
        assert all(one[1] + 1 == after[0] for one, after in pairwise(mine))


def test_the_modes_decide_what_no_rule_does() -> None:
    decisions = {
        mode: plan(mode).decide(IPv4Address("8.8.8.8"), "tcp", 443) for mode in ("none", "allowlist", "open")
    }
    assert decisions == {
        "none": PolicyDecision(False, reason="default"),
        "allowlist": PolicyDecision(False, reason="default"),
        "open": PolicyDecision(True, reason="default"),
    }


def test_other_protocols_than_tcp_udp_and_icmp_pass_by_no_rule() -> None:
    of = plan("open", allow("0.0.0.0/0"))
    assert of.decide(IPv4Address("8.8.8.8"), "sctp", 443) == PolicyDecision(False, reason="protocol")


@pytest.mark.parametrize("network", [*RESERVED_V4, *RESERVED_V6], ids=str)
@pytest.mark.parametrize("end", [0, -1])
def test_reserved_addresses_are_refused_whatever_allows_everything(network: Network, end: int) -> None:
    of = plan("open", allow("0.0.0.0/0"), allow("::/0"), allow("*"))
    decision = of.decide(network[end], "tcp", 443, ["a.example.com"])
    assert decision == PolicyDecision(False, reason="reserved")


@pytest.mark.parametrize(
    "address",
    ["::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1", "2001:0:808::1", "::8.8.8.8", "fe80::1"],
)
def test_ipv4_hidden_in_ipv6_is_reserved(address: str) -> None:
    assert is_reserved(IPv6Address(address))


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1", "2a00:1450::1"]
)
def test_the_public_internet_is_not_reserved(address: str) -> None:
    assert not is_reserved(ip_address(address))


def test_a_longer_prefix_beats_a_shorter_and_the_deny_of_two_equal() -> None:
    of = plan("open", deny("8.0.0.0/8"), allow("8.8.0.0/16"), deny("8.8.8.0/24"), allow("8.8.8.0/24"))
    assert not reached(of, "8.1.1.1")
    assert reached(of, "8.8.1.1")
    assert of.decide(IPv4Address("8.8.8.8"), "tcp", 1) == PolicyDecision(False, 2)


def test_of_two_equal_prefixes_the_one_about_a_service_decides_there() -> None:
    of = plan("open", deny("8.8.8.0/24"), allow("8.8.8.0/24", ports=(443,), protocol="tcp"))
    assert reached(of, "8.8.8.8")
    assert not reached(of, "8.8.8.8", 80)
    assert not reached(of, "8.8.8.8", 443, "udp")


def test_ports_without_a_protocol_are_of_tcp_and_udp() -> None:
    of = plan("allowlist", allow("8.8.8.8/32", ports=(53, "100-102")))
    assert [reached(of, "8.8.8.8", 101, protocol) for protocol in ("tcp", "udp", "icmp")] == [
        True,
        True,
        False,
    ]
    assert not reached(of, "8.8.8.8", 103)


def test_a_deny_by_cidr_beats_what_a_name_opened_and_one_of_everything_does_not() -> None:
    rules = allow("api.example.com"), deny("8.8.8.0/24"), deny("0.0.0.0/0")
    of = plan("allowlist", *rules)
    assert not reached(of, "8.8.8.8", 443, "tcp", "api.example.com")
    assert reached(of, "9.9.9.9", 443, "tcp", "api.example.com")
    assert not reached(of, "9.9.9.9")


def test_a_name_that_is_denied_beats_another_at_the_same_address() -> None:
    of = plan(
        "allowlist", allow("good.example.com"), allow("bad.example.com", ports=(80,)), deny("bad.example.com")
    )
    assert not reached(of, "8.8.8.8", 443, "tcp", "good.example.com", "bad.example.com")
    assert reached(of, "8.8.8.8", 80, "tcp", "good.example.com", "bad.example.com")


def test_overlapping_names_are_decided_by_the_longest() -> None:
    of = plan(
        "allowlist", allow("*"), deny("*.example.com"), allow("*.api.example.com"), deny("x.api.example.com")
    )
    answered = {
        name: of.name(name) for name in ("org", "example.com", "api.example.com", "y.api.example.com")
    }
    assert {name: (one.answered, one.rule) for name, one in answered.items()} == {
        "org": (True, 0),
        "example.com": (True, 0),
        "api.example.com": (False, 1),
        "y.api.example.com": (True, 2),
    }
    assert of.name("x.api.example.com").rule == 3
    carried = [
        of.name(name).carried for name in ("long.secret.org", "x.y.api.example.com", "x.api.example.com")
    ]
    assert carried == ["long.secret.org", "x.y", ""]
    assert of.name("A.B.C.Api.Example.COM.").answered


def test_a_name_is_answered_when_one_service_may_reach_it() -> None:
    of = plan("allowlist", deny("api.example.com"), allow("api.example.com", ports=(443,), protocol="tcp"))
    verdict = of.name("api.example.com")
    assert verdict.answered
    assert verdict.rule == 1
    opened = {span for one in of.services if verdict.opens[one.index].action == "allow" for span in one.spans}
    assert opened == {("tcp", 443, 443)}


def test_an_open_sandbox_gets_answers_but_for_names_denied_altogether() -> None:
    of = plan("open", deny("*.evil.net"), deny("half.net", ports=(25,)))
    assert [of.name(name).answered for name in ("a.evil.net", "evil.net", "half.net")] == [False, True, True]
    assert of.name("a.evil.net").rule == 0
    assert not reached(of, "8.8.8.8", 25, "tcp", "half.net")


@pytest.mark.parametrize(
    "name", ["a\\.example.com", "", "a..example.com", "a b.example.com", "-.example.com", "ä.example.com"]
)
def test_names_that_no_host_has_are_not_answered(name: str) -> None:
    assert not plan("allowlist", allow("*.example.com"), allow("*")).name(name).answered


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        ("API.Example.COM.", "api.example.com"),
        ("*.Bücher.example", "*.xn--bcher-kva.example"),
        ("bücher。example", "xn--bcher-kva.example"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("my_bucket.s3.example", "my_bucket.s3.example"),
        ("straße.example", "xn--strae-oqa.example"),
        ("*", "*"),
    ],
)
def test_domains_are_compared_in_one_spelling(written: str, normal: str) -> None:
    assert checked(NetworkPolicy(rules=(allow(written),))).rules[0].domain == normal


def test_ports_and_networks_are_kept_in_one_spelling() -> None:
    rule = checked(
        NetworkPolicy(rules=(NetworkRule(action="deny", cidr="2600:0::/12", ports=("80-80", "90-92", 5)),))
    )
    assert rule.rules[0] == NetworkRule(action="deny", cidr="2600::/12", ports=(80, "90-92", 5))


BAD: list[tuple[dict[str, Any], str]] = [
    ({}, "either `domain` or `cidr`"),
    ({"domain": "a.net", "cidr": "8.8.8.8/32"}, "either `domain` or `cidr`"),
    ({"domain": ""}, "empty label"),
    ({"domain": "a..net"}, "empty label"),
    ({"domain": "a*.net"}, "stands alone"),
    ({"domain": "*.*.net"}, "stands alone"),
    ({"domain": "http://a.net"}, "name only"),
    ({"domain": "a.net:80"}, "name only"),
    ({"domain": "1.2.3.4"}, "use `cidr`"),
    ({"domain": "a b.net"}, "may have only letters"),
    ({"domain": "-a.net"}, "may have only letters"),
    ({"domain": "a" * 64 + ".net"}, "63"),
    ({"domain": ".".join(["a" * 60] * 5)}, "253"),
    ({"domain": "xn--a.net"}, "not a valid name"),
    ({"domain": "\u200b.net"}, "empty label"),
    ({"cidr": "8.8.8"}, "not a network"),
    ({"cidr": "8.8.8.8/33"}, "not a network"),
    ({"cidr": "8.8.8.8/24"}, "8.8.8.0/24 is the network"),
    ({"cidr": "2600::1/12"}, "2600::/12 is the network"),
    ({"cidr": "::ffff:8.8.8.0/120"}, "write 8.8.8.0/24"),
    ({"cidr": "fe80::1%eth0"}, "zone"),
    ({"cidr": "10.0.0.0/8"}, "network_private"),
    ({"cidr": "10.2.0.0/24"}, "10.1.0.0/16"),
    ({"cidr": "169.254.169.254"}, "169.254.0.0/16"),
    ({"cidr": "fd00::/8"}, "network_private"),
    ({"cidr": "::1"}, "network_private"),
    ({"domain": "a.net", "ports": ()}, "empty"),
    ({"domain": "a.net", "ports": (0,)}, "65535"),
    ({"domain": "a.net", "ports": (65_536,)}, "65535"),
    ({"domain": "a.net", "ports": ("9-8",)}, "ascending"),
    ({"domain": "a.net", "ports": ("1-2-3",)}, "neither a number"),
    ({"domain": "a.net", "ports": ("http",)}, "neither a number"),
    ({"domain": "a.net", "ports": (True,)}, "neither a number"),
    ({"domain": "a.net", "ports": ("-5",)}, "neither a number"),
    ({"domain": "a.net", "ports": ("٣",)}, "neither a number"),
    ({"domain": "a.net", "ports": tuple(range(1, 200, 2))}, "64"),
    ({"domain": "a.net", "ports": (80,), "protocol": "icmp"}, "ICMP has no ports"),
]


@pytest.mark.parametrize(("fields", "why"), BAD, ids=str)
def test_a_rule_that_cannot_be_is_named_with_the_reason(fields: dict[str, Any], why: str) -> None:
    rules = allow("fine.example.com"), NetworkRule(action="allow", **fields)
    with pytest.raises(InvalidArgument, match="rule 1: ") as caught:
        checked(NetworkPolicy(rules=rules), PRIVATE)
    assert why in caught.value.message
    assert caught.value.details == {"rule": 1}


def test_a_private_network_may_be_denied_without_a_setting() -> None:
    assert checked(NetworkPolicy(rules=(deny("10.0.0.0/8"),)))


def test_a_private_network_is_open_for_what_its_rule_says_and_nothing_around_it() -> None:
    of = plan("open", allow("10.1.2.0/24", ports=(443,)), allow("0.0.0.0/0"), private=PRIVATE)
    assert reached(of, "10.1.2.3")
    for address, port in (("10.1.2.3", 80), ("10.1.3.3", 443), ("10.2.0.1", 443)):
        assert of.decide(IPv4Address(address), "tcp", port).reason == "reserved"


def test_a_name_opens_nothing_private() -> None:
    of = plan("allowlist", allow("10.1.2.0/24", ports=(443,)), allow("a.net"), private=PRIVATE)
    assert not reached(of, "10.1.2.3", 80, "tcp", "a.net")


def test_more_rules_than_may_be_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="10001 rules"):
        checked(NetworkPolicy(rules=(deny("a.net"),) * (MAX_RULES + 1)))


def test_more_combinations_of_services_than_may_be_are_refused() -> None:
    rules = tuple(deny("a.net", ports=(port,)) for port in range(1, 66))
    assert checked(NetworkPolicy(rules=rules[:-1]))
    with pytest.raises(InvalidArgument, match="65 different combinations"):
        checked(NetworkPolicy(rules=rules))


def test_a_policy_that_comes_to_too_many_ranges_is_refused() -> None:
    wide = [deny(f"{20 + i // 256}.{i % 256}.0.0/16") for i in range(3000)]
    narrow = [deny("8.8.8.8/32", ports=(port,)) for port in range(1, 60)]
    with pytest.raises(InvalidArgument, match="ranges of addresses"):
        checked(NetworkPolicy(rules=(*wide, *narrow)))


def test_ten_thousand_rules_are_compiled_in_a_second() -> None:
    cidrs = [deny(f"{11 + i // 62500}.{i // 250 % 250}.{i % 250}.0/24", ports=(443,)) for i in range(5000)]
    names = [allow(f"*.host{i}.example.com") for i in range(5000)]
    policy = NetworkPolicy(mode="allowlist", rules=(*cidrs, *names))
    began = time.process_time()
    of = compile_policy(checked(policy))
    assert of.name("a.host4999.example.com").rule == 9999
    assert of.size == 5000
    assert time.process_time() - began < 2
