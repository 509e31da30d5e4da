"""Parses host names: `{port}-{sandbox}.<domain>` is a port, `{sandbox}.<domain>` the sandbox's `url` setting.

The domain is the host of `public_url`, and `localhost` always. A sandbox is called by its id, or by its
`host`, which is its name if no other sandbox had taken it first: names belong to owners, and hosts to
everybody. So one host is one sandbox for every caller, and a browser's data of a host never meets another's
app.

Any other host with a dot in it is refused. A page of a stranger's domain that comes to point to this server
(DNS rebinding) would otherwise speak to it as to itself.
"""

import re
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Literal
from urllib.parse import urlsplit

from bay.errors import InvalidArgument

_HOST = re.compile(r"([a-z0-9](?:[a-z0-9._-]{0,253}[a-z0-9])?|\[[0-9a-f:.]{2,45}\])(?::([0-9]{1,5}))?")
_PORT_LABEL = re.compile(r"([1-9][0-9]{0,4})-(.+)")
_LIKE_A_PORT = re.compile(r"[0-9]+-")
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_LONGEST_NAME = 63 - len("65535-")
"""A DNS label has 63 characters."""

LOCAL = "localhost"


@dataclass(frozen=True, slots=True, kw_only=True)
class PortHost:
    """The place of a host: a sandbox, by its id or host, and a port; None is that of its `url` setting.

    `host` is the whole Host as it was sent, in lower case, and `scheme` what the browser speaks there.
    """

    sandbox: str
    port: int | None
    scheme: Literal["http", "https"]
    host: str

    @property
    def origin(self) -> str:
        """As browsers name it in `Origin`."""
        default = {"http": ":80", "https": ":443"}[self.scheme]
        return f"{self.scheme}://{self.host.removesuffix(default)}"

    @property
    def address_port(self) -> str:
        """The port of the address, with its colon; empty for the scheme's own."""
        _, colon, port = self.origin.removeprefix(f"{self.scheme}://").partition(":")
        return f"{colon}{port}"


class PortHosts:
    """Reads and makes host names. `listen_host` is what Bay listens on, `port` where, once that is known."""

    def __init__(self, public_url: str | None, listen_host: str, port: int) -> None:
        self._listen_host = listen_host.lower()
        self.port = port
        self._public, self._public_scheme, self._public_port = _parts(public_url)
        self._domains: dict[str, Literal["http", "https"]] = {LOCAL: "http"}
        if self._public is not None and not _is_address(self._public):
            self._domains[self._public] = self._public_scheme

    def look(self, host: str) -> PortHost | Literal["bay"] | None:
        """The place of a Host header: a sandbox, Bay itself, or None for a foreign host."""
        host = host.lower()
        parsed = _HOST.fullmatch(host)
        if parsed is None:
            return None
        name: str = parsed[1]
        label, _, domain = name.partition(".")
        if (scheme := self._domains.get(domain)) is not None:
            return _place(label, scheme, host)
        return "bay" if self._is_own(name) else None

    def url(self, sandbox: str, port: int | None) -> str:
        """Where a browser reaches a port of a sandbox; without one that of its `url` setting.

        Ends with a slash.
        """
        label = sandbox if port is None else f"{port}-{sandbox}"
        if self._public in self._domains and self._public != LOCAL:
            return f"{self._public_scheme}://{label}.{self._public}{self._public_port}/"
        return f"http://{label}.{LOCAL}:{self.port}/"

    def is_beside(self, other: PortHost, place: PortHost) -> bool:
        """Whether `other` is served where `place` is.

        Another port of the same host name may be a foreign server.
        """
        return other.address_port in (place.address_port, self._port_of_public(place))

    def _port_of_public(self, place: PortHost) -> str | None:
        # A proxy may leave the port out of the Host that it passes on.
        is_public = self._public in self._domains and place.host.partition(":")[0].endswith(
            f".{self._public}"
        )
        return self._public_port if is_public and self._public != LOCAL else None

    def _is_own(self, name: str) -> bool:
        # A name without a dot is resolved by this host's own network, and by no public domain.
        return name in (self._public, self._listen_host) or "." not in name or _is_address(name)


def host_of(name: str | None) -> str | None:
    """The host for a sandbox of that name; none for one that is too long, or looks like one with a port."""
    if name is None or len(name) > _LONGEST_NAME or _LIKE_A_PORT.match(name):
        return None
    return name


def _place(label: str, scheme: Literal["http", "https"], host: str) -> PortHost | None:
    with_port = _PORT_LABEL.fullmatch(label)
    port = int(with_port[1]) if with_port else None
    sandbox: str = with_port[2] if with_port else label
    if not _LABEL.fullmatch(sandbox) or (port is not None and port > 65535):
        return None
    return PortHost(sandbox=sandbox, port=port, scheme=scheme, host=host)


def _parts(url: str | None) -> tuple[str | None, Literal["http", "https"], str]:
    """Host, scheme, and `:port` or nothing."""
    if url is None:
        return None, "http", ""
    try:
        parsed = urlsplit(url)
        port = parsed.port
    except ValueError:
        parsed, port = urlsplit(""), None
    scheme = parsed.scheme
    has_rest = parsed.path.strip("/") or parsed.query or parsed.fragment or parsed.username is not None
    if scheme not in ("http", "https") or not parsed.hostname or has_rest:
        raise InvalidArgument(f"public_url is {url!r}; set it to a URL such as https://bay.example.com")
    return parsed.hostname.lower(), scheme, f":{port}" if port else ""


def _is_address(name: str) -> bool:
    try:
        ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
