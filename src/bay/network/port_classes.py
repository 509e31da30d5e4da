"""Cuts services (protocol and port) into classes: each rule holds for a class as a whole or not at all."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import get_args

from bay.models import NetworkProtocol, NetworkRule

PROTOCOLS: tuple[NetworkProtocol, ...] = get_args(NetworkProtocol)
MAX_COMBINATIONS = 64
MAX_PORT_RANGES = 64

Span = tuple[NetworkProtocol, int, int]
"""A protocol with its first and last port; of ICMP, which has none, both are 0."""

_LAST_PORT = 65_535
_EVERYTHING: tuple[Span, ...] = (("tcp", 0, _LAST_PORT), ("udp", 0, _LAST_PORT), ("icmp", 0, 0))


@dataclass(frozen=True, slots=True)
class ServiceClass:
    """Services that no rule of a policy tells apart. `spans` are disjoint and ascending in each protocol."""

    index: int
    spans: tuple[Span, ...]


def normal_ports(ports: Sequence[int | str]) -> tuple[int | str, ...]:
    """`ports` with one-port ranges as numbers. Raises ValueError with the reason."""
    if not ports:
        raise ValueError("`ports` is empty; leave it out for every port")
    if len(ports) > MAX_PORT_RANGES:
        raise ValueError(f"`ports` has {len(ports)} entries; the limit is {MAX_PORT_RANGES}")
    ranges = [_port_range(port) for port in ports]
    return tuple(first if first == last else f"{first}-{last}" for first, last in ranges)


def _port_range(port: int | str) -> tuple[int, int]:
    ends = str(port).split("-")
    if isinstance(port, bool) or len(ends) > 2 or not all(end.isascii() and end.isdecimal() for end in ends):
        raise ValueError(f"the port {port!r} is neither a number nor a range such as `8000-8100`")
    first, last = int(ends[0]), int(ends[-1])
    if not 1 <= first <= last <= _LAST_PORT:
        raise ValueError(f"the port {port!r} is not from 1 to {_LAST_PORT}, in ascending order")
    return first, last


def is_narrow(rule: NetworkRule) -> bool:
    """Whether `rule` is about some services only, which beats one about all of them."""
    return rule.ports is not None or rule.protocol is not None


def spans_of(rule: NetworkRule) -> tuple[Span, ...]:
    """The services of `rule` in canonical form: the same services give the same spans."""
    if rule.protocol == "icmp":
        return (("icmp", 0, 0),)
    if rule.ports is None:
        return tuple(span for span in _EVERYTHING if rule.protocol in (None, span[0]))
    protocols = ("tcp", "udp") if rule.protocol is None else (rule.protocol,)
    ranges = _joined(map(_port_range, rule.ports))
    return tuple((protocol, *ends) for protocol in protocols for ends in ranges)


def _joined(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(last, joined[-1][1]))
        else:
            joined.append((first, last))
    return joined


def classes(combinations: Sequence[tuple[Span, ...]]) -> tuple[tuple[ServiceClass, ...], list[int]]:
    """All services cut by `combinations`: the classes, and for each combination the bits of its classes."""
    pieces: dict[int, list[Span]] = defaultdict(list)
    for protocol in PROTOCOLS:
        for span, members in _cut(protocol, combinations):
            pieces[members].append(span)
    cut = tuple(ServiceClass(index, tuple(spans)) for index, spans in enumerate(pieces.values()))
    masks = [
        sum(1 << index for index, members in enumerate(pieces) if members >> number & 1)
        for number in range(len(combinations))
    ]
    return cut, masks


def _cut(protocol: NetworkProtocol, combinations: Sequence[tuple[Span, ...]]) -> list[tuple[Span, int]]:
    """The spans of `protocol` between any two bounds, each with the combinations that cover it."""
    top = 0 if protocol == "icmp" else _LAST_PORT
    changes: dict[int, int] = defaultdict(int, {0: 0})
    for number, spans in enumerate(combinations):
        for _, first, last in (span for span in spans if span[0] == protocol):
            changes[first] ^= 1 << number
            changes[last + 1] ^= 1 << number
    starts = sorted(start for start in changes if start <= top)
    cut: list[tuple[Span, int]] = []
    members = 0
    for start, following in zip(starts, [*starts[1:], top + 1], strict=True):
        members ^= changes[start]
        cut.append(((protocol, start, following - 1), members))
    return cut


def class_of(cut: Sequence[ServiceClass], protocol: NetworkProtocol, port: int) -> ServiceClass:
    """The class of one service; `port` is left aside for ICMP."""
    port = 0 if protocol == "icmp" else port
    return next(
        one
        for one in cut
        if any(kind == protocol and first <= port <= last for kind, first, last in one.spans)
    )
