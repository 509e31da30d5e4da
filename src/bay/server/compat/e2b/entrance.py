"""The entrance leads requests that name a sandbox to its planes, and those of `api.<domain>` to the API.

A client names a sandbox by the headers `E2b-Sandbox-Id` and `E2b-Sandbox-Port`, which hold where the host is
Bay's own, or by the host `{port}-{sandbox}.<domain>`, as for any port. Headers may name any port: the gate of
ports has the rest of them, by the rules of hosts. Of a host and headers that say two things none is taken.
Whatever a request says, the edge behind this checks its token against the sandbox of the path that it was led
to, so the entrance itself lets nobody in.
"""

import re
from dataclasses import dataclass, replace
from urllib.parse import quote

from bay.clock import Clock
from bay.errors import BadRequest, BayError, Unauthorized
from bay.ids import is_id_of
from bay.server.compat.e2b.planes import IN_STATE, PORTS, PREFIX, Plane, parts_of, signed_of
from bay.server.compat.e2b.sandbox_service import E2bSandboxes
from bay.server.compat.e2b.sandbox_words import options_of, resumed_for
from bay.server.compat.e2b.signatures import SignatureSearch
from bay.server.compat.e2b.tokens import SandboxTokens
from bay.server.ports.gate import PLACED, PortHost, PortHosts
from bay.server.ports.host_index import PortSites
from bay.server.web.auth import Keys
from bay.server.web.edge import App, Message, Receive, RequestHeaders, Scope, Send

_PORT = re.compile("[1-9][0-9]{0,4}", re.ASCII)
_CACHING = re.compile(rb"cache-control|surrogate-control|expires", re.IGNORECASE)
API_LABEL = "api"
"""The label of the host of the API, which no sandbox's host may be."""


@dataclass(frozen=True, slots=True)
class _Named:
    """The sandbox and the plane that a request names; the kind of any other port is its number."""

    sandbox: str
    kind: str | int


class Entrance:
    """Stands in front of the port gate."""

    def __init__(
        self,
        app: App,
        *,
        hosts: PortHosts,
        sites: PortSites,
        tokens: SandboxTokens,
        keys: Keys,
        e2b: E2bSandboxes,
        clock: Clock,
    ) -> None:
        self._app = app
        self._hosts = hosts
        self._sites = sites
        self._tokens = tokens
        self._keys = keys
        self._e2b = e2b
        self._search = SignatureSearch(store=sites.core.store, keys=keys, tokens=tokens)
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            scope = await self._led(scope)
        if PLACED in scope.get("state", {}):
            send = _kept_by_nobody(send)
        await self._app(scope, receive, send)

    async def _led(self, scope: Scope) -> Scope:
        """The request as it goes on: at another path if it names a sandbox."""
        refusal: BayError | None = None
        try:
            named = self._named(scope) or await self._by_signature(scope)
        except BayError as error:
            named, refusal = _Named("none", "envd"), error
        if isinstance(named, _Named) and isinstance(named.kind, int):
            return _placed(scope, named.sandbox, named.kind)
        if isinstance(named, _Named):
            scope = _moved(scope, f"{PREFIX}/sandboxes/{named.sandbox}/{named.kind}")
        elif named == API_LABEL:
            scope = _moved(scope, PREFIX)
        elif RequestHeaders(scope).all("x-api-key"):
            return scope  # at a path of a plane that was sent as it is, a key of Bay speaks for itself
        if (parts := parts_of(scope["path"])) is not None:
            sandbox, kind, path = parts
            plane = Plane(
                kind=kind, path=path, name=sandbox, sandbox=None, tokens=self._tokens, refusal=refusal
            )
            if refusal is None:
                plane = await self._with_sandbox(plane, scope)
            scope.setdefault("state", {})[IN_STATE] = plane
        return scope

    async def _by_signature(self, scope: Scope) -> _Named | None:
        """The sandbox of a signed URL at the root of Bay's own host. Raises Unauthorized for no one's."""
        if scope["type"] != "http" or scope["path"] != "/files" or b"signature=" not in scope["query_string"]:
            return None
        hosts = RequestHeaders(scope).all("host")
        if len(hosts) != 1 or self._hosts.look(hosts[0]) != "bay":
            return None
        sandbox = await self._search.sandbox_of(signed_of(scope))
        if sandbox is None:
            raise Unauthorized("invalid signature")
        return _Named(sandbox, "envd")

    async def _with_sandbox(self, plane: Plane, scope: Scope) -> Plane:
        """The plane with its sandbox, if calls may reach it, of any owner."""
        record = await self._sites.at(plane.name)
        if record is None or record.id != plane.name or record.is_expired(self._clock()):
            return plane
        there = replace(plane, sandbox=record)
        if record.paused_at is None and not record.is_over(self._clock()):
            return there
        options = options_of(record.labels)
        return await self._resumed(there, scope, resumed_for(options)) if options.resume else plane

    async def _resumed(self, plane: Plane, scope: Scope, timeout: int) -> Plane:
        """A paused sandbox that any request wakes which carries its token."""
        try:
            caller = plane.caller(self._keys, scope, RequestHeaders(scope))
            if caller is None:  # it asks whether it runs
                return replace(plane, sandbox=None)
            await self._e2b.connect(caller, plane.name, timeout)
        except BayError as error:
            return replace(plane, refusal=error)
        return plane

    def _named(self, scope: Scope) -> _Named | str | None:
        headers = RequestHeaders(scope)
        hosts = headers.all("host")
        place = self._hosts.look(hosts[0]) if len(hosts) == 1 else None
        if isinstance(place, PortHost):
            return self._by_host(place, headers)
        return _by_headers(headers) if place == "bay" else None

    def _by_host(self, place: PortHost, headers: RequestHeaders) -> _Named | str | None:
        if place.port is None:
            return API_LABEL if place.sandbox == API_LABEL else None
        kind = PORTS.get(place.port)
        if kind is None:
            return None
        said = _by_headers(headers)
        if said is not None and said != _Named(place.sandbox, kind):
            raise BadRequest("the host names one sandbox and E2b-Sandbox-Id another; send the same in both")
        return _Named(place.sandbox, kind)


