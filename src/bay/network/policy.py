"""Compiles a network policy into decisions on addresses, services and names. Pure; the manager enforces them.

Between two rules with a domain, or two with a cidr, the longer match decides, then the one about some
services over the one about all, then the deny, then the earlier. Between the kinds, for one destination and
service:

1. a reserved address (see `reserved_ranges`) is refused, unless a rule allows a private network that the
   host's settings open;
2. a deny by cidr, of more than everything, beats a name's opening: the owner of a name chooses its addresses;
3. a name that was resolved to the address, by its rule: a deny, else an allow;
4. an allow by cidr;
5. a deny of 0.0.0.0/0 or ::/0;
6. the mode: `open` allows, `allowlist` refuses.

In a `CompiledPolicy` services fall into a few classes that no rule divides, each with disjoint intervals of
one deciding rule: the kernel looks that up in one step, however many rules there are. A test compares it with
`CompiledPolicy.decide`, which gives the same answer for one packet.
"""

from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from ipaddress import ip_network
from typing import Literal

from bay.errors import InvalidArgument
from bay.models import NetworkMode, NetworkPolicy, NetworkProtocol, NetworkRule
from bay.network import domains, header_rules, port_classes
from bay.network.port_classes import ServiceClass
from bay.network.reserved_ranges import Address, Network, is_reserved, is_within, reserved, reserved_around

MAX_RULES = 10_000
MAX_INTERVALS = 100_000

Action = Literal["allow", "deny"]


@dataclass(frozen=True, slots=True)
class Interval:
    """Addresses that one rule decides for one class; `rule` None: reserved, around a private network."""

    first: int
    last: int
    action: Action
    rule: int | None
    prefix: int
    """Length of the deciding rule's prefix."""


@dataclass(frozen=True, slots=True)
class NameRule:
    """The verdict of the rules on a name for one class. Both are None when no rule matches."""

    action: Action | None = None
    rule: int | None = None


@dataclass(frozen=True, slots=True)
class NameVerdict:
    """The verdict on a queried name. `rule` is the one that decided `answered`, None for the mode.
    `opens` has one entry for each service class of the plan, by its index.
    """

    answered: bool
    rule: int | None
    opens: tuple[NameRule, ...]
    carried: str = ""
    """The part that the sandbox chose: matched by `*` of the deciding rule, or all where no rule decided."""


@dataclass(frozen=True, slots=True)
class PolicyDecision:
    """The verdict on a connection. Without a rule, `reason` is `default`, `reserved` or `protocol`."""

    allowed: bool
    rule: int | None = None
    reason: str | None = None


def checked(policy: NetworkPolicy, private: Sequence[Network] = ()) -> NetworkPolicy:
    """`policy` in one spelling, by the host's `private` networks. Raises InvalidArgument naming the rule."""
    if len(policy.rules) > MAX_RULES:
        raise InvalidArgument(f"the policy has {len(policy.rules)} rules; the limit is {MAX_RULES}")
    rules = tuple(_checked_rule(index, rule, private) for index, rule in enumerate(policy.rules))
    normal = replace(policy, rules=rules)
    _check_size(normal, private)
    return normal


def _check_size(policy: NetworkPolicy, private: Sequence[Network]) -> None:
    combinations = {port_classes.spans_of(rule) for rule in policy.rules}
    if len(combinations) > port_classes.MAX_COMBINATIONS:
        raise InvalidArgument(
            f"the policy has {len(combinations)} different combinations of protocol and ports; "
            f"the limit is {port_classes.MAX_COMBINATIONS}: give more rules the same ones"
        )
    plan = compile_policy(policy, private)
    if (count := plan.size) > MAX_INTERVALS:
        raise InvalidArgument(
            f"the policy comes to {count} ranges of addresses in {len(plan.services)} classes of services; "
            f"the limit is {MAX_INTERVALS}: give more rules the same ports, or none"
        )


