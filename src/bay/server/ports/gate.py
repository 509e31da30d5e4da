"""The port gate authorizes requests to the ports of sandboxes, by host name and below Bay's own paths.

By host name: in front of all else, by the Host header. A key of the sandbox's owner opens every port, and a
public port needs none. A browser opens a signed link, `/.bay/open?token=`, which sets a cookie for that host
alone. A page of another host can have the browser send it along, so a request with one must come from the
host's own pages, or be a user's click: sandboxes of one domain are one site to a browser, so `SameSite` is
not enough. A frame is let in too, with a policy by which the browser shows it in the console alone.

By path, `/v1/sandboxes/{id}/ports/{port}/`: behind the edge, which has checked the key. A browser that shows
an app there shows it as a page of no origin (see `headers`).
"""

import re
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import ip_address
from typing import Literal, Protocol
from urllib.parse import parse_qsl, quote, urlsplit

import structlog
from starlette.responses import Response

from bay.errors import (
    BadRequest,
    BayError,
    Forbidden,
    InternalError,
    InvalidArgument,
    MethodNotAllowed,
    NotFound,
    Unauthorized,
)
from bay.meters import Meters
from bay.models import PortSettings
from bay.server.ports.error_pages import GuestRefusal, error_page
from bay.server.ports.headers import COOKIE, SECURE_COOKIE, Seen
from bay.server.ports.host_index import PortSites
from bay.server.ports.links import Pass, PortTokens
from bay.server.ports.proxy import PortProxy, Visit
from bay.server.sessions.waker import Waker
from bay.server.web.audit import READING
from bay.server.web.auth import Caller, Keys
from bay.server.web.console_cookie import cookies_named
from bay.server.web.edge import (
    App,
    Message,
    Receive,
    RequestHeaders,
    Scope,
    Send,
    bearer_of,
    belongs_to,
    check_framing,
    request_id_of,
)
from bay.server.web.replies import AnswerCut
from bay.server.web.request_meter import TEMPLATE
from bay.store.records import SandboxRecord

log = structlog.get_logger("bay.ports")

_OWN_PATHS = "/.bay/"
OPEN_PATH = "/.bay/open"
_LONGEST_TO = 2048
_MAX_COOKIES = 16
"""Of one name: others than Bay's own come from pages that had the browser set them."""
_TARGET = re.compile(rb"/[\x21-\x7e]*")
_TO_STRANGERS = {
    429: "there are too many visitors; try again in a moment",
    502: "nothing answers here now",
    503: "this is not there yet; try again in a moment",
    504: "this takes too long to answer",
}
_BELOW = re.compile(rb"(/v1/sandboxes/([A-Za-z0-9-]{1,64})/ports/([0-9]{1,5}))(/.*)", re.DOTALL)
_BELOW_TEMPLATE = "/v1/sandboxes/{sandbox_id}/ports/{port}/{path}"
_STRANGER = "this is open to its owner alone, or is not there; open it by a link (`bay url NAME PORT --once`), or send the key"


_HOST = re.compile(r"([a-z0-9](?:[a-z0-9._-]{0,253}[a-z0-9])?|\[[0-9a-f:.]{2,45}\])(?::([0-9]{1,5}))?")
_PORT_LABEL = re.compile(r"([1-9][0-9]{0,4})-(.+)")
_LIKE_A_PORT = re.compile(r"[0-9]+-")
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_LONGEST_NAME = 63 - len("65535-")
"""A DNS label has 63 characters."""

LOCAL = "localhost"

PLACED = "bay.placed"
"""In the state of a request that an entrance in front has led somewhere, whatever its host: `bay`, or the
`PortHost` that headers named.
"""

