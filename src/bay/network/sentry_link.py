"""The link of a sandbox in gVisor, whose own kernel, the sentry, takes the addresses of its devices.

The sentry reads and writes packets at `eth0`, and the kernel of the same namespace is the router between the
other end of that and the link to the host, which is the one of every sandbox:

    sentry   eth0 = relay   the namespace's kernel   uplink = bayXXXX-NNNN   the host, with the policy

The forwarder and the broker listen in that kernel, where they do for a container. The sentry has a loopback
of its own and refuses such an address from outside, so it has other addresses for them, which are translated.

The rules here hold nobody to a policy: the host does, on its side of `uplink`. They keep the sentry, should
an attacker have it, to its own address and to the two services, and its connections to a number.
"""

import socket
from collections.abc import Mapping
from contextlib import closing
from ipaddress import IPv4Address, IPv6Address

from bay.linux import sysctls
from bay.linux.netlink import Netlink
from bay.linux.nftables import Nft
from bay.network import link_requests as requests
from bay.network.reserved_ranges import Address
from bay.network.slots import INSIDE_V4, INSIDE_V6

RELAY_V4, RELAY_V6 = IPv4Address("10.186.0.5"), IPv6Address("fdba::5")
"""Of the end that is the sentry's gateway. The sentry has the address of every sandbox."""

OWN_V4, OWN_V6 = IPv4Address("10.186.0.6"), IPv6Address("fdba::6")
OWN: Mapping[Address, Address] = {INSIDE_V4: OWN_V4, INSIDE_V6: OWN_V6}
"""From which the broker calls out, until the packets leave as the sandbox's."""

RESOLVER, BROKER = "10.186.0.53", "10.186.0.54"
"""Where programs in the sentry find the forwarder and the broker."""

DEVICE, RELAY, UPLINK = "eth0", "relay", "uplink"

MAX_CONNECTIONS = 8192
"""As many as the host lets a sandbox have: beyond that they would take the host's memory and lead nowhere."""

_MAIN_TABLE = 254

_RULES = f"""
table inet bay {{
  chain arrive {{
    type filter hook prerouting priority raw; policy accept;
    iifname "{DEVICE}" drop comment "copies of what the sentry reads"
    iifname != "{RELAY}" accept
    ip saddr {INSIDE_V4} accept
    ip6 saddr {{ {INSIDE_V6}, fe80::/10, :: }} accept
    drop
  }}
  chain count {{
    type filter hook prerouting priority mangle; policy accept;
    iifname "{RELAY}" ct state new ct count over {MAX_CONNECTIONS} drop
  }}
  chain serve {{
    type nat hook prerouting priority dstnat; policy accept;
    iifname "{RELAY}" ip daddr {RESOLVER} dnat ip to 127.0.0.53
    iifname "{RELAY}" ip daddr {BROKER} dnat ip to 127.0.0.54
  }}
  chain own {{
    type filter hook input priority filter; policy accept;
    iifname != "{RELAY}" accept
    ip daddr 127.0.0.53 meta l4proto {{ tcp, udp }} th dport 53 accept
    ip daddr 127.0.0.54 meta l4proto tcp accept
    icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept
    reject with icmpx admin-prohibited
  }}
  chain pass {{
    type filter hook forward priority filter; policy drop;
    ct state invalid drop
    iifname "{RELAY}" oifname "{UPLINK}" ip saddr {INSIDE_V4} accept
    iifname "{RELAY}" oifname "{UPLINK}" ip6 saddr {INSIDE_V6} accept
    iifname "{UPLINK}" oifname "{RELAY}" ct state established,related accept
  }}
  chain leave {{
    type nat hook postrouting priority srcnat; policy accept;
    oifname "{UPLINK}" ip saddr {OWN_V4} snat ip to {INSIDE_V4}
    oifname "{UPLINK}" ip6 saddr {OWN_V6} snat ip6 to {INSIDE_V6}
  }}
}}
"""


def offer(*, ipv6: bool) -> None:
    """Make `eth0` for a sentry that is about to start in the calling thread's namespace, and the rules.
    Nothing answers at its other end before `attend`. Blocks; raises OSError, DriverUnavailable.
    """
    with closing(Nft()) as nft:
        nft.run(_RULES)
    quiet = {"disable_ipv6": "0" if ipv6 else "1", "accept_ra": "0", "autoconf": "0"}
    sysctls.write_all("ipv6/conf/default", quiet)
    for version in (4, 6) if ipv6 else (4,):
        sysctls.forward(version)
    pairs = _pairs(ipv6=ipv6)
    with closing(Netlink()) as netlink:
        netlink.send([requests.new_veth(RELAY, DEVICE), *map(requests.no_link_local, (RELAY, DEVICE))])
        # The sentry takes each device that has an address: `relay` gets its own after that.
        netlink.send([requests.set_flags(RELAY, requests.UP)])
        netlink.send([requests.set_flags(DEVICE, requests.UP | requests.NOARP)])
        index = socket.if_nametoindex(DEVICE)
        for sentry, relay in pairs:
            netlink.send([requests.new_address(index, sentry), requests.default_route(index, relay)])
    # By `route_localnet` what is translated to 127.0.0.53 is not dropped; `rp_filter` pins the source, too.
    sysctls.write_all(f"ipv4/conf/{RELAY}", {"route_localnet": "1", "rp_filter": "1"})


def is_offered() -> bool:
    """Whether that was done in the calling thread's namespace."""
    return RELAY in sysctls.devices()


def attend(*, ipv6: bool) -> None:
    """Answer the sentry, which has taken the addresses of `eth0`; idempotent. Blocks; raises OSError."""
    with closing(Netlink()) as netlink:
        index = socket.if_nametoindex(RELAY)
        for sentry, relay in _pairs(ipv6=ipv6):
            netlink.send([
                requests.new_address(index, relay),
                requests.new_neighbour(index, sentry, requests.INSIDE_MAC),
                requests.route(index, sentry, relay, _MAIN_TABLE),
            ])  # fmt: skip


def _pairs(*, ipv6: bool) -> list[tuple[Address, Address]]:
    pairs: list[tuple[Address, Address]] = [(INSIDE_V4, RELAY_V4), (INSIDE_V6, RELAY_V6)]
    return pairs if ipv6 else pairs[:1]
