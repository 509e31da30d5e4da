"""The planes of a sandbox: `envd` for its processes and files, and the interpreter of code.

To clients they are ports 49983 and 49999, on which nothing listens inside. The entrance leads a request to
`/e2b/sandboxes/{sandbox_id}/envd/…` or `…/interpreter/…`, where the routes of the planes are, and puts a
`Plane` beside it. Such a path is no secret: one that a client sends by itself is checked the same way, unless
it comes with a key of Bay, which says more than the token does.
"""

import re
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from starlette.responses import JSONResponse, Response

from bay.errors import BadRequest, BayError, NotFound, PortClosed, SandboxExpired, ShipError, Unauthorized
from bay.server.compat.e2b.tokens import SandboxTokens, Signed, TokenKind
from bay.server.web.auth import Caller, Keys
from bay.server.web.replies import headers_of
from bay.server.web.wire_format import Headers, Scope
from bay.store.records import SandboxRecord

PREFIX = "/e2b"
PORTS = {49983: "envd", 49999: "interpreter"}
INTERPRETER = PREFIX + "/sandboxes/{sandbox_id}/interpreter"
"""The prefix of the routes of its interpreter."""

IN_STATE = "e2b.plane"
"""The name of a request's `Plane` in the scope's state."""
_SIGNED = "e2b.signed"
"""In the scope's state: the claim of a signed URL, once its signature has been checked."""
_PATH = re.compile(rf"{PREFIX}/sandboxes/([^/]+)/(envd|interpreter)(/.*)", re.DOTALL)
_MOST_FIELDS = 32
_SIGNED_NAMES = frozenset(("path", "username", "signature", "signature_expiration"))
"""The parameters of a signed URL; anything else beside them was signed by nobody."""
_MOST_DIGITS = 18
"""More of them are no time, and too long a text is no number to Python."""
MOST_KEYS = 64
"""Keys of one owner whose tokens are tried for a signature."""


class SandboxAway(ShipError):
    """The sandbox of a plane is paused, over, or never was."""

    def __init__(self) -> None:
        super().__init__("The sandbox was not found")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plane:
    """The plane that a request wants, of which sandbox, as the entrance found it."""

    kind: str
    """`envd` or `interpreter`."""
    path: str
    """The path within the plane."""
    name: str
    """The sandbox's id as the request has it."""
    sandbox: SandboxRecord | None
    """None for one that is paused, over, or never was."""
    tokens: SandboxTokens
    refusal: BayError | None = None
    """Why the entrance lets it in nowhere."""

    def caller(self, keys: Keys, scope: Scope, headers: Headers) -> Caller | None:
        """The sandbox's owner, by a token or a signature; None where none is needed."""
        if self.refusal is not None:
            raise self.refusal
        if self.sandbox is None:
            raise SandboxAway
        if self.path == "/health":
            return None
        door = _Wicket(self.sandbox, self.tokens, keys)
        given = headers.one("x-access-token")
        if self.kind == "interpreter":
            return door.by_any_token(given, headers.one("e2b-traffic-access-token"))
        if self.path == "/files":
            return door.by_file_token(given) if given is not None else _by_signature(door, scope)
        return door.by_token(given)


@dataclass(frozen=True, slots=True)
class _Wicket:
    """The ways into the planes of one sandbox. Each raises Unauthorized."""

    sandbox: SandboxRecord
    tokens: SandboxTokens
    keys: Keys

    def by_token(self, given: str | None) -> Caller:
        return _or(self._of("envd", given), "this needs the sandbox's token in the header X-Access-Token")

    def by_file_token(self, given: str) -> Caller:
        return _or(self._of("envd", given), "access token present in header but does not match")

    def by_any_token(self, access: str | None, traffic: str | None) -> Caller:
        caller = self._of("envd", access) or self._of("traffic", traffic)
        return _or(caller, "this needs the sandbox's token in E2b-Traffic-Access-Token or X-Access-Token")

    def by_signature(self, signed: Signed) -> Caller:
        of_owner = self.keys.of_owner(self.sandbox.owner)[:MOST_KEYS]
        found = self.tokens.signer(signed, self.sandbox.id, self.sandbox.owner, of_owner)
        caller = _or(found, "invalid signature")
        check_time(signed)
        return caller

    def _of(self, kind: TokenKind, token: str | None) -> Caller | None:
        caller = self.tokens.caller(kind, self.sandbox.id, token) if token else None
        is_good = caller is not None and caller.owner == self.sandbox.owner
        return caller if is_good and caller is not None and self.keys.is_valid(caller.key_id) else None