_RESERVED = frozenset(("api",))
"""Labels of hosts that are Bay's own, which no sandbox gets by its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PortHost:
    """A sandbox, by its id or host, and a port; None is that of its `url` setting.
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
    """Reads and makes hosts: `{port}-{sandbox}.<domain>` is a port, `{sandbox}.<domain>` the `url` setting.

    The domain is the host of `public_url`, and `localhost` always, with the port of `public_url` if that is
    on this machine. A sandbox is called by its id, or by its `host`, its name if no other had taken it first.
    So one host is one sandbox for every caller, and a browser's data of a host never meets another's app. Any
    other host with a dot in it is refused: a stranger's domain that comes to point here (DNS rebinding) would
    speak to it as to itself. Bay listens on `listen_host`, and on `port` once that is known.
    """

    def __init__(self, public_url: str | None, listen_host: str, port: int) -> None:
        self._listen_host = listen_host.lower()
        self.port = port
        self._public, self._public_scheme, self._public_port = _parts(public_url)
        self._domains: dict[str, Literal["http", "https"]] = {LOCAL: "http"}
        if self._public is not None and not _is_address(self._public):
            self._domains[self._public] = self._public_scheme
        # A balancer, or a port that was passed on, of this machine; a browser elsewhere has no use of it.
        self._is_public_here = self._public_scheme == "http" and _is_loopback(self._public)

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
        """The URL of a sandbox's port, with a slash at the end; without one that of its `url` setting."""
        label = sandbox if port is None else f"{port}-{sandbox}"
        if self._public in self._domains and self._public != LOCAL:
            return f"{self._public_scheme}://{label}.{self._public}{self._public_port}/"
        return f"http://{label}.{self._local}/"

    @property
    def own_url(self) -> str:
        """Where Bay reaches itself."""
        any_address = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 — a key of the table
        host = any_address.get(self._listen_host, self._listen_host)
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    @property
    def public_origin(self) -> str | None:
        """The origin of `public_url`, as browsers name it; None where that is not set."""
        if self._public is None:
            return None
        default = {"http": ":80", "https": ":443"}[self._public_scheme]
        port = "" if self._public_port == default else self._public_port
        host = f"[{self._public}]" if ":" in self._public else self._public
        return f"{self._public_scheme}://{host}{port}"

    @property
    def domain(self) -> str:
        """The domain of the hosts of ports, with its port unless it is the scheme's own."""
        if self._public in self._domains and self._public != LOCAL:
            return f"{self._public}{self._public_port}"
        return self._local

    @property
    def _local(self) -> str:
        return f"{LOCAL}{self._public_port}" if self._is_public_here else f"{LOCAL}:{self.port}"

    @property
    def consoles(self) -> str:
        """The origins at which a browser may have the console, as sources in a Content-Security-Policy."""
        local = self._local.removeprefix(LOCAL)
        found = (self.public_origin, f"http://{LOCAL}{local}", f"http://127.0.0.1{local}")
        return " ".join(dict.fromkeys(origin for origin in found if origin is not None))

    @property
    def previews(self) -> str:
        """All hosts of ports that `url` names, as a source in a Content-Security-Policy."""
        is_public = self._public in self._domains and self._public != LOCAL
        return f"{self._public_scheme if is_public else 'http'}://*.{self.domain}"

    def is_beside(self, other: PortHost, place: PortHost) -> bool:
        """Whether both have one server: another port of the same host name may be a foreign server."""
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
    """The host for a sandbox of that name; none for one that is too long, Bay's, or like one with a port."""
    if name is None or name in _RESERVED or len(name) > _LONGEST_NAME or _LIKE_A_PORT.match(name):
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


def _is_loopback(name: str | None) -> bool:
    return name == LOCAL or (name is not None and _is_address(name) and ip_address(name).is_loopback)


@dataclass(frozen=True, slots=True)
class _Target:
    """The port that a host name leads to, and who may reach it."""

    record: SandboxRecord
    port: int
    is_public: bool


class PortGuests(Protocol):
    """Who else may enter, by a foreign format."""

    def are_welcome(self, record: SandboxRecord) -> bool:
        """Whether strangers may use the sandbox's ports that have no setting of their own."""
        ...

    def key_of(self, record: SandboxRecord, headers: RequestHeaders) -> str | None:
        """The valid key behind a token of that format in the request; None without one."""
        ...

    async def wake(self, record: SandboxRecord) -> None:
        """Have a sandbox that a guest was let in to run, if the format has a way of its own for that."""
        ...

    def refusal(self, place: PortHost, record: SandboxRecord | None, error: BayError) -> GuestRefusal | None:
        """The refusal of a client without a key of Bay, for an error at the host by which that sandbox was
        found; None where Bay's own words serve.
        """
        ...


