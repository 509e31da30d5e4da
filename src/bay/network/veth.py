"""Links between host and sandboxes: veth pairs, addresses, routes and rules, by netlink in few writes.

Every sandbox has the same address, so the host tells them apart by mark: a rule for each leads to a table
with its device. The rules around those keep the rest of the host out of it (priorities 20000 to 20005):

    20000  from 10.186.0.2, without a mark   blackhole   nftables did not see it: the ruleset was flushed
    20001  to 10.186.0.2, without a mark     NOWHERE     the host itself reaches neither sandbox nor gateway
    20002  without a mark                   goto 20004  the host's own packets skip thousands of marks
    20003  mark N                           table N
    20004  nop
    20005  nop                              a note: a Bay turned forwarding on; as lasting as that setting
"""

import socket
import struct
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass

from bay.errors import DriverUnavailable
from bay.linux import namespaces, sysctls
from bay.linux.netlink import (
    CREATE,
    EXCLUSIVE,
    EXISTS,
    MISSING,
    Netlink,
    NetlinkRequest,
    attribute,
    attributes,
)
from bay.network import sentry_link
from bay.network.link_requests import (
    FAMILY,
    HOST_MAC,
    IFLA_IFNAME,
    IFLA_NET_NS_FD,
    INSIDE_MAC,
    NOARP,
    UP,
    default_route,
    delete_link,
    link_header,
    new_address,
    new_neighbour,
    new_veth,
    no_link_local,
    route,
    set_flags,
)
from bay.network.reserved_ranges import Address
from bay.network.slots import (
    GATEWAY_V4,
    GATEWAY_V6,
    INSIDE_V4,
    INSIDE_V6,
    MARK_MASK,
    NOWHERE_TABLE,
    STUB,
    NetworkSlot,
    device_of,
    is_device,
    number_of,
)

INSIDE_DEVICE = "eth0"

_GETLINK, _IFLA_STATS64 = 18, 23
_NEWRULE, _DELRULE, _GETRULE = 32, 33, 34
_GETSTATS, _IFLA_STATS_LINK_64 = 94, 1

_FRA_DST, _FRA_SRC, _FRA_GOTO, _FRA_PRIORITY, _FRA_FWMARK = 1, 2, 4, 6, 10
_FRA_TABLE, _FRA_FWMASK, _FRA_PROTOCOL = 15, 16, 21
_BY_KERNEL = struct.pack("=B", 2)
"""The protocol number of Bay's routing rules: systemd-networkd removes others, but keeps the kernel's."""
_TO_TABLE, _GOTO, _NOP, _BLACKHOLE = 1, 2, 3, 6

