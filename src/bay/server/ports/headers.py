"""Filters the headers of a request for an app in a sandbox, and those of its answer for a browser. Pure.

Both ways: without those of the connection. The app gets none that say who asks, which Bay says itself, and
none of Bay's secrets; the browser none that act on more than the app's own host.
"""

import base64
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from bay.server.web import console_cookie

Headers = list[tuple[bytes, bytes]]

COOKIE, SECURE_COOKIE = b"bay-port", b"__Host-bay-port"
"""Those of ports, on http and on https."""

_OWN_COOKIES = frozenset(
    name.lower() for name in (COOKIE, SECURE_COOKIE, console_cookie.COOKIE, console_cookie.SECURE_COOKIE)
)

SANDBOXED = b"sandbox allow-scripts allow-forms allow-popups allow-modals allow-downloads"
"""For an app's pages at Bay's own host: without `allow-same-origin` they cannot act as Bay's."""

_HOP_BY_HOP = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-authentication-info",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)  # RFC 9110, section 7.6.1
_SAID_BY_BAY = frozenset((b"host", b"content-length", b"expect", b"forwarded", b"x-real-ip", b"via"))
_FORWARDED = b"x-forwarded-"
_WIDER = frozenset((b"alt-svc", b"clear-site-data", b"public-key-pins"))
"""Headers of an answer that act on other hosts or ports too."""
_TO_PROXIES = re.compile(rb"x-(accel|sendfile|lighttpd|litespeed|reproxy)")
"""Prefixes of headers that command the proxy before an app, such as to send a file of the proxy's host."""
_OF_THE_ORIGIN = frozenset((b"strict-transport-security", b"service-worker-allowed", b"nel", b"report-to"))
"""Headers of an answer that act on Bay's own host, where an app is shown below it."""
_BAY_KEY = re.compile(rb"bay_[A-Za-z0-9_-]{43}|e2b_[0-9a-f]{40}")
"""A key that Bay made, also a revoked one; the second form is that of keys for clients of E2B."""
_TRAFFIC_TOKEN = b"e2b-traffic-access-token"
"""The header of clients of E2B that opens the port, and the sandbox's interpreter with it."""
_BETWEEN_WORDS = re.compile(rb'[\s,;="]+')
_SHORTEST_KEY, _LONGEST_KEY, _MAX_WORDS = 16, 1024, 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """How a request reached Bay: `Host`, sender, and the path above the app, empty at a host of its own."""

    host: str
    scheme: str
    client: str
    prefix: str = ""
    framed_by: str = ""
    """The origins whose pages may have the answer in a frame, as sources of a policy; empty: the app says."""

    @property
    def port(self) -> str:
        """The port that the browser spoke to."""
        _, colon, port = self.host.rpartition(":")
        return port if colon and port.isdecimal() else {"https": "443"}.get(self.scheme, "80")


def toward_app(
    given: Iterable[tuple[bytes, bytes]],
    seen: Seen,
    *,
    with_authorization: bool,
    is_key: Callable[[str], bool],
) -> Headers:
    """The request's headers for the app, without those that frame its body and without any key of Bay.
    `with_authorization`: it is not Bay's. `is_key`: whether a word that looks like none is or was a key.
    """
    headers = list(given)
    dropped = _HOP_BY_HOP | _SAID_BY_BAY | _named_by_connection(headers) | {_TRAFFIC_TOKEN}
    found: Headers = [(b"Host", seen.host.encode("latin-1"))]
    for name, value in headers:
        # Servers that make variables of headers cannot tell `_` from `-`.
        plain = name.lower().replace(b"_", b"-")
        if plain in dropped or plain.startswith(_FORWARDED):
            continue
        if plain == b"authorization" and not with_authorization:
            continue
        if plain == b"cookie":
            value = _others_cookies(value, is_key)
        elif plain == b"sec-websocket-protocol":
            value = _others_protocols(value)  # a proxy on the way may have made a plain GET of a WebSocket's
        if not value and plain in (b"cookie", b"sec-websocket-protocol"):
            continue
        if _has_key(value, is_key):
            continue
        found.append((name, value))
    return [*found, *_forwarded(seen)]


def framing(given: Iterable[tuple[bytes, bytes]]) -> Headers:
    """The checked headers that frame the request's body, in one way; none for one without a body."""
    of = {name.lower(): value for name, value in given}
    if b"transfer-encoding" in of:
        return [(b"Transfer-Encoding", b"chunked")]
    return [(b"Content-Length", of[b"content-length"])] if b"content-length" in of else []


