"""The nftables ruleset as text: the chains of a Bay, of each of its sandboxes, and of each policy. Pure.

A packet from a sandbox goes through three chains of prerouting, by maps from its device:

    enter     (before defragmentation) its source is pinned; it gets its sandbox's mark and conntrack zone, so
              that neither its fragments nor its connections meet another sandbox's, whose address is the same
    judge     (before the host's NAT) accepts established connections, which carry the mark. New ones are held
              to the limits of every policy, and then go
    policy    to the current generation of its policy: a chain for each class of services, and maps from
              address to counter

and a packet that no chain has accepted by then is dropped. Each element and each chain it leads to is there
before the device is. A policy changes in one transaction, by the next generation's chains and one rule.
Maps with timeouts hold the addresses of names; a connection outlives its element.

The rule is in a chain of the sandbox, and not in a map of all: the kernel follows every way through the
chains at each change, so a map behind each sandbox's `judge` made a change cost the square of their number.
The map `policies` is for sandboxes that a Bay of that time made and this one has not changed yet.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from ipaddress import ip_address

from bay.models import NetworkPolicy, NetworkRule
from bay.network.policy import Action, CompiledPolicy, Interval
from bay.network.port_classes import PROTOCOLS
from bay.network.refusals import REASONS, refusal_counter
from bay.network.reserved_ranges import RESERVED_V4, RESERVED_V6, Address
from bay.network.slots import INSIDE_V4, INSIDE_V6, MARK_MASK, NetworkSlot, device_prefix

MAX_CONNECTIONS = 8192
"""How many connections one sandbox has at a time."""
NEW_CONNECTIONS_S, NEW_CONNECTIONS_BURST = 1000, 4000
_REJECTS_S, _REJECTS_BURST = 200, 400

GUARD = "bay_guard"
_MAPS = ("enter", "judge", "policies", "leave")
_OTHER_MARKS = MARK_MASK ^ 0xFFFF_FFFF
_ICMP = {"icmp": "@pings"}
# Sets of all sandboxes. One in each of them would be read at every change of any, by libnftables.
_CONSTANTS = {
    "protocols": ("inet_proto", "tcp, udp, icmp, ipv6-icmp"),
    "pings": ("inet_proto", "icmp, ipv6-icmp"),
    "places": ("fib_addrtype", "local, broadcast, multicast, anycast"),
}
_IP = {4: "ip", 6: "ip6"}

# Software that turns forwarding on for its own devices would have done so, had Bay not been first.
_OTHERS = (
    *("docker*", "br-*", "virbr*", "vnet*", "podman*", "cni*"),
    *("flannel*", "cali*", "lxc*", "lxdbr*", "incusbr*"),
)


def table_of(instance: str) -> str:
    """The table of one Bay."""
    return f"inet bay_{instance}"


def base(instance: str) -> str:
    """The base that all sandboxes of a Bay share, as one change; repeating it changes nothing."""
    table, ours = table_of(instance), f'"{device_prefix(instance)}*"'
    lines = [
        f"add table {table}",
        f"add set {table} seats {{ type mark; }}",
        *(f"add counter {table} {refusal_counter(reason)}" for reason in REASONS),
        *(f"add map {table} {name} {{ type ifname : verdict; }}" for name in _MAPS),
        *_constant_sets(table),
        *_reserved_sets(table),
        *_base_chain(table, "enter", "filter hook prerouting priority -450", [
            "iifname vmap @enter",
            f"iifname {ours} drop",
        ]),
        *_base_chain(table, "judge", "filter hook prerouting priority -150", [
            f"ct direction reply ct mark and {MARK_MASK:#x} @seats meta mark set ct mark and {MARK_MASK:#x}",
            "iifname vmap @judge",
            f"iifname {ours} drop",
        ]),
        *_base_chain(table, "local", "filter hook input priority -150", [f"iifname {ours} drop"]),
        *_base_chain(table, "forward", "filter hook forward priority -150", [
            f"iifname {ours} oifname {ours} drop",
            # Another table's DNAT sent it to an address that no policy judged.
            f"iifname {ours} ct status dnat drop",
            "oifname vmap @leave",
            f"oifname {ours} drop",
            # An answer that another's routing rules divert, by its mark, would go to the host's gateway.
            f'ip daddr {INSIDE_V4} oifname != "bay*" drop',
            f'ip6 daddr {INSIDE_V6} oifname != "bay*" drop',
        ]),
        *_base_chain(table, "source", "nat hook postrouting priority 100", [
            # All sandboxes have one address, so two often begin from one port at once. If the port were kept,
            # the kernel would drop the first packet of the later one.
            f"iifname {ours} oifname != {ours} masquerade fully-random",
        ]),
    ]  # fmt: skip
    return "\n".join(lines)


def clearing(instance: str) -> str:
    """Takes away all that a Bay has in nftables, also when that is nothing."""
    table = table_of(instance)
    return f"add table {table}\ndelete table {table}"


def _constant_sets(table: str) -> Iterator[str]:
    for name, (kind, elements) in _CONSTANTS.items():
        yield f"add set {table} {name} {{ type {kind}; }}"
        yield f"add element {table} {name} {{ {elements} }}"


def _reserved_sets(table: str) -> Iterator[str]:
    for version, networks in ((4, RESERVED_V4), (6, RESERVED_V6)):
        elements = ", ".join(map(str, networks))
        yield f"add set {table} reserved{version} {{ type ipv{version}_addr; flags interval; }}"
        yield f"add element {table} reserved{version} {{ {elements} }}"


def _base_chain(table: str, name: str, hook: str, rules: Sequence[str]) -> Iterator[str]:
    yield f"add chain {table} base_{name} {{ type {hook}; policy accept; }}"
    yield f"flush chain {table} base_{name}"
    yield from (f"add rule {table} base_{name} {rule}" for rule in rules)


def guard(version: int) -> str:
    """For a host that forwarded no IP `version` before Bay: it still forwards only what sandboxes began."""
    chain, others = f"inet {GUARD} forward{version}", ", ".join(f'"{name}"' for name in _OTHERS)
    rules = [
        f"meta nfproto != ipv{version} accept",
        "ct state established,related accept",
        "ct status dnat accept",
        'iifname "bay*" accept',
        f"iifname {{ {others} }} accept",
        "drop",
    ]
    lines = [
        f"add table inet {GUARD}",
        f"add chain {chain} {{ type filter hook forward priority -160; policy accept; }}",
        f"flush chain {chain}",
        *(f"add rule {chain} {rule}" for rule in rules),
    ]
    return "\n".join(lines)


def slot_chains(slot: NetworkSlot, *, ipv6: bool) -> dict[str, list[str]]:
    """The chains of a sandbox under any policy, with their rules."""
    key, mark, mask = slot.key, f"{slot.mark:#x}", f"{MARK_MASK:#x}"
    admit = f"ct original zone set {slot.zone} meta mark set {mark} accept"
    own = f"ct mark and {mask} == {mark}"
    counted = {reason: _refused(slot, reason) for reason in ("reserved", "flood", "protocol")}
    refuse = f"goto {key}_refuse"
    return {
        f"{key}_enter": [
            f"ip saddr {INSIDE_V4} {admit}",
            *([f"ip6 saddr {INSIDE_V6} {admit}"] if ipv6 else []),
            "drop",
        ],
        f"{key}_refuse": [
            f"limit rate over {_REJECTS_S}/second burst {_REJECTS_BURST} packets drop",
            "meta l4proto tcp reject with tcp reset",
            "reject with icmpx admin-prohibited",
        ],
        f"{key}_pass": [f"ct mark set ct mark and {_OTHER_MARKS:#x} or {mark} accept"],
        f"{key}_judge": [
            f"{own} accept",
            "ct state invalid,untracked drop",
            f"ct count over {MAX_CONNECTIONS} {counted['flood']} drop",
            f"limit rate over {NEW_CONNECTIONS_S}/second burst {NEW_CONNECTIONS_BURST} packets {counted['flood']} drop",
            f"meta l4proto != @protocols {counted['protocol']} {refuse}",
            f"meta nfproto ipv4 meta l4proto ipv6-icmp {counted['protocol']} {refuse}",
            f"meta nfproto ipv6 meta l4proto icmp {counted['protocol']} {refuse}",
            f"icmp type != echo-request {counted['protocol']} {refuse}",
            f"icmpv6 type != echo-request {counted['protocol']} {refuse}",
            f"fib daddr type @places {counted['reserved']} {refuse}",
            f"jump {policy_chain(slot)}",
            "drop",
        ],
        policy_chain(slot): [],
        f"{key}_leave": [f"meta mark and {mask} == {mark} {own} ct direction reply accept", "drop"],
    }


def _refused(slot: NetworkSlot, reason: str) -> str:
    """Counts a packet that no rule of the policy refuses, for its sandbox and for all."""
    return f'counter name "{slot.key}_{reason}" {_counted_for_all(reason)}'


def _counted_for_all(reason: str) -> str:
    return f'counter name "{refusal_counter(reason)}"'


def policy_chain(slot: NetworkSlot) -> str:
    """The chain whose one rule leads to the current generation; without it `judge` drops."""
    return f"{slot.key}_policy"


def slot_counters(slot: NetworkSlot) -> list[str]:
    """The counters of packets that no rule decides."""
    return [f"{slot.key}_{reason}" for reason in ("reserved", "flood", "protocol", "allow", "deny")]


def debt_of(slot: NetworkSlot) -> str:
    """A counter that counts nothing: it exists while connections stand that no current policy has judged."""
    return f"{slot.key}_unjudged"


def counter_of(slot: NetworkSlot, rule: NetworkRule) -> str:
    """The counter of `rule`: the same in every policy that has the rule, wherever it stands there."""
    return f"{slot.key}_r{_digest(asdict(rule))}"


def generation_of(slot: NetworkSlot, policy: NetworkPolicy, *, ipv6: bool, private: Sequence[object]) -> str:
    """The prefix of a policy's chains and maps, without the letter that tells two equal policies apart."""
    facts = {"policy": asdict(policy), "ipv6": ipv6, "private": list(map(str, private))}
    return f"{slot.key}_g{_digest(facts)}"


