"""The routes `/`, `/docs` and `/redoc`: Bay's own pages, for browsers."""

from html import escape
from typing import Annotated

from fastapi import APIRouter, Header, Request
from starlette.responses import FileResponse, HTMLResponse, Response

from bay.errors import NotFound
from bay.server.web.pages import DOCS, FILES, HEADERS, HOME, REDOC, REDOC_HEADERS, TYPES, is_for_browser

router = APIRouter(include_in_schema=False)


@router.get("/")
async def home(request: Request, accept: Annotated[str, Header()] = "") -> Response:
    """The start page, for a browser alone."""
    if not is_for_browser(accept):
        raise NotFound("there is no route GET /; see /docs")
    url = escape(str(request.base_url).rstrip("/"))
    return HTMLResponse(HOME.replace("{url}", url), headers=HEADERS)


@router.get("/docs")
async def docs() -> Response:
    """The API's document, to try."""
    return HTMLResponse(DOCS, headers=HEADERS)


@router.get("/redoc")
async def redoc() -> Response:
    """The API's document, to read."""
    return HTMLResponse(REDOC, headers=REDOC_HEADERS)


@router.get("/docs/{name}")
async def docs_file(name: str) -> Response:
    """A script or a style of theirs."""
    if name not in FILES:
        raise NotFound(f"there is no route GET /docs/{name}; see /docs")
    file = FILES[name]
    return FileResponse(file, headers=HEADERS, media_type=TYPES[file.suffix])
