"""Registries: which ones a fetch may reach, by what way, with whose certificate and with which credentials.

A public registry is reached as sandboxes reach the Internet, under Bay's network policy. One on this host or
on a private address needs the operator's word, and is reached by a relay to exactly the addresses given
there: the fetch itself never gets a way into a private network.
"""

import base64
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path

from bay.errors import ImageDenied, InvalidArgument
from bay.images.references import address_in, host_and_port
from bay.network.reserved_ranges import Address, is_reserved

_HTTPS, _HTTP = 443, 80
_LOOPBACK = IPv4Address("127.0.0.1")
_MAX_CREDENTIAL = 8192
_IPV6_NAME = "ipv6.registry.invalid"
_HOSTS = "127.0.0.1 localhost\n::1 localhost\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """A user name and a password or token, for one registry alone. Raises InvalidArgument."""

    username: str
    password: str = field(repr=False)

    def __post_init__(self) -> None:
        for name, value in (("username", self.username), ("password", self.password)):
            if not 0 < len(value) <= _MAX_CREDENTIAL or not value.isprintable():
                raise InvalidArgument(
                    f"the registry's {name} must have 1 to {_MAX_CREDENTIAL} printable characters"
                )
        if ":" in self.username:
            raise InvalidArgument("the registry's username must have no colon")


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryAccess:
    """The operator's word on one registry. `insecure` allows plain HTTP and certificates of anybody.
    With `addresses` it is reached there, from the host, and nowhere else.
    """

    host: str
    insecure: bool = False
    ca_file: Path | None = None
    addresses: tuple[Address, ...] = ()


@dataclass(frozen=True, slots=True)
class RelayWay:
    """A listener inside a fetch's namespace, and the addresses on the host's side that it leads to."""

    inside: Address
    port: int
    targets: tuple[Address, ...]


class Registries:
    """The registries that the operator named; others are reached as they are, if they are public."""

    def __init__(self, named: Iterable[RegistryAccess] = ()) -> None:
        self._named = {one.host: one for one in named}

    def of(self, host: str) -> RegistryAccess:
        """The way to `host`, spelled as in `Reference.host`. Raises ImageDenied for one that is local."""
        found = self._named.get(host)
        address = address_in(host)
        if found is None and _is_local(host, address):
            raise ImageDenied(
                f"the registry {host} is on this host or in a private network, which Bay's operator has not "
                "allowed: name it in BAY_REGISTRIES"
            )
        if found is None:
            return RegistryAccess(host=host)
        if found.addresses or not _is_local(host, address):
            return found
        return RegistryAccess(
            host=host, insecure=found.insecure, ca_file=found.ca_file, addresses=(address or _LOOPBACK,)
        )


def ways(access: RegistryAccess) -> tuple[RelayWay, ...]:
    """The listeners with which a fetch reaches a registry that has addresses; none for another."""
    if not access.addresses:
        return ()
    _, port = host_and_port(access.host)
    ports = [port] if port else [_HTTPS, *([_HTTP] if access.insecure else [])]
    inside = address_in(access.host) or _LOOPBACK
    return tuple(RelayWay(inside, one, access.addresses) for one in ports)


def spoken_host(host: str) -> str:
    """The host as skopeo is told it: its references have no IPv6 addresses, so one becomes a name."""
    if not host.startswith("["):
        return host
    _, port = host_and_port(host)
    return f"{_IPV6_NAME}:{port}" if port else _IPV6_NAME


def hosts_file(access: RegistryAccess | None) -> str:
    """/etc/hosts of a fetch: a name with addresses is at the relay, and the name of an address is there."""
    if access is None:
        return _HOSTS
    name, _ = host_and_port(access.host)
    if access.host.startswith("["):
        return f"{_HOSTS}{name} {_IPV6_NAME}\n"
    relayed = access.addresses and address_in(access.host) is None and name != "localhost"
    return f"{_HOSTS}{_LOOPBACK} {name}\n" if relayed else _HOSTS


def auth_file(host: str, credentials: Credentials) -> bytes:
    """Docker's file of credentials, for that host alone."""
    pair = f"{credentials.username}:{credentials.password}".encode()
    return json.dumps({"auths": {spoken_host(host): {"auth": base64.b64encode(pair).decode()}}}).encode()


def _is_local(host: str, address: Address | None) -> bool:
    name, _ = host_and_port(host)
    local = name == "localhost" or name.endswith(".localhost")
    return local or (address is not None and is_reserved(address))