class PortGate:
    """Wraps everything: a request to a port's host name never gets to the API."""

    def __init__(
        self,
        app: App,
        *,
        hosts: PortHosts,
        sites: PortSites,
        tokens: PortTokens,
        keys: Keys,
        proxy: PortProxy,
        guests: PortGuests,
        meters: Meters,
    ) -> None:
        self._app = app
        self._meters = meters
        self._guests = guests
        self._hosts = hosts
        self._sites = sites
        self._tokens = tokens
        self._keys = keys
        self._proxy = proxy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        place = self._place_of(scope) if scope["type"] in ("http", "websocket") else "bay"
        if place == "bay":
            await self._app(scope, receive, send)
        else:
            await self._answer(place, scope, receive, send)

    def _place_of(self, scope: Scope) -> PortHost | Literal["bay"] | None:
        if (placed := scope.get("state", {}).get(PLACED)) is not None:
            return placed
        named = RequestHeaders(scope).all("host")
        return self._hosts.look(named[0]) if len(named) == 1 else "bay"  # whose edge refuses none and many

    async def _answer(self, place: PortHost | None, scope: Scope, receive: Receive, send: Send) -> None:
        headers = RequestHeaders(scope)
        request_id = request_id_of(headers)
        answer = _GateAnswer(send)
        try:
            check_framing(scope, headers)
            if place is None:
                raise BadRequest(
                    "this Bay does not serve that host; use its IP address, localhost, or the host of "
                    "public_url (BAY_PUBLIC_URL)"
                )
            await self._serve(place, headers, scope, receive, answer)
        except BayError as error:
            self._meters.errors.labels(error.code).inc()
            await _fail(error, request_id, headers, scope, receive, answer)
        except Exception:
            log.exception("port.defect", request_id=request_id, host=place and place.host)
            error = InternalError("Bay failed on an internal error; see its log")
            self._meters.errors.labels(error.code).inc()
            await _fail(error, request_id, headers, scope, receive, answer)

    async def _serve(
        self, place: PortHost, headers: RequestHeaders, scope: Scope, receive: Receive, send: Send
    ) -> None:
        target = await self._target(place)
        path: str = scope["path"]
        if path.startswith(_OWN_PATHS):
            await (await self._open(place, target, headers, scope))(scope, receive, send)
            return
        record = target and target.record
        try:
            visit = await self._admit(place, target, headers, scope)
        except Unauthorized as error:
            raise self._guests.refusal(place, record, error) or error from error
        if visit.key_id is not None:
            belongs_to(scope, visit.owner)
        try:
            if record is not None and visit.with_authorization:
                await self._guests.wake(record)
            await self._proxy.serve(visit, scope, receive, send)
        except BayError as error:
            error.details.pop("listening", None)  # a link to one port reveals none of the others
            refusal = self._guests.refusal(place, record, error) if visit.with_authorization else None
            raise (refusal or (error if visit.key_id is not None else _for_strangers(error))) from error

    async def _target(self, place: PortHost) -> _Target | None:
        record = await self._sites.at(place.sandbox)
        if record is None:
            return None
        if place.port is not None and all(found.port != place.port for found in record.ports):
            return _Target(record, place.port, self._guests.are_welcome(record))
        setting = record.url if place.port is None else _setting(record, place.port)
        return _Target(record, setting.port, setting.access == "public") if setting else None

    async def _admit(
        self, place: PortHost, target: _Target | None, headers: RequestHeaders, scope: Scope
    ) -> Visit:
        """Authorizes the caller, or raises: only the owner learns whether a closed port exists."""
        caller = self._caller(headers, scope)
        owns = caller is not None and target is not None and caller.owner == target.record.owner
        if target is not None:
            if caller is not None and owns and _may(caller, scope):
                return self._visit(place, target, scope, caller, caller.key_id)
            if target.is_public:
                return self._visit(place, target, scope, caller, None)
            if (key_id := self._guests.key_of(target.record, headers)) is not None:
                return self._visit(place, target, scope, caller, key_id)
            if (given := self._by_cookie(place, target, scope)) is not None:
                await self._check_own_page(place, target.record, headers, scope)
                framed_by = self._hosts.consoles if _is_in_frame(headers, scope) else ""
                return self._visit(place, target, scope, caller, given.key_id, framed_by)
        if caller is not None and owns:
            raise Forbidden(
                f"this key has scope {caller.scope}; {_method(scope)} needs a key with scope write"
            )
        raise NotFound(_STRANGER) if caller is not None else Unauthorized(_STRANGER)

    def _caller(self, headers: RequestHeaders, scope: Scope) -> Caller | None:
        """The key's caller; None without a key, or for an Authorization that is the app's and not Bay's."""
        given = headers.one("authorization") or bearer_of(scope)
        try:
            return self._keys.authenticate(given) if given else None
        except Unauthorized:
            return None

    def _by_cookie(self, place: PortHost, target: _Target, scope: Scope) -> Pass | None:
        tokens = cookies_named(scope["headers"], _cookie(place))[:_MAX_COOKIES]
        passes = (self._tokens.read("cookie", token.decode("latin-1")) for token in tokens)
        return next((given for given in passes if given is not None and self._is_good(given, target)), None)

    def _is_good(self, given: Pass, target: _Target) -> bool:
        is_here = (given.sandbox_id, given.port) == (target.record.id, target.port)
        return is_here and self._keys.is_valid(given.key_id)

    async def _check_own_page(
        self, place: PortHost, record: SandboxRecord, headers: RequestHeaders, scope: Scope
    ) -> None:
        """Refuse what another host's page may have had the browser send. Raises Forbidden."""
        origin, site = headers.one("origin"), headers.one("sec-fetch-site")
        if origin is not None:
            is_own = await self._is_of(origin, place, record)
        elif scope["type"] == "websocket":
            is_own = False  # browsers always name the origin of one
        elif site is None:
            is_own = scope["method"] in READING
        else:
            is_own = (
                site in ("same-origin", "none") or _is_click(headers, scope) or _is_in_frame(headers, scope)
            )
        if not is_own:
            raise Forbidden(
                "the request came from a page of another host; send the key, or make the port public"
            )

    async def _is_of(self, origin: str, place: PortHost, record: SandboxRecord) -> bool:
        """Whether a page of that origin is the sandbox's own, of this port or of another."""
        if origin == place.origin:
            return True
        scheme, separator, host = origin.partition("://")
        other = self._hosts.look(host) if separator else None
        if (
            not isinstance(other, PortHost)
            or scheme != other.scheme
            or not self._hosts.is_beside(other, place)
        ):
            return False
        found = await self._sites.at(other.sandbox)
        return found is not None and found.id == record.id

    def _visit(
        self,
        place: PortHost,
        target: _Target,
        scope: Scope,
        caller: Caller | None,
        key_id: str | None,
        framed_by: str = "",
    ) -> Visit:
        return Visit(
            sandbox_id=target.record.id,
            owner=target.record.owner,
            port=target.port,
            key_id=key_id,
            is_shut=partial(self._is_shut, place, target) if key_id is None else None,
            seen=Seen(host=place.host, scheme=place.scheme, client=_client(scope), framed_by=framed_by),
            target=_target(_raw_path(scope), scope),
            with_authorization=caller is None,
        )

    async def _is_shut(self, place: PortHost, target: _Target) -> bool:
        """Whether a public port was closed to strangers. By the sandbox's id: its name may have changed."""
        now = await self._target(replace(place, sandbox=target.record.id))
        return now is None or not now.is_public or now.port != target.port

    async def _open(
        self, place: PortHost, target: _Target | None, headers: RequestHeaders, scope: Scope
    ) -> Response:
        """Take a link, give a cookie, and lead to where the link says."""
        if scope["type"] != "http" or scope["path"] != OPEN_PATH or PLACED in scope.get("state", {}):
            raise NotFound("paths below /.bay/ are Bay's, not the app's")
        if scope["method"] != "GET":
            raise MethodNotAllowed("a link must be opened with GET")
        query = dict(parse_qsl(scope["query_string"].decode("latin-1")))
        given = self._tokens.read("link", query.get("token", ""))
        to = _path_of(query.get("to", "/"))
        if target is not None and self._by_cookie(place, target, scope) is not None:
            return _redirect(to)  # opened before in this browser, such as by its `back` button
        is_good = given is not None and target is not None and self._is_good(given, target)
        if given is None or not is_good or not await self._sites.use_link(given):
            raise Unauthorized(
                "this link has expired, was opened already, or belongs to another port; get a new one"
            )
        answer = _redirect(to)
        answer.headers["Set-Cookie"] = self._cookie_for(place, given, _is_in_frame(headers, scope))
        return answer

    def _cookie_for(self, place: PortHost, given: Pass, in_frame: bool) -> str:
        name, token = _cookie(place).decode("ascii"), self._tokens.seal("cookie", given)
        age = self._sites.seconds_until(given.expires_at)
        secure = "; Secure" if place.scheme == "https" else ""
        # To browsers the hosts below `localhost` are of other sites than `localhost`, and a frame of another
        # site keeps a cookie only for pages of the site around it.
        site = "SameSite=None; Secure; Partitioned" if in_frame else f"SameSite=Lax{secure}"
        return f"{name}={token}; Path=/; Max-Age={age}; HttpOnly; {site}"