def _by_signature(door: _Wicket, scope: Scope) -> Caller:
    """Whose signature the URL has. From here on the request does what was signed, and nothing else."""
    signed = signed_of(scope)
    caller = door.by_signature(signed)
    scope.setdefault("state", {})[_SIGNED] = signed
    return caller


def _or(caller: Caller | None, message: str) -> Caller:
    if caller is None:
        raise Unauthorized(message)
    return caller


def plane_in(scope: Scope) -> Plane | None:
    """The plane of a request; None for one of the control plane."""
    return scope.get("state", {}).get(IN_STATE)


def parts_of(path: str) -> tuple[str, str, str] | None:
    """Sandbox, kind and path within the plane, of the path of a plane."""
    found = _PATH.fullmatch(path)
    return None if found is None else (found[1], found[2], found[3])


def signed_in(scope: Scope) -> Signed | None:
    """The claim that let a request in; None for one that a token or a key let in."""
    return scope.get("state", {}).get(_SIGNED)


def signed_of(scope: Scope) -> Signed:
    """The claim of a signed URL, not checked yet.

    Raises Unauthorized without a signature, and BadRequest for a query that could be read in two ways.
    """
    query = scope["query_string"]
    if query.count(b"&") >= _MOST_FIELDS:
        raise BadRequest(
            f"the query has more than {_MOST_FIELDS} parameters; send those of the signed URL alone"
        )
    text = query.decode("utf-8", "surrogateescape")
    pairs = parse_qsl(text, keep_blank_values=True, errors="surrogateescape")
    one = dict(pairs)
    if not one.get("signature"):
        raise Unauthorized("missing signature query parameter")
    if len(one) < len(pairs):
        raise BadRequest("a parameter of the signed URL is there twice; send the URL as it was signed")
    if not one.keys() <= _SIGNED_NAMES:
        raise BadRequest(
            f"a signed URL has the parameters {', '.join(sorted(_SIGNED_NAMES))} and no other; "
            "send it as it was signed"
        )
    user = one.get("username", "")
    if ":" in user:
        # Colons join the parts that are signed: with one in a user, a path could pass for an act and a user.
        raise BadRequest("username has a colon, which no user's name has")
    return Signed(
        signature=one["signature"],
        # One character may be half escaped and half not.
        path=one.get("path", "").encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape"),
        operation="write" if scope.get("method") == "POST" else "read",  # a WebSocket has none
        user=user,
        expiration=one.get("signature_expiration"),
    )


def check_time(signed: Signed) -> None:
    """Raises Unauthorized once a signature's time is over, by the wall clock, as clients know no other."""
    if signed.expiration is None:
        return
    said = signed.expiration
    is_time = said.isascii() and said.isdigit() and len(said) <= _MOST_DIGITS
    if not is_time or int(said) < time.time():
        raise Unauthorized("signature is already expired")


def error_on(plane: Plane, error: BayError) -> Response:
    """The answer for an error on a plane: all that ends a sandbox looks as one that never was."""
    is_gone = isinstance(error, SandboxAway | SandboxExpired)
    if is_gone or (type(error) is NotFound and "there is no sandbox" in error.message):
        body: dict[str, Any] = {"sandboxId": plane.name, "message": "The sandbox was not found", "code": 502}
        return JSONResponse(body, 502)
    if isinstance(error, PortClosed):
        message = "The sandbox is running but port is not open"
        return JSONResponse({"sandboxId": plane.name, "message": message, "code": 502}, 502)
    return JSONResponse({"code": error.status, "message": error.message}, error.status, headers_of(error))
