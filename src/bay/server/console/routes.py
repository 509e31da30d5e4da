"""The routes `/v1/console`: browsers sign in and out, and clients get codes for them."""

from typing import Annotated

from fastapi import Request, Response
from pydantic import Field

from bay.models import ConsoleCode, SignIn
from bay.server.console.service import BrowserSignIn, Console
from bay.server.web.bodies import Body
from bay.server.web.console_cookie import set_cookie
from bay.server.web.dependencies import Reader, noun_router, service
from bay.server.web.edge import BY_COOKIE
from bay.server.web.replies import WireResponse

router = noun_router("console", "/v1/console")

ConsoleDep = Annotated[Console, service(Console)]

_PRIVATE = {"Cache-Control": "no-store"}


class Proof(Body):
    """A key, or a one-time code: exactly one."""

    key: Annotated[str | None, Field(min_length=1, max_length=1024)] = None
    code: Annotated[str | None, Field(min_length=1, max_length=1024)] = None


@router.post("/sign_in", status_code=201, response_model=SignIn)
async def sign_in(request: Request, console: ConsoleDep, body: Proof) -> WireResponse:
    """Sign this browser in: it gets a cookie, which counts with the header `Bay-Console: 1` alone."""
    return _answer(request, await console.sign_in(secret=body.key, code=body.code), 201)


@router.get("/sign_in", response_model=SignIn)
async def get_sign_in(request: Request, caller: Reader, console: ConsoleDep) -> WireResponse:
    """Who you are. A caller by cookie gets a new one."""
    return _answer(request, console.look(caller, renew=BY_COOKIE in request.scope["state"]))


@router.delete("/sign_in", status_code=204)
async def sign_out(request: Request) -> Response:
    """Remove the cookie, also one that has ended."""
    return Response(status_code=204, headers={**_PRIVATE, "Set-Cookie": set_cookie(request.scope, "")})


@router.post("/codes", status_code=201, response_model=ConsoleCode)
async def create_code(request: Request, caller: Reader, console: ConsoleDep) -> WireResponse:
    """A code that signs one browser in as you, once, for 60 seconds; and the URL with it."""
    reached_at = str(request.base_url).rstrip("/")
    return WireResponse(console.make_code(caller, reached_at), 201, _PRIVATE)


def _answer(request: Request, found: BrowserSignIn, status: int = 200) -> WireResponse:
    answer = WireResponse(found.shown, status, _PRIVATE)
    if found.token is not None:
        answer.headers["Set-Cookie"] = set_cookie(request.scope, found.token)
    return answer