class PortPaths:
    """Stands behind the edge, and takes what is below `/v1/sandboxes/{id}/ports/{port}/`."""

    def __init__(self, app: App, *, waker: Waker, proxy: PortProxy) -> None:
        self._app = app
        self._waker = waker
        self._proxy = proxy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        below = _BELOW.fullmatch(_raw_path(scope)) if scope["type"] in ("http", "websocket") else None
        if below is None or (scope.get("method") == "POST" and below[4] == b"/links"):
            await self._app(scope, receive, send)
            return
        scope["state"][TEMPLATE] = _BELOW_TEMPLATE
        prefix, sandbox, port, rest = (part.decode("latin-1") for part in below.groups())
        if not 0 < int(port) < 65536:
            raise BadRequest(f"{port} is not a port; give a number from 1 to 65535")
        caller: Caller = scope["state"]["caller"]
        record = await self._waker.find(caller, sandbox)
        visit = Visit(
            sandbox_id=record.id,
            owner=record.owner,
            port=int(port),
            key_id=caller.key_id,
            seen=Seen(
                host=RequestHeaders(scope).one("host") or "",
                scheme=scope["scheme"].replace("ws", "http"),
                client=_client(scope),
                prefix=prefix,
            ),
            target=_target(rest.encode("latin-1"), scope),
            with_authorization=False,
        )
        await self._proxy.serve(visit, scope, receive, send)