def _digest(data: object) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class Element:
    """An address that a name was resolved to: in one of the maps of a service class, for a time."""

    map: str
    address: Address
    counter: str
    timeout_s: int


@dataclass(frozen=True, slots=True)
class Generation:
    """One policy of one sandbox, as nftables has it: chains and maps whose names begin with `name`."""

    slot: NetworkSlot
    policy: NetworkPolicy
    plan: CompiledPolicy
    name: str

    def chains(self) -> dict[str, list[str]]:
        """Its chains, those that others lead to first, with their rules; every one ends with a verdict."""
        indexes = [one.index for one in self.plan.services]
        of_classes = {self._chain(index): [*self._decisions(index), self._default()] for index in indexes}
        return {**of_classes, self.name: [*self._reserved(), *self._dispatch(), "drop"]}

    def _chain(self, index: int) -> str:
        return f"{self.name}_c{index}"

    def map_of(self, index: int, action: Action, version: int, *, named: bool = False) -> str:
        """The map of one service class for the decisions of cidrs, or with `named` those of names."""
        return f"{self._chain(index)}{'_n' if named else '_'}{action}{version}"

    def _reserved(self) -> Iterator[str]:
        for version in (4, 6):
            daddr, counted = f"{_IP[version]} daddr", _refused(self.slot, "reserved")
            opened = f" {daddr} != @{self.name}_private{version}" if self._private(version) else ""
            yield f"{daddr} @reserved{version}{opened} {counted} goto {self.slot.key}_refuse"

    def _private(self, version: int) -> list[str]:
        return [str(one) for one in self.plan.private if one.version == version]

    def _dispatch(self) -> Iterator[str]:
        for protocol in PROTOCOLS:
            spans = [
                (first, last, self._chain(one.index))
                for one in self.plan.services
                for kind, first, last in one.spans
                if kind == protocol
            ]
            numbers = _ICMP.get(protocol, protocol)
            if len(spans) == 1:
                yield f"meta l4proto {numbers} goto {spans[0][2]}"
            else:
                ports = ", ".join(f"{first}-{last} : goto {chain}" for first, last, chain in sorted(spans))
                yield f"{protocol} dport vmap {{ {ports} }}"

    def _decisions(self, index: int) -> Iterator[str]:
        """The rules in order: denied cidrs, denied names, allowed names, allowed cidrs, all addresses."""
        names = self.plan.opens_names(index)
        for action, named in _ORDER:
            for version in (4, 6):
                if action in names if named else self._elements(index, action, version):
                    found = f"{_IP[version]} daddr map @{self.map_of(index, action, version, named=named)}"
                    yield f"counter name {found} {self._by_rule(action)}"
        for version in (4, 6):
            everything = next((one for one in self.plan.cidrs(version)[index] if not one.prefix), None)
            if everything is not None and everything.rule is not None:
                counter = self._counter(everything.rule)
                end = self._by_rule(everything.action)
                yield f'meta nfproto ipv{version} counter name "{counter}" {end}'

    def _by_rule(self, action: Action) -> str:
        refused = f"{_counted_for_all('rule')} " if action == "deny" else ""
        return f"{refused}goto {self._end(action)}"

    def _default(self) -> str:
        if self.plan.mode == "open":
            return f'counter name "{self.slot.key}_allow" goto {self._end("allow")}'
        return f'counter name "{self.slot.key}_deny" {_counted_for_all("default")} goto {self._end("deny")}'

    def _end(self, action: Action) -> str:
        return f"{self.slot.key}_{'pass' if action == 'allow' else 'refuse'}"

    def _elements(self, index: int, action: Action, version: int) -> list[Interval]:
        return [one for one in self.plan.cidrs(version)[index] if one.prefix and one.action == action]

    def _counter(self, rule: int | None) -> str:
        if rule is None:
            return f"{self.slot.key}_reserved"
        return counter_of(self.slot, self.policy.rules[rule])

    def maps(self) -> dict[str, tuple[str, list[str]]]:
        """Its maps and sets, each with its type and its elements."""
        found: dict[str, tuple[str, list[str]]] = {}
        for version in (4, 6):
            if private := self._private(version):
                found[f"{self.name}_private{version}"] = (
                    f"type ipv{version}_addr; flags interval; auto-merge;",
                    private,
                )
        for one in self.plan.services:
            found.update(self._maps_of(one.index))
        return found

    def _maps_of(self, index: int) -> Iterator[tuple[str, tuple[str, list[str]]]]:
        names = self.plan.opens_names(index)
        for version in (4, 6):
            kind = f"type ipv{version}_addr : counter; flags"
            for action in ("deny", "allow"):
                if intervals := self._elements(index, action, version):
                    elements = [self._element(one, version) for one in intervals]
                    yield self.map_of(index, action, version), (f"{kind} interval;", elements)
                if action in names:
                    yield self.map_of(index, action, version, named=True), (f"{kind} timeout;", [])

    def name_maps(self) -> list[str]:
        """Those of its maps whose elements come with the answers to names."""
        return [name for name, (kind, _) in self.maps().items() if "timeout" in kind]

    def _element(self, one: Interval, version: int) -> str:
        first, last = _address(one.first, version), _address(one.last, version)
        addresses = first if first == last else f"{first}-{last}"
        return f'{addresses} : "{self._counter(one.rule)}"'

    def counters(self) -> set[str]:
        """The counters that its chains and elements use from the beginning, without those of names."""
        found = {one.rule for version in (4, 6) for cut in self.plan.cidrs(version) for one in cut}
        return {counter_of(self.slot, self.policy.rules[rule]) for rule in found if rule is not None}

    def elements_of(self, name: str, addresses: Iterable[Address], timeout_s: int) -> list[Element]:
        """The elements that open (or shut) `addresses` because `name` was resolved to them."""
        verdict = self.plan.name(name)
        opens: list[tuple[int, Action, str]] = []
        for index, one in enumerate(verdict.opens if verdict.answered else ()):
            if one.action is not None:
                opens.append((index, one.action, self._counter(one.rule)))
        return [
            Element(self.map_of(index, action, address.version, named=True), address, counter, timeout_s)
            for address in addresses
            for index, action, counter in opens
        ]


_ORDER: tuple[tuple[Action, bool], ...] = (("deny", False), ("deny", True), ("allow", True), ("allow", False))


def _address(number: int, version: int) -> str:
    return str(ip_address(number.to_bytes(4 if version == 4 else 16, "big")))
