"""Refuses unknown input to a route: a query parameter that it does not declare, a body where it reads none.

One dependency of every route, WebSockets included, so that a new route is covered by itself. The names come
from the route's own signature.
"""

from urllib.parse import unquote_plus

from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.requests import HTTPConnection, Request
from fastapi.routing import APIRoute, APIWebSocketRoute

from bay.hints import shown, unknown

Route = APIRoute | APIWebSocketRoute

_EMPTY_BYTES = 64
"""An empty object is shorter, with any space around it.

More is not read: where files are sent a body may have gigabytes.
"""


async def only_known(connection: HTTPConnection) -> None:
    """Raises RequestValidationError for a query parameter or a body that the route does not take."""
    route: Route = connection.scope["route"]
    if query := connection.scope["query_string"]:
        _check_query(query, _names_of(route))
    if isinstance(connection, Request) and _has_body(connection) and not _reads_body(route):
        await _check_no_body(connection)


def _check_query(query: bytes, known: set[str]) -> None:
    for part in query.split(b"&"):
        name = unquote_plus(part.partition(b"=")[0].decode("latin-1"))
        if part and name not in known:
            raise refusal(("query", name), unknown("query parameter", name, known))


def _has_body(request: Request) -> bool:
    return request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers


async def _check_no_body(request: Request) -> None:
    """An empty object is no body: there are clients that send one with every POST."""
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