def _by_headers(headers: RequestHeaders) -> _Named | None:
    """The port that the two headers name. Raises BadRequest for one that came twice, or is no port."""
    sandbox, port = headers.one("e2b-sandbox-id"), headers.one("e2b-sandbox-port")
    if sandbox is None or port is None:
        return None
    if not _PORT.fullmatch(port) or int(port) > 65535:
        raise BadRequest(
            f"E2b-Sandbox-Port is {port[:16]!r}, which is no port; give a number from 1 to 65535"
        )
    if not is_id_of("sandbox", sandbox):
        # Any other text is no sandbox, and has no part in the path that is made of it.
        return _Named("none", "envd")
    return _Named(sandbox, PORTS.get(int(port), int(port)))


def _placed(scope: Scope, sandbox: str, port: int) -> Scope:
    """The request as the gate takes it for that port."""
    host = RequestHeaders(scope).one("host") or ""
    scheme = "https" if scope["scheme"] in ("https", "wss") else "http"
    place = PortHost(sandbox=sandbox, port=port, scheme=scheme, host=host)
    scope.setdefault("state", {})[PLACED] = place
    return scope


def _kept_by_nobody(send: Send) -> Send:
    """Sends answers that no cache keeps. To one in front, which knows URLs alone, an app's answer would be
    Bay's own page, and a file of one sandbox that of another.
    """

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            others = [pair for pair in message.get("headers", ()) if not _CACHING.search(pair[0])]
            message = {**message, "headers": [*others, (b"cache-control", b"no-store")]}
        await send(message)

    return sent


def _moved(scope: Scope, prefix: str) -> Scope:
    """The request at its path below `prefix`. A base URL that ends with a slash gives two of them."""
    raw: bytes = scope.get("raw_path") or quote(scope["path"]).encode()
    state = scope.setdefault("state", {})
    state[PLACED] = "bay"
    return {
        **scope,
        "path": f"{prefix}/{scope['path'].lstrip('/')}",
        "raw_path": prefix.encode() + b"/" + raw.lstrip(b"/"),
    }