def _checked_rule(index: int, rule: NetworkRule, private: Sequence[Network]) -> NetworkRule:
    try:
        return _normal_rule(rule, private)
    except ValueError as error:
        raise InvalidArgument(f"rule {index}: {error}", details={"rule": index}) from error


def _normal_rule(rule: NetworkRule, private: Sequence[Network]) -> NetworkRule:
    if (rule.domain is None) == (rule.cidr is None):
        raise ValueError("give either `domain` or `cidr`")
    if rule.inject is not None:
        rule = header_rules.normal(rule, rule.inject)
    if rule.ports is not None and rule.protocol == "icmp":
        raise ValueError("ICMP has no ports; leave out `ports`")
    ports = None if rule.ports is None else port_classes.normal_ports(rule.ports)
    if rule.domain is not None:
        return replace(rule, ports=ports, domain=_normal_domain(rule.domain))
    return replace(rule, ports=ports, cidr=_normal_cidr(rule, private))


def _normal_cidr(rule: NetworkRule, private: Sequence[Network]) -> str:
    network = _normal_network(rule.cidr or "")
    if rule.action == "allow":
        _check_private(network, private)
    return str(network)


def _normal_domain(text: str) -> str:
    try:
        return domains.normal_pattern(text)
    except ValueError as error:
        raise ValueError(f"the domain {text!r} is invalid: {error}") from error


def _normal_network(text: str) -> Network:
    try:
        network = ip_network(text, strict=False)
    except ValueError as error:
        raise ValueError(
            f"the cidr {text!r} is not a network such as 192.0.2.0/24 or 2001:db8::/32"
        ) from error
    if "/" in text and not _is_exact(text):
        raise ValueError(f"the cidr {text!r} has bits set behind its prefix; {network} is the network")
    if network.version == 6 and network.network_address.scope_id is not None:
        raise ValueError(f"the cidr {text!r} has a zone; leave out the % and the zone")
    if network.version == 6 and network.network_address.ipv4_mapped and network.prefixlen >= 96:
        mapped = f"{network.network_address.ipv4_mapped}/{network.prefixlen - 96}"
        raise ValueError(f"the cidr {text!r} is IPv4 written as IPv6; write {mapped}")
    return network


def _is_exact(text: str) -> bool:
    try:
        ip_network(text)
    except ValueError:
        return False
    return True


def _check_private(network: Network, private: Sequence[Network]) -> None:
    around = reserved_around(network)
    if around is not None and not any(is_within(network, one) for one in private):
        opened = ", ".join(map(str, private)) or "none"
        raise ValueError(
            f"{network} is in {around}, which sandboxes may reach only in networks of the setting "
            f"`network_private` ({opened}); name one of them or a part of it"
        )


@dataclass(frozen=True, slots=True)
class _Cidr:
    """A rule with a cidr, or (with `rule` None) a reserved network that holds private networks apart."""

    network: Network
    action: Action
    rule: int | None
    mask: int
    narrow: bool

    @property
    def first(self) -> int:
        return int(self.network.network_address)

    @property
    def last(self) -> int:
        return int(self.network.broadcast_address)

    @property
    def rank(self) -> tuple[bool, bool, bool, int]:
        """Ascending from the stronger, among cidrs with the same network."""
        return self.rule is None, not self.narrow, self.action == "allow", self.rule or 0


@dataclass(frozen=True, slots=True)
class _Domain:
    """A rule with a domain."""

    action: Action
    rule: int
    mask: int
    narrow: bool

    @property
    def rank(self) -> tuple[bool, bool, int]:
        """Ascending from the stronger, among rules with the same domain."""
        return not self.narrow, self.action == "allow", self.rule


_Levels = Sequence[tuple[str, Sequence[_Domain]]]
"""The patterns that match a name, the longer first, each with its rules, the stronger first."""


