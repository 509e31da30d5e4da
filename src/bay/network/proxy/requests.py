"""Reads where a request to the proxy is to go, and who sends it. Pure; all of it is a stranger's."""

import re
from base64 import b64decode
from binascii import Error
from dataclasses import dataclass
from ipaddress import ip_address

import h11

from bay.network import domains
from bay.network.http_passage import NotPassedOn
from bay.network.reserved_ranges import Address

_AUTHORITY = r"(?:\[(?P<v6>[0-9A-Fa-f:.]{2,45})\]|(?P<host>[A-Za-z0-9._-]{1,254}))(?::(?P<port>[0-9]{1,5}))?"
_CONNECT = re.compile(_AUTHORITY)
_ABSOLUTE = re.compile(rf"[Hh][Tt][Tt][Pp]://{_AUTHORITY}(?P<path>[/?][^#]*)?")
_MAX_NAME = 253
_MAX_CREDENTIALS = 512
_HTTP_PORT = 80


@dataclass(frozen=True, slots=True)
class EgressTarget:
    """A host, by its name in lower case or its address, and its TCP port. `path` is of a request for an
    `http://` URL; None for CONNECT.
    """

    host: str | Address
    port: int
    path: bytes | None = None

    @property
    def authority(self) -> str:
        """As in a URL, with the port."""
        host = self.host
        return (
            f"{host}:{self.port}" if isinstance(host, str) or host.version == 4 else f"[{host}]:{self.port}"
        )

    @property
    def host_header(self) -> bytes:
        """As in a request: without port 80."""
        return self.authority.removesuffix(f":{_HTTP_PORT}").encode()


def target_of(request: h11.Request) -> EgressTarget:
    """Where a request is to go. Raises NotPassedOn."""
    text, is_connect = request.target.decode("ascii"), request.method.upper() == b"CONNECT"
    found = (_CONNECT if is_connect else _ABSOLUTE).fullmatch(text)
    if found is None:
        raise _malformed("it takes CONNECT to a host and port, and requests for http:// URLs")
    if is_connect and found["port"] is None:
        raise _malformed("CONNECT needs a host and a port")
    port = int(found["port"] or _HTTP_PORT)
    if not 0 < port < 65536:
        raise _malformed(f"{port} is no port")
    names = [name for name, _ in request.headers]
    if b"content-length" in names and b"transfer-encoding" in names:
        raise _malformed("a request has Content-Length or Transfer-Encoding, not both")
    host = _host(found["v6"], found["host"])
    if is_connect:
        # A body of one means nothing (RFC 9110, 9.3.6), and to skip it would be work without a bound.
        lengths = (value for name, value in request.headers if name == b"content-length")
        if b"transfer-encoding" in names or any(value.strip(b"0") for value in lengths):
            raise _malformed("CONNECT has no body")
        return EgressTarget(host, port)
    path = found["path"] or "/"
    return EgressTarget(host, port, (path if path.startswith("/") else f"/{path}").encode())


def credentials_of(request: h11.Request) -> tuple[str, str] | None:
    """The user and the password of a request; None where it has none, or several."""
    found = [value for name, value in request.headers if name == b"proxy-authorization"]
    if len(found) != 1 or len(found[0]) > _MAX_CREDENTIALS:
        return None
    scheme, _, coded = found[0].partition(b" ")
    if scheme.lower() != b"basic":
        return None
    try:
        user, colon, password = b64decode(coded.strip(), validate=True).decode("ascii").partition(":")
    except (Error, ValueError):
        return None
    return (user, password) if colon else None


def _host(v6: str | None, text: str | None) -> str | Address:
    try:
        return ip_address(v6 or text or "")
    except ValueError:
        name = domains.lookup_form(text) if text else None
    if name is None or len(name) > _MAX_NAME:
        raise _malformed("the host is neither a name nor an address")
    return name


def _malformed(why: str) -> NotPassedOn:
    return NotPassedOn(400, "malformed", f"this is no request that Bay's egress proxy passes on: {why}")
