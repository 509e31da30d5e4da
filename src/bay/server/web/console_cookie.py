"""The cookie that names the caller of a browser, once it has signed in to the console.

A browser sends a cookie with every request to this host, whichever page had it sent. So a cookie counts
only with what shows that a page of Bay's own sent it. A request of HTTP has the header `Bay-Console: 1`: a
page of another origin could add it only after a preflight, and Bay answers none. A WebSocket, to which no
page can add a header, has the origin of this Bay. `SameSite=Strict` is not enough: sandboxes' apps may be
of the same site.

The value is a sealed token that names a key, so the cookie ends with its key or after 12 hours; Bay stores
none of them.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from bay.clock import Clock
from bay.errors import BadRequest, BayError, Unauthorized
from bay.server.web.auth import Caller, Keys
from bay.server.web.sealed_tokens import SealedTokens
from bay.server.web.wire_format import Headers, Scope

COOKIE, SECURE_COOKIE = b"bay-console", b"__Host-bay-console"
"""On http and on https."""

LIFE_S = 12 * 3600

SIGN_IN = "/v1/console/sign_in"
"""The one path where a caller without a key may send something."""

MAX_SIGN_IN_BYTES = 4096

_HEADER = "bay-console"
_ENDED = (
    "this browser's sign-in has ended: it is too old, or its key was revoked or has expired; sign in again"
)

TokenKind = Literal["cookie", "code"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsolePass:
    """The right of a key, until `expires_at` (whole seconds); `once` numbers a code, which opens once."""

    key_id: str
    expires_at: datetime
    once: str | None = None


class ConsoleTokens(SealedTokens):
    """Seals passes into cookies and codes, and reads them; `open` it first."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def seal(self, kind: TokenKind, given: ConsolePass) -> str:
        """The token of a pass."""
        return self.sealed(_use(kind), [given.key_id, int(given.expires_at.timestamp()), given.once])

    def read(self, kind: TokenKind, token: str) -> ConsolePass | None:
        """The content of a token; None for one that was not sealed here as that kind, or has expired."""
        if (content := self.unsealed(_use(kind), token)) is None:
            return None
        key_id, seconds, once = content
        expires_at = datetime.fromtimestamp(seconds, UTC)
        return (
            ConsolePass(key_id=key_id, expires_at=expires_at, once=once)
            if expires_at > self._clock()
            else None
        )


class ConsoleCookies:
    """Finds the caller of a request by its cookie. `origin` is that of `public_url`."""

    def __init__(self, tokens: ConsoleTokens, keys: Keys, origin: str | None) -> None:
        self._tokens = tokens
        self._keys = keys
        self._origin = origin

    def caller(self, scope: Scope, headers: Headers) -> Caller | None:
        """Who signed in, or None without a cookie. Raises Unauthorized for one that has ended, or that may
        come from a stranger's page, and BadRequest for two of that name.
        """
        given = cookies_named(scope["headers"], _name(scope))
        if not given:
            return None
        self._check_sender(scope, headers)
        if len(given) > 1:
            # A page of a host below this one can have its browser add a cookie, but cannot take one away.
            raise BadRequest(
                f"the request has {len(given)} cookies named {_name(scope).decode()}; remove this site's "
                "cookies in the browser, and sign in again"
            )
        found = self._tokens.read("cookie", given[0].decode("latin-1"))
        key = None if found is None else self._keys.valid(found.key_id)
        if key is None:
            raise Unauthorized(_ENDED)
        return Caller(key.owner, key.scope, key.id)

    def caller_of_sign_in(self, scope: Scope, headers: Headers) -> Caller | None:
        """Who is signed in already, if anybody, where a browser signs in or out. Raises Unauthorized when a
        stranger's page may have it do so.
        """
        self._check_sender(scope, headers)
        try:
            return self.caller(scope, headers)
        except BayError:
            return None

    def _check_sender(self, scope: Scope, headers: Headers) -> None:
        if scope["type"] == "websocket":
            if not self._is_own(headers.one("origin"), headers.one("host") or "", _scheme(scope)):
                raise Unauthorized(
                    "a sign-in's cookie opens a WebSocket only for pages of this Bay; offer a key as a subprotocol"
                )
        elif headers.one(_HEADER) != "1":
            raise Unauthorized(
                "a sign-in's cookie needs the header `Bay-Console: 1` beside it, as the console sends it; other "
                "programs send a key, in the header Authorization"
            )

    def _is_own(self, origin: str | None, host: str, scheme: str) -> bool:
        if origin is None:
            return False
        its_scheme, separator, its_host = origin.lower().partition("://")
        # A proxy may have taken the TLS away, but none adds it: a page of http is a stranger to https.
        schemes = ("https",) if scheme == "wss" else ("http", "https")
        is_here = bool(separator) and its_scheme in schemes and its_host == host.lower()
        return is_here or origin.lower() == self._origin


def cookies_named(given: Iterable[tuple[bytes, bytes]], wanted: bytes) -> list[bytes]:
    """The values of the cookies of that name, among the headers of a request."""
    lines = (value for key, value in given if key.lower() == b"cookie")
    pairs = [pair.strip().partition(b"=") for line in lines for pair in line.split(b";")]
    return [value for name, _, value in pairs if name == wanted]


def set_cookie(scope: Scope, token: str) -> str:
    """The header that has a browser keep the token; an empty one has it forget what it keeps."""
    secure = "; Secure" if _is_secure(scope) else ""
    life = LIFE_S if token else 0
    return f"{_name(scope).decode()}={token}; Path=/; Max-Age={life}; HttpOnly; SameSite=Strict{secure}"


def _name(scope: Scope) -> bytes:
    return SECURE_COOKIE if _is_secure(scope) else COOKIE


def _is_secure(scope: Scope) -> bool:
    return _scheme(scope) in ("https", "wss")


def _scheme(scope: Scope) -> str:
    return scope.get("scheme", "http")  # ASGI: a server may leave it out


def _use(kind: TokenKind) -> str:
    return f"console-{kind}"
