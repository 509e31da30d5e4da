"""Netlink requests that make links, addresses, neighbours and routes. Pure; see `man 7 rtnetlink`."""

import socket
import struct

from bay.linux.netlink import CREATE, EXCLUSIVE, MISSING, REPLACE, NetlinkRequest, attribute, nested
from bay.network.reserved_ranges import Address

_NEWLINK, _DELLINK = 16, 17
_NEWADDR, _NEWROUTE, _NEWNEIGH = 20, 24, 28

UP, NOARP = 0x1, 0x80
IFLA_IFNAME, IFLA_NET_NS_FD = 3, 28
_IFLA_ADDRESS, _IFLA_LINKINFO, _IFLA_AF_SPEC = 1, 18, 26
_INFO_KIND, _INFO_DATA, _VETH_PEER = 1, 2, 1
_INET6_ADDR_GEN_MODE, _GEN_NONE = 8, b"\1"
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS, _NODAD = 1, 2, 8, 0x2
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_PREFSRC, _RTA_TABLE = 1, 4, 5, 6, 7, 15
_UNIVERSE, _LINK, _UNICAST, _ONLINK = 0, 253, 1, 0x4
_NDA_DST, _NDA_LLADDR, _PERMANENT = 1, 2, 0x80
_PROTOCOL = 0xB0
"""The protocol number of Bay's routes (`proto 176` in `ip route`); no other program has it."""

FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
HOST_MAC, INSIDE_MAC = bytes.fromhex("02ba00580001"), bytes.fromhex("02ba00580002")


def link_header(flags: int = 0, change: int = 0) -> bytes:
    """The `ifinfomsg` of a message about a link that its name identifies."""
    return struct.pack("=BxHiII", socket.AF_UNSPEC, 0, 0, flags, change)


def new_veth(device: str, peer: str, *more: bytes, fine: tuple[int, ...] = ()) -> NetlinkRequest:
    """Make a pair of devices; `more` are attributes of the peer, `fine` errors that count as done."""
    there = (link_header(), attribute(IFLA_IFNAME, peer), attribute(_IFLA_ADDRESS, INSIDE_MAC), *more)
    data = nested(_INFO_DATA, nested(_VETH_PEER, *there))
    names = attribute(IFLA_IFNAME, device) + attribute(_IFLA_ADDRESS, HOST_MAC)
    body = link_header() + names + nested(_IFLA_LINKINFO, attribute(_INFO_KIND, "veth"), data)
    return NetlinkRequest(f"make the link {device}", _NEWLINK, CREATE | EXCLUSIVE, body, fine)


def no_link_local(device: str) -> NetlinkRequest:
    """Keep a device without an IPv6 address that nobody gave it."""
    mode = nested(socket.AF_INET6, attribute(_INET6_ADDR_GEN_MODE, _GEN_NONE))
    body = link_header() + attribute(IFLA_IFNAME, device) + nested(_IFLA_AF_SPEC, mode)
    return NetlinkRequest(f"keep {device} without a link-local address", _NEWLINK, 0, body, MISSING)


def set_flags(device: str, flags: int) -> NetlinkRequest:
    """Set `flags` of a device."""
    body = link_header(flags, flags) + attribute(IFLA_IFNAME, device)
    return NetlinkRequest(f"bring {device} up", _NEWLINK, 0, body)


def delete_link(device: str) -> NetlinkRequest:
    """Remove a device; one that is not there is fine."""
    body = link_header() + attribute(IFLA_IFNAME, device)
    return NetlinkRequest(f"remove the link {device}", _DELLINK, 0, body, MISSING)


def _family(address: Address) -> tuple[int, int]:
    return FAMILY[address.version], address.max_prefixlen


def new_address(index: int, address: Address) -> NetlinkRequest:
    """Give `address` to the device of that index."""
    body = struct.pack("=BBBBI", *_family(address), 0, 0, index)
    body += attribute(_IFA_LOCAL, address.packed) + attribute(_IFA_ADDRESS, address.packed)
    body += attribute(_IFA_FLAGS, _NODAD)
    return NetlinkRequest(f"give the address {address}", _NEWADDR, CREATE | REPLACE, body)


def new_neighbour(index: int, address: Address, mac: bytes) -> NetlinkRequest:
    """Say which hardware address a neighbour has, for good."""
    body = struct.pack("=BxHiHBB", FAMILY[address.version], 0, index, _PERMANENT, 0, 0)
    body += attribute(_NDA_DST, address.packed) + attribute(_NDA_LLADDR, mac)
    return NetlinkRequest(f"make {address} a neighbour", _NEWNEIGH, CREATE | REPLACE, body)


def route(index: int, inside: Address, gateway: Address, table: int, metric: int = 0) -> NetlinkRequest:
    """Lead packets for `inside` to the device of that index, from `gateway`, in a routing table."""
    body = struct.pack("=BBBBBBBBI", *_family(inside), 0, 0, 0, _PROTOCOL, _LINK, _UNICAST, 0)
    body += attribute(_RTA_DST, inside.packed) + attribute(_RTA_OIF, index) + attribute(_RTA_TABLE, table)
    body += attribute(_RTA_PREFSRC, gateway.packed) + attribute(_RTA_PRIORITY, metric)
    return NetlinkRequest(f"route {inside} in table {table:#x}", _NEWROUTE, CREATE | REPLACE, body)


def default_route(index: int, gateway: Address) -> NetlinkRequest:
    """Lead all packets to `gateway`, which is reached over that device though no network of its is there."""
    kind = (254, _PROTOCOL, _UNIVERSE, _UNICAST, _ONLINK)
    body = struct.pack("=BBBBBBBBI", FAMILY[gateway.version], 0, 0, 0, *kind)
    body += attribute(_RTA_GATEWAY, gateway.packed) + attribute(_RTA_OIF, index)
    return NetlinkRequest(f"make {gateway} the gateway", _NEWROUTE, CREATE | REPLACE, body)
