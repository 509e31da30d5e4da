"""Restricts requests to URLs of users to public addresses: never Bay itself or its network.

A name is resolved once, and the request goes to exactly an address that was checked: resolved again, it could
mean another thing by then (DNS rebinding).
"""

import asyncio
import ipaddress
import re
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import httpx

from bay.errors import InvalidArgument

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_HOST = re.compile(rb"[A-Za-z0-9._:-]+")
_LOOKUPS = 32
_LOOKUP_S = 5.0

# Global unicast. Addresses that embed an IPv4 address (::ffff:0:0/96, 64:ff9b::/96, 64:ff9b:1::/48, ::/96)
# and the deprecated site-local fec0::/10 lie outside of it, and `is_global` calls some of them global.
_PUBLIC_V6 = IPv6Network("2000::/3")

_NEVER: tuple[Network, ...] = (
    IPv4Network("192.0.0.0/24"),  # protocol assignments, and a cloud's metadata at 192.0.0.192
    IPv4Network("192.88.99.0/24"),  # 6to4 relays
    IPv4Network("168.63.129.16/32"),  # a cloud's host agent, on an address that is public by its form
    IPv6Network("2001::/23"),  # protocol assignments: Teredo, ORCHID, …
    IPv6Network("2002::/16"),  # 6to4
    IPv6Network("3fff::/20"),  # documentation
    IPv6Network("5f00::/16"),  # segment routing
)


NOT_THE_WEBS = frozenset(
    (1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060, 5061, 6000, 6566, 6665, 6666, 6667, 6668, 6669, 6679, 6697, 10080)
)  # fmt: skip
"""Above 1023. Servers of other protocols below could take a request for commands (WHATWG Fetch, section 2.9).
"""


def checked_url(text: str) -> httpx.URL:
    """The URL, if a webhook can have it. Raises InvalidArgument, without what may be secret in it."""
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, ValueError) as error:
        raise InvalidArgument("this is not a URL") from error
    if url.scheme not in ("http", "https") or not _HOST.fullmatch(url.raw_host):
        raise InvalidArgument("a webhook's URL must begin with https:// or http:// and a host")
    if url.userinfo or url.fragment:
        raise InvalidArgument("a webhook's URL may have no user, password or fragment")
    if not 0 < port_of(url) < 65536:
        raise InvalidArgument("the port of a webhook's URL must be from 1 to 65535")
    return url


def is_public(address: Address) -> bool:
    """Whether an address belongs to the internet at large, in a form that cannot mean another address."""
    if isinstance(address, IPv6Address) and (address.scope_id or address not in _PUBLIC_V6):
        return False
    listed = any(address in network for network in _NEVER if network.version == address.version)
    return address.is_global and not address.is_multicast and not listed


def ports_in(text: str) -> range:
    """The ports that `80` or `1024-65535` names. Raises ValueError."""
    first, dash, last = text.partition("-")
    found = range(int(first), int(last if dash else first) + 1)
    if not found or found[0] < 1 or found[-1] > 65_535:
        raise ValueError(f"{text!r} is neither a port nor a range of ports, such as 443 or 1024-65535")
    return found


class Addresses:
    """Resolves hosts to addresses that may be called: public ones, and what the operator allows."""

    def __init__(
        self,
        allowed: Sequence[Network],
        ports: Sequence[str],
        resolver: Callable[[str, int], list[str]] | None = None,
    ) -> None:
        self._allowed = tuple(allowed)
        self._ports = [ports_in(text) for text in ports]
        self._resolver = resolver or resolve
        # Threads of its own, since a look-up cannot be broken off: slow name servers hold up nothing else.
        self._threads = ThreadPoolExecutor(_LOOKUPS, thread_name_prefix="bay-lookup")
        self._under_way: dict[tuple[str, int], Future[list[str]]] = {}

    def close(self) -> None:
        """Refuse further look-ups."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def public(self, url: httpx.URL) -> list[str]:
        """The host's addresses. Raises InvalidArgument unless each of them, and the port, may be called."""
        self._check_port(port_of(url))
        found: list[str] = []
        with suppress(TimeoutError):
            async with asyncio.timeout(_LOOKUP_S):
                found = await self._look_up(url.raw_host.decode("ascii"), port_of(url))
        if not found:
            # One answer for all reasons, so that a user does not learn which names exist in the operator's
            # network.
            raise InvalidArgument(f"{url.host} does not resolve to public addresses only; use a public host")
        return found

    def _check_port(self, port: int) -> None:
        if port in NOT_THE_WEBS or not any(port in ports for ports in self._ports):
            raise InvalidArgument(
                f"a webhook's URL may not use port {port}, which belongs to another protocol; use 443, "
                "or have the operator allow it (BAY_WEBHOOK_PORTS)"
            )

    async def _look_up(self, host: str, port: int) -> list[str]:
        """One thread for each host at most, however often it is asked for while its name server is silent."""
        key = (host, port)
        if key not in self._under_way:
            future = self._under_way[key] = self._threads.submit(self._checked, host, port)
            loop = asyncio.get_running_loop()
            future.add_done_callback(lambda _: loop.call_soon_threadsafe(self._under_way.pop, key, None))
        return await asyncio.shield(asyncio.wrap_future(self._under_way[key]))

    def _checked(self, host: str, port: int) -> list[str]:
        """The host's addresses; none when one of them may not be called. In a thread."""
        found = self._resolver(host, port)
        return found if all(self._may_be_called(text, port) for text in found) else []

    def _may_be_called(self, text: str, port: int) -> bool:
        address = ipaddress.ip_address(text)
        if any(address in network for network in self._allowed if network.version == address.version):
            return True
        return is_public(address) and not is_own(address, port)


def resolve(host: str, port: int) -> list[str]:
    """The addresses that this host's resolver gives, in its order; none when it has none. Blocking."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def port_of(url: httpx.URL) -> int:
    """The port that the URL means."""
    default = 443 if url.scheme == "https" else 80
    return default if url.port is None else url.port


def is_own(address: Address, port: int) -> bool:
    """Whether this host itself has the address: then the way there starts and ends at it. Sends nothing."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((str(address), port))
            return ipaddress.ip_address(probe.getsockname()[0]) == address
        except OSError:
            return False  # there is no way there
