"""A route that is read by a plan answers each request as FastAPI's own reading of it does."""

from pathlib import Path
from typing import Annotated, Any, Literal

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI, Header, Query, Request
from fastapi.routing import APIRoute
from pydantic import Field
from server_harness import settings_in
from starlette.exceptions import HTTPException

from bay.server.app import FORMATS, build_app
from bay.server.web.bodies import Body
from bay.server.web.dependencies import EVERYWHERE
from bay.server.web.planned_routes import PlannedRoute
from bay.server.web.replies import WireResponse
from bay.server.web.wire_format import format_of

pytestmark = [pytest.mark.pure, pytest.mark.anyio]

PAGES = {
    "/console",
    "/console/{name:path}",
    "/docs/api",
    "/docs/api/read",
    "/docs/api/{name}",
    "/docs/{name:path}",
}
OAUTH = "/.well-known/oauth-protected-resource"
METRICS = "/v1/sandboxes/{sandbox_id}/metrics"
UNPLANNED = {OAUTH, f"{OAUTH}/mcp", "/v1/sandboxes", "/v1/audit", METRICS, "/", "/docs", "/redoc", *PAGES}
"""Those with lists or moments in their query, pages, and what clients ask for once."""


class Order(Body):
    """A body."""

    size: Annotated[int, Field(ge=1)]
    note: str | None = None


async def doubled(number: Annotated[int, Query(ge=0)] = 1) -> int:
    if number == 13:
        raise HTTPException(418, "a dependency refuses")
    return 2 * number


Doubled = Annotated[int, Depends(doubled)]


def app_of(route_class: type[APIRoute]) -> FastAPI:
    router = APIRouter(route_class=route_class, dependencies=EVERYWHERE)

    @router.get("/things/{thing}")
    async def see(
        request: Request,
        thing: int,
        double: Doubled,
        again: Doubled,
        kind: Literal["a", "b"] | None = None,
        deep: bool = False,
        key: Annotated[str | None, Header(max_length=5, alias="X-Key")] = None,
        accept_language: Annotated[str, Header()] = "none",
    ) -> WireResponse:
        return WireResponse([request.method, thing, double, again, kind, deep, key, accept_language])

    @router.post("/things/{thing}")
    async def make(
        thing: str, body: Order, wait: Annotated[float | None, Query(le=5)] = None
    ) -> WireResponse:
        return WireResponse([thing, body.model_dump(), wait], 201)

    app = FastAPI()
    app.router.routes += router.routes
    return app


REQUESTS: list[tuple[str, str, dict[str, Any]]] = [
    ("GET", "/things/7", {}),
    ("GET", "/things/7?kind=a&deep=yes&number=4", {"headers": {"x-key": "abc", "accept-language": "de"}}),
    ("GET", "/things/7?kind=a&kind=b&number=1&number=2", {}),
    ("GET", "/things/seven", {}),
    ("GET", "/things/7?kind=c&number=-1&deep=maybe", {"headers": {"x-key": "abcdef"}}),
    ("GET", "/things/7?kind=&number=", {}),
    ("GET", "/things/7?unknown=1&kind=c", {}),
    ("GET", "/things/7?number=13&kind=c", {}),
    ("GET", "/things/7?number=13", {}),
    ("GET", "/things/7", {"content": b"{}"}),
    ("GET", "/things/7?kind=c", {"content": b"{}"}),
    ("GET", "/things/7?kind=c", {"content": b"more than nothing"}),
    ("POST", "/things/x", {"json": {"size": 3}}),
    ("POST", "/things/x?wait=2", {"json": {"size": 3, "note": "n"}}),
    ("POST", "/things/x?wait=6", {"json": {"size": 0}}),
    ("POST", "/things/x", {"json": {"size": 3, "other": 1}}),
    ("POST", "/things/x", {"json": [1]}),
    ("POST", "/things/x", {"json": None}),
    ("POST", "/things/x", {}),
    ("POST", "/things/x", {"content": b'{"size": 3}'}),
    ("POST", "/things/x", {"content": b'{"size": 3}', "headers": {"content-type": "text/plain"}}),
    ("POST", "/things/x", {"content": b'{"size": 3}', "headers": {"content-type": "application/x+json"}}),
    ("POST", "/things/x", {"content": b'{"size": 3', "headers": {"content-type": "application/json"}}),
    ("POST", "/things/x", {"content": b'{"size": \xff}', "headers": {"content-type": "application/json"}}),
    ("POST", "/things/x?odd=1", {"content": b"{", "headers": {"content-type": "application/json"}}),
    ("POST", "/things/x", {"content": b"[" * 100_000, "headers": {"content-type": "application/json"}}),
]


@pytest.mark.parametrize(("method", "url", "options"), REQUESTS)
async def test_a_request_is_answered_as_by_fastapi(method: str, url: str, options: dict[str, Any]) -> None:
    answers: list[tuple[int, bytes, list[tuple[str, str]]]] = []
    for route_class in (PlannedRoute, APIRoute):
        transport = httpx.ASGITransport(app_of(route_class), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            answer = await client.request(method, url, **options)
            answers.append((answer.status_code, answer.content, answer.headers.multi_items()))
    assert answers[0] == answers[1]


def test_both_describe_the_same_api() -> None:
    assert app_of(PlannedRoute).openapi() == app_of(APIRoute).openapi()


def test_nearly_every_route_of_bay_has_a_plan(tmp_path: Path) -> None:
    app = build_app(settings_in(tmp_path))
    routes = [
        route
        for route in app.routes
        if isinstance(route, APIRoute) and format_of(FORMATS, route.path) is None
    ]
    unplanned = {route.path for route in routes if not is_planned(route)}
    assert unplanned <= UNPLANNED
    assert len(routes) > 100


def is_planned(route: APIRoute) -> bool:
    return route.get_route_handler().__qualname__.startswith(PlannedRoute.__qualname__)