@dataclass(frozen=True)
class CompiledPolicy:
    """A compiled policy; make it with `compile_policy`."""

    mode: NetworkMode
    services: tuple[ServiceClass, ...]
    private: tuple[Network, ...]
    """The reserved networks that its rules allow, and the host's settings open."""
    _cidrs: tuple[_Cidr, ...] = field(repr=False)
    _domains: dict[str, list[_Domain]] = field(repr=False)
    """By pattern, each with the stronger first."""
    brokered: frozenset[str] = frozenset()
    """The names to whose requests headers are added: they lead to the broker."""

    def cidrs(self, version: int) -> tuple[tuple[Interval, ...], ...]:
        """The deciding intervals of IP `version` for each service class, disjoint and ascending."""
        return self._intervals[version]

    @property
    def size(self) -> int:
        """How many intervals there are in all."""
        return sum(map(len, (*self.cidrs(4), *self.cidrs(6))))

    @cached_property
    def _intervals(self) -> dict[int, tuple[tuple[Interval, ...], ...]]:
        return {version: self._flattened(version) for version in (4, 6)}

    def _flattened(self, version: int) -> tuple[tuple[Interval, ...], ...]:
        cidrs = [one for one in self._cidrs if one.network.version == version]
        cidrs.sort(key=lambda one: (one.first, one.network.prefixlen, one.rank))
        return tuple(tuple(_flatten(_strongest(cidrs, 1 << one.index))) for one in self.services)

    def name(self, name: str) -> NameVerdict:
        """The verdict on a query for `name`, as DNS writes it, and on each class of services."""
        asked = domains.lookup_form(name)
        if asked is None or self.mode == "none":
            return NameVerdict(False, None, tuple(NameRule() for _ in self.services), name)
        levels = [(one, self._domains[one]) for one in _patterns(asked) if one in self._domains]
        opens = tuple(_opening(levels, 1 << one.index) for one in self.services)
        reached = any(one.action == "allow" or (one.action is None and self.mode == "open") for one in opens)
        pattern, rule = _decider(levels, opens, "allow" if reached else "deny")
        return NameVerdict(reached, rule, opens, _carried(asked, pattern))

    def opens_names(self, index: int) -> set[Action]:
        """The actions that rules with a domain can have for the service class `index`."""
        return {one.action for level in self._domains.values() for one in level if one.mask >> index & 1}

    def decide(
        self, address: Address, protocol: NetworkProtocol | str, port: int, names: Collection[str] = ()
    ) -> PolicyDecision:
        """The verdict on `address`, resolved from `names`. The host's own addresses are not known here."""
        if protocol not in port_classes.PROTOCOLS:
            return PolicyDecision(False, reason="protocol")
        if self.mode == "none":
            return PolicyDecision(False, reason="default")
        if is_reserved(address) and not any(address in network for network in self.private):
            return PolicyDecision(False, reason="reserved")
        index = port_classes.class_of(self.services, protocol, port).index
        found = _at(self.cidrs(address.version)[index], int(address))
        return self._ordered(found, [] if is_reserved(address) else self._said(names, index))

    def _said(self, names: Collection[str], index: int) -> list[NameRule]:
        verdicts = (self.name(name) for name in names)
        said = [one.opens[index] for one in verdicts if one.answered and one.opens[index].action]
        return sorted(said, key=lambda one: (one.action == "allow", one.rule))

    def _ordered(self, found: Interval | None, said: list[NameRule]) -> PolicyDecision:
        if found is not None and found.action == "deny" and found.prefix > 0:
            return PolicyDecision(False, found.rule, "reserved" if found.rule is None else None)
        if said:
            return PolicyDecision(said[0].action == "allow", said[0].rule)
        if found is not None:
            return PolicyDecision(found.action == "allow", found.rule)
        return PolicyDecision(self.mode == "open", reason="default")


