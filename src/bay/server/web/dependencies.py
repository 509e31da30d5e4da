"""Parts that routes share: their router, the service they call, the caller, and the pages of lists."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import unquote_plus

from fastapi import APIRouter, Depends, Header, Query, Request, Security
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.requests import HTTPConnection
from fastapi.routing import APIRoute, APIWebSocketRoute
from fastapi.security import HTTPBearer
from pydantic import Field, StringConstraints

from bay.hints import shown, unknown
from bay.models import KeyScope
from bay.server.web.auth import Caller
from bay.server.web.bodies import DURATION, MAX_USER, Most
from bay.server.web.planned_routes import PlannedRoute
from bay.server.web.replies import ErrorBody, WireResponse
from bay.server.web.sealing import Cursors
from bay.store.records import Page

ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorBody, "description": "The request cannot be served as it is"},
    "5XX": {"model": ErrorBody, "description": "Bay or its host could not do it"},
}
MAX_WAIT_S = 600

EnvName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")]
EnvValue = Annotated[str, StringConstraints(max_length=32768, pattern=r"^[^\x00]*$")]
Env = Annotated[dict[EnvName, EnvValue], Most(256)]
Word = Annotated[str, StringConstraints(max_length=128 * 1024, pattern=r"^[^\x00]*$")]
Cwd = Annotated[
    str | None, Field(max_length=4096, description="Absolute, relative to /workspace, or below `~`")
]
User = Annotated[
    str | None, Field(max_length=MAX_USER, description="A user of the sandbox; default: its own")
]


# Dependencies are `async`, so that FastAPI calls them on the event loop and not through its thread pool.


def service(kind: type[Any]) -> Any:
    """A dependency on the application's one object of a class: `Annotated[Execs, service(Execs)]`."""

    async def find(connection: HTTPConnection) -> Any:
        return connection.app.state.services[kind]

    return Depends(find)


# The edge has authenticated already; this names the scheme in the OpenAPI document.
_bearer = Security(HTTPBearer(auto_error=False, description="An API key"))


def _caller_with(scope: KeyScope) -> Callable[..., Awaitable[Caller]]:
    async def caller(request: Request, _scheme: Annotated[Any, _bearer]) -> Caller:
        known: Caller = request.state.caller
        known.require(scope)
        return known

    return caller


async def _socket_writer(connection: HTTPConnection) -> Caller:
    known: Caller = connection.state.caller
    known.require("write")
    return known


async def _socket_reader(connection: HTTPConnection) -> Caller:
    known: Caller = connection.state.caller
    known.require("read")
    return known


Reader = Annotated[Caller, Depends(_caller_with("read"))]
Writer = Annotated[Caller, Depends(_caller_with("write"))]
Admin = Annotated[Caller, Depends(_caller_with("admin"))]
SocketReader = Annotated[Caller, Depends(_socket_reader)]
SocketWriter = Annotated[Caller, Depends(_socket_writer)]
IdempotencyKey = Annotated[
    str | None, Header(description="A repeated call with this key returns the first one's answer")
]
Wait = Annotated[
    float | None,
    Query(ge=0, le=MAX_WAIT_S, description="Answer after the change, or after this many seconds"),
    DURATION,
]
Limit = Annotated[int, Query(ge=1, le=200, description="Most items to return")]
Accept = Annotated[str, Header(include_in_schema=False)]
Cursor = Annotated[str | None, Query(max_length=256, description="`next_cursor` of the page before")]


@dataclass(frozen=True, slots=True)
class ListPage:
    """The page of a list that a request asks for by its cursor."""

    after: int
    """The row after which the page begins; 0 without a cursor."""
    owner: str
    cursors: Cursors

    def reply(self, page: Page[Any]) -> dict[str, Any]:
        """The body that every list answers with."""
        cursor = self.cursors.of_row(self.owner, page.next_cursor)
        return {"items": page.items, "has_more": cursor is not None, "next_cursor": cursor}


async def _list_page(
    caller: Reader, cursors: Annotated[Cursors, service(Cursors)], cursor: Cursor = None
) -> ListPage:
    return ListPage(after=cursors.row(caller.owner, cursor), owner=caller.owner, cursors=cursors)


Paging = Annotated[ListPage, Depends(_list_page)]


Route = APIRoute | APIWebSocketRoute

_EMPTY_BYTES = 64
"""An empty object is shorter, with any space around it. More is not read: where files are sent a body may
have gigabytes.
"""


_CHECKED = "bay.no_body"
"""In the scope of a request whose body was looked at."""


async def only_known(connection: HTTPConnection) -> None:
    """Every route's check: RequestValidationError for a query parameter or body not in its signature."""
    route: Route = connection.scope["route"]
    if query := connection.scope["query_string"]:
        _check_query(query, _names_of(route))
    if isinstance(connection, Request) and _has_body(connection) and not _reads_body(route):
        await _check_no_body(connection)


EVERYWHERE = [Depends(only_known)]
"""The dependencies of every route."""


def noun_router(tag: str | None = None, prefix: str = "") -> APIRouter:
    """A router whose answers are written as Bay writes them, and that declares the one shape of errors."""
    return APIRouter(
        prefix=prefix,
        tags=[tag] if tag else None,
        responses=ERRORS,
        default_response_class=WireResponse,
        dependencies=EVERYWHERE,
        route_class=PlannedRoute,
    )


def _check_query(query: bytes, known: set[str]) -> None:
    for part in query.split(b"&"):
        name = unquote_plus(part.partition(b"=")[0].decode("latin-1"))
        if part and name not in known:
            raise refusal(("query", name), unknown("query parameter", name, known))


def _has_body(request: Request) -> bool:
    return request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers


async def _check_no_body(request: Request) -> None:
    """An empty object is no body: there are clients that send one with every POST."""
    if _CHECKED in request.scope:  # before FastAPI had to read what no plan could; a body comes but once
        return
    request.scope[_CHECKED] = True
    body = b""
    async for piece in request.stream():
        body += piece[: _EMPTY_BYTES + 1]
        if len(body) > _EMPTY_BYTES:
            break
    if len(body) > _EMPTY_BYTES or body.strip() not in (b"", b"{}", b"null"):
        raise refusal(("body",), f"{request.method} {request.url.path} takes no body; leave it out")


def refusal(place: tuple[str, ...], message: str) -> RequestValidationError:
    """The error for something at `place` that a call does not take."""
    return RequestValidationError(
        [{"type": "extra_forbidden", "loc": tuple(map(shown, place)), "msg": message}]
    )


_FOUND: dict[object, set[str]] = {}
"""The names of each route that was asked, by its function. Every request with a query needs them."""


def _names_of(route: Route) -> set[str]:
    if route.endpoint not in _FOUND:
        _FOUND[route.endpoint] = _names(route.dependant)
    return _FOUND[route.endpoint]


def _names(dependant: Dependant) -> set[str]:
    own = {field.alias for field in dependant.query_params}
    return own.union(*(_names(below) for below in dependant.dependencies))


def _reads_body(route: Route) -> bool:
    """Whether the route takes a body: parsed by FastAPI, or raw and declared in its OpenAPI operation."""
    if isinstance(route, APIWebSocketRoute):
        return True
    return route.body_field is not None or "requestBody" in (route.openapi_extra or {})