_FIRST_PRIORITY = 20_000
_NOTE = 5


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes and packets that crossed a link, as seen from inside."""

    received_bytes: int
    sent_bytes: int


class VethLinks:
    """The links of one Bay, made in the host's namespace for one thread that stays there. Raises OSError."""

    def __init__(self, instance: str, *, ipv6: bool) -> None:
        self._instance = instance
        self._ipv6 = ipv6
        self._quiet = {"disable_ipv6": "0" if ipv6 else "1", "accept_ra": "0"}
        self._host = Netlink()

    def close(self) -> None:
        """Close the netlink socket; all links stand."""
        self._host.close()

    def open(self) -> None:
        """Make the parts that all links share: the dummy device with the gateway's address, and rules."""
        # A link whose other end is never up, as not every kernel has the plainer `dummy`.
        nowhere, stub = device_of(self._instance, 0), device_of(self._instance, STUB)
        self._host.send([new_veth(nowhere, stub, fine=EXISTS), *_base_rules(INSIDE_V4)])
        if not self._ipv6:
            sysctls.write(f"ipv6/conf/{nowhere}/disable_ipv6", "1")
        self._host.send([no_link_local(nowhere), set_flags(nowhere, UP | NOARP)])
        index = socket.if_nametoindex(nowhere)
        self._host.send(_shared(index, GATEWAY_V4, INSIDE_V4))
        if self._ipv6:
            self._host.send([*_base_rules(INSIDE_V6), *_shared(index, GATEWAY_V6, INSIDE_V6)])

    def note_forwarding(self, version: int) -> None:
        """Note that a Bay turned on the forwarding of IP `version`."""
        self._host.send([_rule(_NEWRULE, version, _NOTE, _NOP)])

    def is_forwarding_noted(self, version: int) -> bool:
        """Whether that was noted, by whichever Bay, since the host's network began."""
        body = struct.pack("=B11x", FAMILY[version])
        rules = self._host.dump(NetlinkRequest("list rules", _GETRULE, 0, body))
        wanted = struct.pack("=I", _FIRST_PRIORITY + _NOTE)
        return any(dict(attributes(body[12:])).get(_FRA_PRIORITY) == wanted for body in rules)

    def remove_shared(self) -> None:
        """Remove the dummy device, and the rules around once no Bay of this host has a device."""
        self._host.send([delete_link(device_of(self._instance, 0))])
        if not any(is_device(name) for name in sysctls.devices()):
            self._host.send([*_base_rules(INSIDE_V4, _DELRULE), *_base_rules(INSIDE_V6, _DELRULE)])

    def connect(self, slot: NetworkSlot, netns_fd: int) -> None:
        """Link the namespace behind `netns_fd` to the host. An existing link is replaced."""
        device = device_of(self._instance, slot.number)
        self._host.send([delete_link(device)])
        namespaces.inside(netns_fd, lambda: self._connect_inside(device, _inside_device(slot), netns_fd))
        sysctls.write_all(f"ipv4/conf/{device}", {"src_valid_mark": "1", "rp_filter": "1"})
        sysctls.write_all(f"ipv6/conf/{device}", self._quiet)
        self._host.send(self._host_side(slot, device))

    def _connect_inside(self, device: str, inside: str, netns_fd: int) -> None:
        if inside == sentry_link.UPLINK and not sentry_link.is_offered():
            raise DriverUnavailable(
                "this sandbox began in gVisor on a Bay without networks, and no device can be added to one that runs; "
                "stop the sandbox and start it again"
            )
        sysctls.write_all("ipv6/conf/default", {**self._quiet, "autoconf": "0"})
        link = new_veth(device, inside, attribute(IFLA_NET_NS_FD, netns_fd))
        self._host.send([link, no_link_local(device)])
        index = socket.if_nametoindex(inside)
        with closing(Netlink()) as netlink:
            netlink.send([no_link_local(inside), set_flags(inside, UP | NOARP)])
            netlink.send(self._inside(index, inside == sentry_link.UPLINK))

    def _inside(self, index: int, behind: bool) -> Iterator[NetlinkRequest]:
        for inside, gateway in self._pairs():
            yield new_address(index, sentry_link.OWN[inside] if behind else inside)
            yield new_neighbour(index, gateway, HOST_MAC)
            yield default_route(index, gateway)

    def _host_side(self, slot: NetworkSlot, device: str) -> Iterator[NetlinkRequest]:
        index = socket.if_nametoindex(device)
        yield set_flags(device, UP | NOARP)
        for inside, gateway in self._pairs():
            yield new_neighbour(index, inside, INSIDE_MAC)
            yield route(index, inside, gateway, slot.table)
            yield _slot_rule(_NEWRULE, slot, inside.version)

    def _pairs(self) -> Iterator[tuple[Address, Address]]:
        yield INSIDE_V4, GATEWAY_V4
        if self._ipv6:
            yield INSIDE_V6, GATEWAY_V6

    def remove(self, slot: NetworkSlot) -> None:
        """Remove the link with all that belongs to it; nothing there is fine."""
        rules = [_slot_rule(_DELRULE, slot, version) for version in (4, 6)]
        self._host.send([delete_link(device_of(self._instance, slot.number)), *rules])

    def is_whole(self, slot: NetworkSlot, netns_fd: int) -> bool:
        """Whether the link is there with both ends up; parts that the sandbox cannot undo are not checked."""
        device = device_of(self._instance, slot.number)
        return _is_up(device) and namespaces.inside(netns_fd, lambda: _is_up(_inside_device(slot)))

    def repair(self, slot: NetworkSlot) -> None:
        """Restore the host's side of a link."""
        self._host.send(self._host_side(slot, device_of(self._instance, slot.number)))

    def numbers(self) -> set[int]:
        """The numbers of the links there are."""
        return {number for name in sysctls.devices() if (number := number_of(self._instance, name))}

    def traffic(self, slot: NetworkSlot) -> Traffic:
        """The traffic that crossed the link since it was made; zeros without a link."""
        if (link := _looked_at(self._host, device_of(self._instance, slot.number))) is None:
            return Traffic(0, 0)
        return _traffic(dict(attributes(link[16:]))[_IFLA_STATS64])

    def traffic_of_all(self) -> dict[int, Traffic]:
        """The traffic of every link of this Bay, by the number of its slot, in one dump of the statistics."""
        body = struct.pack("=B3xII", socket.AF_UNSPEC, 0, 1 << _IFLA_STATS_LINK_64 - 1)
        found = self._host.dump(NetlinkRequest("read the statistics of links", _GETSTATS, 0, body))
        numbers = self._numbers_by_index()
        return {
            number: _traffic(dict(attributes(link[12:]))[_IFLA_STATS_LINK_64])
            for link in found
            if (number := numbers.get(struct.unpack_from("=I", link, 4)[0]))
        }

    def _numbers_by_index(self) -> dict[int, int]:
        named = ((index, number_of(self._instance, name)) for index, name in socket.if_nameindex())
        return {index: number for index, number in named if number}