def toward_browser(
    given: Iterable[tuple[bytes, bytes]], status: int, seen: Seen, *, is_page: bool = True
) -> Headers:
    """The answer's headers for the browser; at Bay's own host they act below the app's path only."""
    headers = list(given)
    dropped = (
        _HOP_BY_HOP | _WIDER | {b"date"} | _named_by_connection(headers)
    )  # the server says the date itself
    if status in (204, 304):
        dropped |= {b"content-length"}  # there is no body, whatever it says
    if _all(headers, b"transfer-encoding"):
        dropped |= {b"content-length"}  # RFC 9112, section 6.3: it is not what says how long the body is
    if seen.prefix:
        dropped |= _OF_THE_ORIGIN
    found: Headers = []
    for name, value in headers:
        plain = name.lower()
        if plain in dropped or _TO_PROXIES.match(plain):
            continue
        if plain == b"set-cookie":
            value = _own_cookie(value, seen.prefix)
            if value is None:
                continue
        elif plain == b"location" and seen.prefix:
            value = _below(seen.prefix, value)
        found.append((name, value))
    if seen.framed_by and is_page:
        # Beside a policy of the app's own: a browser obeys both, so that the stricter holds.
        found.append((b"content-security-policy", b"frame-ancestors " + seen.framed_by.encode("latin-1")))
    if seen.prefix and is_page:
        found += [(b"content-security-policy", SANDBOXED), (b"x-content-type-options", b"nosniff")]
    return found


def app_protocols(offered: Iterable[str]) -> list[str]:
    """The subprotocols that a WebSocket's client offers, without those that are for Bay."""
    return [name for name in offered if not name.lower().startswith("bay.")]


def _all(given: Iterable[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    return [value for key, value in given if key.lower() == name]


def _named_by_connection(headers: Headers) -> set[bytes]:
    named = b",".join(_all(headers, b"connection"))
    return {name.strip().lower() for name in named.split(b",")}


def _has_key(value: bytes, is_key: Callable[[str], bool]) -> bool:
    inside = _basic(value)
    if _BAY_KEY.search(value) or _BAY_KEY.search(inside):
        return True
    return len(value) >= _SHORTEST_KEY and any(map(is_key, _likely_keys(value, inside)))


def _likely_keys(value: bytes, inside: bytes) -> Iterator[str]:
    """All of it, what follows a scheme, its words, and both halves of a Basic (RFC 7617)."""
    _, _, behind = value.partition(b" ")
    words = islice(_BETWEEN_WORDS.split(value), _MAX_WORDS)
    likely = {value.strip(), behind.strip(), *words, *inside.partition(b":")}
    return (word.decode("latin-1") for word in likely if _SHORTEST_KEY <= len(word) <= _LONGEST_KEY)


def _basic(value: bytes) -> bytes:
    """The credentials of that scheme; nothing for any other."""
    scheme, _, encoded = value.partition(b" ")
    if scheme.lower() != b"basic":
        return b""
    try:
        return base64.b64decode(encoded.strip(), validate=True)
    except ValueError:
        return b""


def _others_cookies(value: bytes, is_key: Callable[[str], bool]) -> bytes:
    kept = [pair.strip() for pair in value.split(b";") if not _is_own(pair) and not _has_key(pair, is_key)]
    return b"; ".join(pair for pair in kept if pair)


def _others_protocols(value: bytes) -> bytes:
    offered = [name.strip() for name in value.decode("latin-1").split(",")]
    return ", ".join(app_protocols(offered)).encode("latin-1")


def _is_own(pair: bytes) -> bool:
    # Browsers send a cookie without a name as its value alone, which then reads as a name and a value.
    return pair.lstrip(b"= \t").partition(b"=")[0].strip().lower() in _OWN_COOKIES


def _own_cookie(value: bytes, prefix: str) -> bytes | None:
    """A cookie without Domain, which would reach the apps of others; None for Bay's own."""
    pair, *attributes = value.split(b";")
    if _is_own(pair):
        return None
    wider = (b"domain", b"path") if prefix else (b"domain",)
    kept = [pair, *(a for a in attributes if a.partition(b"=")[0].strip().lower() not in wider)]
    if prefix:
        kept.append(b" Path=" + prefix.encode("latin-1"))
    return b";".join(kept)


def _below(prefix: str, location: bytes) -> bytes:
    """Where a redirect leads: one to a path stays with the app."""
    is_path = location.startswith(b"/") and not location.startswith((b"//", b"/\\"))
    return prefix.encode("latin-1") + location if is_path else location


def _forwarded(seen: Seen) -> Headers:
    said = [
        ("X-Forwarded-For", seen.client),
        ("X-Forwarded-Host", seen.host),
        ("X-Forwarded-Proto", seen.scheme),
        ("X-Forwarded-Port", seen.port),
    ]
    if seen.prefix:
        said.append(("X-Forwarded-Prefix", seen.prefix))
    return [(name.encode(), value.encode("latin-1")) for name, value in said if value]
