"""Bay's own pages for browsers: the start page, and the API's documents, where an operator may try a key.

All of it comes from this host: the package `fastapi-offline` has Swagger UI and Redoc. The framework's own
pages load the version of the day from a content network, at the origin where keys are typed.
"""

from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Header, Request
from starlette.responses import FileResponse, HTMLResponse, Response

from bay.errors import NotFound
from bay.server.web.dependencies import EVERYWHERE

_RELEASED = Path(str(files("fastapi_offline"))) / "static"
_OWN = Path(__file__).with_name("static")

FILES = {
    "swagger-ui.css": _RELEASED / "swagger-ui.css",
    "swagger-ui-bundle.js": _RELEASED / "swagger-ui-bundle.js",
    "redoc.standalone.js": _RELEASED / "redoc.standalone.js",
    "favicon.png": _RELEASED / "favicon.png",
    "docs.js": _OWN / "docs.js",
    "redoc.js": _OWN / "redoc.js",
    "page.css": _OWN / "page.css",
}
"""By their names below `/docs/`."""

TYPES = {".css": "text/css", ".js": "text/javascript", ".png": "image/png"}

PATHS = frozenset(("/docs", "/redoc", *(f"/docs/{name}" for name in FILES)))
"""Open to everybody."""

_POLICY = "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
REDOC_HEADERS = {**HEADERS, "Content-Security-Policy": f"{_POLICY}; style-src 'self' 'unsafe-inline'"}
"""Redoc puts its styles into the page as it runs. The page takes no key."""

_HEAD = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="/docs/favicon.png">
"""

DOCS = (
    _HEAD
    + """<title>Bay: the API</title>
<link rel="stylesheet" href="/docs/swagger-ui.css">
<div id="page"></div>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/docs.js"></script>
</html>
"""
)

REDOC = (
    _HEAD
    + """<title>Bay: the API</title>
<div id="page"></div>
<script src="/docs/redoc.standalone.js"></script>
<script src="/docs/redoc.js"></script>
</html>
"""
)

HOME = (
    _HEAD
    + """<title>Bay</title>
<link rel="stylesheet" href="/docs/page.css">
<h1>Bay</h1>
<p>This server runs sandboxes for programs. It is used by its command line, its SDK and its HTTP API, each with a key.</p>
<ul>
<li><a href="/docs">The API, to look at and to try</a>: put your key in by “Authorize”</li>
<li><a href="/redoc">The API, to read</a></li>
<li><a href="/openapi.json">The API as an OpenAPI document</a></li>
</ul>
<p>In a shell, with the key that <code>bay serve</code> showed at its first start, or that an operator gave you:</p>
<pre>export BAY_URL={url}
export BAY_API_KEY=…
bay run -- python3 -c 'print(6 * 7)'</pre>
<p>By HTTP a key goes into the header <code>Authorization: Bearer …</code>. The operator finds the first one in <code>admin.key</code> in Bay's data directory.</p>
</html>
"""
)
"""`{url}` is where the browser reached this."""


def is_for_browser(accept: str) -> bool:
    """Whether an Accept header asks for a page."""
    return "text/html" in accept.lower()


router = APIRouter(include_in_schema=False, dependencies=EVERYWHERE)


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
