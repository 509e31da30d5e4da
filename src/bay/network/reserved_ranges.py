"""Reserved addresses, which no sandbox reaches: non-public ranges, and cloud metadata endpoints.

From the IANA special-purpose registries (RFC 6890 and later), without globally reachable ones. In IPv6 all
outside 2000::/3: loopback, IPv4-mapped, NAT64, ULA, link-local, site-local, multicast, and what comes later.
"""

from bisect import bisect_right
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

RESERVED_V4 = tuple(
    IPv4Network(cidr)
    for cidr in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT; also Alibaba's metadata, 100.100.100.200
        "127.0.0.0/8",
        "168.63.129.16/32",  # Azure's wire server: a public address that only the host's own machine answers
        "169.254.0.0/16",  # link-local, and the metadata of most clouds
        "172.16.0.0/12",
        "192.0.0.0/24",  # protocol assignments; also Oracle's metadata, 192.0.0.192
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
    )
)

RESERVED_V6 = tuple(
    IPv6Network(cidr)
    for cidr in (
        "::/3",
        "2001::/23",  # protocol assignments: Teredo, benchmarks, ORCHID
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4
        "3fff::/20",  # documentation
        "4000::/2",
        "8000::/1",
    )
)


def reserved(version: int) -> tuple[Network, ...]:
    """The reserved networks of IP `version`, ascending; none overlaps another."""
    return RESERVED_V4 if version == 4 else RESERVED_V6


def _bounds(networks: Iterable[Network]) -> tuple[list[int], list[int]]:
    spans = sorted((int(one.network_address), int(one.broadcast_address)) for one in networks)
    return [first for first, _ in spans], [last for _, last in spans]


_BOUNDS = {4: _bounds(RESERVED_V4), 6: _bounds(RESERVED_V6)}


def is_reserved(address: Address) -> bool:
    """Whether sandboxes may reach `address` only where the host's settings and a rule allow it."""
    firsts, lasts = _BOUNDS[address.version]
    at = bisect_right(firsts, int(address)) - 1
    return at >= 0 and int(address) <= lasts[at]


def reserved_around(network: Network) -> Network | None:
    """The reserved network that `network` is, or lies in; None where it reaches out of every one of them."""
    return next((one for one in reserved(network.version) if is_within(network, one)), None)


def is_within(network: Network, other: Network) -> bool:
    """Whether every address of `network` is one of `other`'s; of two versions none is."""
    if network.version != other.version:
        return False
    return other.prefixlen <= network.prefixlen and network.network_address in other