def compile_policy(policy: NetworkPolicy, private: Sequence[Network] = ()) -> CompiledPolicy:
    """The plan of `policy`, whose rules have passed `checked` with the same `private`."""
    spans = [port_classes.spans_of(rule) for rule in policy.rules]
    combinations = list(dict.fromkeys(spans))
    cut, masks = port_classes.classes(combinations)
    mask_of = dict(zip(combinations, masks, strict=True))
    cidrs: list[_Cidr] = []
    named: dict[str, list[_Domain]] = {}
    for index, (rule, combination) in enumerate(zip(policy.rules, spans, strict=True)):
        mask, narrow = mask_of[combination], port_classes.is_narrow(rule)
        if rule.cidr is not None:
            cidrs.append(_Cidr(ip_network(rule.cidr), rule.action, index, mask, narrow))
        elif rule.domain is not None:
            named.setdefault(rule.domain, []).append(_Domain(rule.action, index, mask, narrow))
    for level in named.values():
        level.sort(key=lambda one: one.rank)
    allowed = tuple(dict.fromkeys(_private_allows(cidrs, private)))
    fences = _fences(allowed, (1 << len(cut)) - 1)
    brokered = frozenset(rule.domain for rule in policy.rules if rule.inject and rule.domain)
    return CompiledPolicy(policy.mode, cut, allowed, (*cidrs, *fences), named, brokered)


def _private_allows(cidrs: Iterable[_Cidr], private: Sequence[Network]) -> Iterator[Network]:
    for one in cidrs:
        opened = any(is_within(one.network, network) for network in private)
        if opened and one.action == "allow" and reserved_around(one.network):
            yield one.network


def _fences(allowed: Iterable[Network], mask: int) -> Iterator[_Cidr]:
    """A deny of each reserved network with an allowed part: a rule for ports opens no others, nor a name."""
    around = {reserved_around(network) for network in allowed}
    for version in (4, 6):
        for network in reserved(version):
            if network in around:
                yield _Cidr(network, "deny", None, mask, narrow=False)


def _strongest(cidrs: Iterable[_Cidr], bit: int) -> Iterator[_Cidr]:
    """Of those about the class `bit` the strongest for each network, from `cidrs` by network, then rank."""
    last: Network | None = None
    for one in cidrs:
        if one.mask & bit and one.network != last:
            last = one.network
            yield one


def _flatten(cidrs: Iterable[_Cidr]) -> Iterator[Interval]:
    """Nested networks, the outer before the inner, as disjoint intervals of the innermost."""
    around: list[_Cidr] = []
    at = 0
    for one in (*cidrs, None):
        while around and (one is None or around[-1].last < one.first):
            ended = around.pop()
            yield from _piece(ended, at, ended.last)
            at = max(at, ended.last + 1)
        if one is None:
            return
        if around:
            yield from _piece(around[-1], at, one.first - 1)
        around.append(one)
        at = one.first


def _piece(of: _Cidr, first: int, last: int) -> Iterator[Interval]:
    if first <= last:
        yield Interval(first, last, of.action, of.rule, of.network.prefixlen)


def _at(intervals: Sequence[Interval], address: int) -> Interval | None:
    at = bisect_right(intervals, address, key=lambda one: one.first) - 1
    return intervals[at] if at >= 0 and address <= intervals[at].last else None


def _patterns(name: str) -> Iterator[str]:
    """The patterns that match `name`, the longest first."""
    yield name
    labels = name.split(".")
    for start in range(1, len(labels)):
        yield "*." + ".".join(labels[start:])
    yield "*"


def _opening(levels: _Levels, bit: int) -> NameRule:
    found = next((one for _, level in levels for one in level if one.mask & bit), None)
    return NameRule() if found is None else NameRule(found.action, found.rule)


def _decider(levels: _Levels, opens: Sequence[NameRule], said: Action) -> tuple[str, int | None]:
    """The strongest rule of action `said` for some service, with its pattern (`*` without a rule)."""
    deciding = {one.rule for one in opens}
    found = ((key, one) for key, level in levels for one in level if one.action == said)
    return next(((key, one.rule) for key, one in found if one.rule in deciding), ("*", None))


def _carried(name: str, pattern: str) -> str:
    return name.removesuffix(pattern.removeprefix("*")).removesuffix(".")