def _inside_device(slot: NetworkSlot) -> str:
    return sentry_link.UPLINK if slot.sentry else INSIDE_DEVICE


def _traffic(statistics: bytes) -> Traffic:
    # rtnl_link_stats64: packets received and sent, then bytes. The host receives what the sandbox sends.
    _, _, received, sent = struct.unpack_from("=4Q", statistics)
    return Traffic(received_bytes=sent, sent_bytes=received)


def _is_up(device: str) -> bool:
    with closing(Netlink()) as netlink:
        link = _looked_at(netlink, device)
    return link is not None and bool(struct.unpack_from("=I", link, 8)[0] & UP)


def _looked_at(netlink: Netlink, device: str) -> bytes | None:
    body = link_header() + attribute(IFLA_IFNAME, device)
    with suppress(OSError):
        return netlink.ask(NetlinkRequest("look at a link", _GETLINK, 0, body))
    return None


def _shared(index: int, gateway: Address, inside: Address) -> list[NetlinkRequest]:
    # The metric keeps the routes of several Bays apart: each leads to its own device, and goes with it.
    return [new_address(index, gateway), route(index, inside, gateway, NOWHERE_TABLE, metric=index)]


def _rule(
    kind: int, version: int, priority: int, action: int, *more: bytes, to: bytes = b"", by: bytes = b""
) -> NetlinkRequest:
    body = struct.pack("=BBBBBBBBI", FAMILY[version], 8 * len(to), 8 * len(by), 0, 0, 0, 0, action, 0)
    body += attribute(_FRA_PRIORITY, _FIRST_PRIORITY + priority) + b"".join(more)
    body += attribute(_FRA_PROTOCOL, _BY_KERNEL) if kind == _NEWRULE else b""
    body += (attribute(_FRA_DST, to) if to else b"") + (attribute(_FRA_SRC, by) if by else b"")
    flags, fine = (CREATE | EXCLUSIVE, EXISTS) if kind == _NEWRULE else (0, MISSING)
    return NetlinkRequest(f"rule {_FIRST_PRIORITY + priority} of IPv{version}", kind, flags, body, fine)


def _base_rules(inside: Address, kind: int = _NEWRULE) -> Iterator[NetlinkRequest]:
    unmarked = attribute(_FRA_FWMARK, 0) + attribute(_FRA_FWMASK, MARK_MASK)
    version, address = inside.version, inside.packed
    yield _rule(kind, version, 4, _NOP)
    yield _rule(kind, version, 2, _GOTO, unmarked, attribute(_FRA_GOTO, _FIRST_PRIORITY + 4))
    yield _rule(kind, version, 1, _TO_TABLE, unmarked, attribute(_FRA_TABLE, NOWHERE_TABLE), to=address)
    yield _rule(kind, version, 0, _BLACKHOLE, unmarked, by=address)


def _slot_rule(kind: int, slot: NetworkSlot, version: int) -> NetlinkRequest:
    mark = attribute(_FRA_FWMARK, slot.mark) + attribute(_FRA_FWMASK, MARK_MASK)
    return _rule(kind, version, 3, _TO_TABLE, mark, attribute(_FRA_TABLE, slot.table))