class _GateAnswer:
    """Sends an answer on, and knows whether it has begun."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.has_begun = False

    async def __call__(self, message: Message) -> None:
        self.has_begun = True
        await self._send(message)


async def _fail(
    error: BayError,
    request_id: str,
    headers: RequestHeaders,
    scope: Scope,
    receive: Receive,
    answer: _GateAnswer,
) -> None:
    """Answer with `error`; an answer that has begun is aborted, so that no client takes it for whole."""
    if answer.has_begun:
        log.info("port.cut", request_id=request_id, code=error.code, error=error.message)
        raise AnswerCut(error.message) from error
    accept = ",".join(headers.all("accept"))
    await error_page(error, request_id, accept)(scope, receive, answer)


def _setting(record: SandboxRecord, port: int) -> PortSettings:
    return next((found for found in record.ports if found.port == port), PortSettings(port=port))


def _method(scope: Scope) -> str:
    return scope.get("method", "WEBSOCKET")


def _may(caller: Caller, scope: Scope) -> bool:
    return caller.scope != "read" or _method(scope) in READING


def _is_click(headers: RequestHeaders, scope: Scope) -> bool:
    """Whether it is a user's click on a link: its answer becomes a page that no other page can read."""
    is_page = headers.one("sec-fetch-mode") == "navigate" and headers.one("sec-fetch-dest") == "document"
    return is_page and scope["method"] in ("GET", "HEAD")


def _is_in_frame(headers: RequestHeaders, scope: Scope) -> bool:
    """Whether another host's page loads it into a frame of its own."""
    is_page = headers.one("sec-fetch-mode") == "navigate" and headers.one("sec-fetch-dest") == "iframe"
    is_other = headers.one("sec-fetch-site") in ("same-site", "cross-site")
    return is_page and is_other and scope["method"] in ("GET", "HEAD")


def _cookie(place: PortHost) -> bytes:
    return SECURE_COOKIE if place.scheme == "https" else COOKIE


def _client(scope: Scope) -> str:
    client = scope.get("client")
    return client[0] if client else ""


def _raw_path(scope: Scope) -> bytes:
    """The path as it was sent: the app decodes its escapes."""
    return scope.get("raw_path") or quote(scope["path"]).encode()


def _target(path: bytes, scope: Scope) -> bytes:
    """Path and query for the app. Raises BadRequest for what no request line may have."""
    query: bytes = scope["query_string"]
    target = path + b"?" + query if query else path
    if not _TARGET.fullmatch(target):
        raise BadRequest("the path has characters that must be percent-encoded")
    return target


def _for_strangers(error: BayError) -> BayError:
    """The error for a stranger: neither what runs in the sandbox nor why it does not."""
    return type(error)(_TO_STRANGERS.get(error.status, "this cannot be answered"))


def _path_of(to: str) -> str:
    """Where a link leads: a path of the same host, whatever it says."""
    is_path = to.startswith("/") and not to.startswith(("//", "/\\", _OWN_PATHS)) and len(to) <= _LONGEST_TO
    return quote(to, safe="/?#[]@!$&'()*+,;=:%~") if is_path else "/"


def _redirect(to: str) -> Response:
    return Response(
        status_code=303,
        headers={"Location": to, "Cache-Control": "no-store", "Referrer-Policy": "no-referrer"},
    )
