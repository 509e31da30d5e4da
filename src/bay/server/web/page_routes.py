"""Bay's own pages for browsers: the console, the documentation, and the API's documents, where an operator
may try a key. None of them has a secret in it, so they are open to everybody.

All of it comes from this host: the package `fastapi-offline` has Swagger UI and Redoc. The framework's own
pages load the version of the day from a content network, at the origin where keys are typed.
"""

from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Header, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from bay.errors import NotFound
from bay.server.web.console_page import ASSETS, ConsolePage
from bay.server.web.dependencies import EVERYWHERE
from bay.server.web.static_site import StaticSite, file_answer

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
"""By their names below `/docs/api/`."""

PATHS = frozenset(("/docs", "/redoc", "/console"))
BELOW = ("/docs/", "/console/")
"""Open to everybody, and with all that is below."""

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
<link rel="icon" href="/docs/api/favicon.png">
"""

API = (
    _HEAD
    + """<title>Bay: the API</title>
<link rel="stylesheet" href="/docs/api/swagger-ui.css">
<div id="page"></div>
<script src="/docs/api/swagger-ui-bundle.js"></script>
<script src="/docs/api/docs.js"></script>
</html>
"""
)

REDOC = (
    _HEAD
    + """<title>Bay: the API</title>
<div id="page"></div>
<script src="/docs/api/redoc.standalone.js"></script>
<script src="/docs/api/redoc.js"></script>
</html>
"""
)

HOME = (
    _HEAD
    + """<title>Bay</title>
<link rel="stylesheet" href="/docs/api/page.css">
<h1>Bay</h1>
<p>This server runs sandboxes for programs. It is used by its command line, its SDK and its HTTP API, each with a key.</p>
<p>It was started without its console. In a checkout, <code>make console</code> builds it; then start the server again.</p>
<ul>
<li><a href="/docs/">The documentation</a></li>
<li><a href="/docs/api">The API, to look at and to try</a>: put your key in by “Authorize”</li>
<li><a href="/docs/api/read">The API, to read</a></li>
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

NOT_BUILT = (
    _HEAD
    + """<title>Bay: the documentation</title>
<link rel="stylesheet" href="/docs/api/page.css">
<h1>The documentation is not here</h1>
<p>This server was started without it. In a checkout, <code>make docs</code> builds it; then start the server again.</p>
<ul>
<li><a href="/docs/api">The API, to look at and to try</a></li>
<li><a href="/docs/api/read">The API, to read</a></li>
</ul>
</html>
"""
)

NO_PAGE = (
    _HEAD
    + """<title>Bay: no such page</title>
<link rel="stylesheet" href="/docs/api/page.css">
<h1>There is no such page</h1>
<p><a href="/docs/">The documentation</a> has a list of its pages, and a search.</p>
</html>
"""
)

_READ = ["GET", "HEAD"]

Accept = Annotated[str, Header()]


def is_for_browser(accept: str) -> bool:
    """Whether an Accept header asks for a page."""
    return "text/html" in accept.lower()


router = APIRouter(include_in_schema=False, dependencies=EVERYWHERE)
console_router = APIRouter(include_in_schema=False)
"""The console's pages: the queries of their addresses are for the console alone."""


@console_router.get("/")
async def home(request: Request, accept: Accept = "") -> Response:
    """The console, for a browser alone; a page that says what this is where it was not built."""
    if not is_for_browser(accept):
        raise NotFound("there is no route GET /; see /docs")
    console: ConsolePage = request.app.state.console
    if answer := await console.page():
        return answer
    url = escape(str(request.base_url).rstrip("/"))
    return HTMLResponse(HOME.replace("{url}", url), headers=HEADERS)


@console_router.api_route("/console", methods=_READ)
async def console() -> Response:
    """The console, by the name that somebody may type."""
    return RedirectResponse("/", headers=HEADERS)


@console_router.api_route("/console/{name:path}", methods=_READ)
async def console_file(request: Request, name: str, accept: Accept = "") -> Response:
    """A file of the console, or its page, which knows the places below that are none."""
    console: ConsolePage = request.app.state.console
    if name.startswith(ASSETS):
        answer = await console.asset(name, request.headers)
    else:
        answer = await console.page() if is_for_browser(accept) else None
    if answer is None:
        raise NotFound(f"there is no file /console/{name}; see /docs")
    return answer


router.routes += console_router.routes


@router.api_route("/docs", methods=_READ)
async def docs() -> Response:
    """The documentation, by the address that messages name."""
    return RedirectResponse("/docs/", headers=HEADERS)


@router.api_route("/redoc", methods=_READ)
async def redoc() -> Response:
    """The address that the API's document to read had once."""
    return RedirectResponse("/docs/api/read", headers=HEADERS)


@router.api_route("/docs/api", methods=_READ)
async def api() -> Response:
    """The API's document, to try."""
    return HTMLResponse(API, headers=HEADERS)


@router.api_route("/docs/api/read", methods=_READ)
async def api_read() -> Response:
    """The API's document, to read."""
    return HTMLResponse(REDOC, headers=REDOC_HEADERS)


@router.api_route("/docs/api/{name}", methods=_READ)
async def api_file(request: Request, name: str) -> Response:
    """A script or a style of theirs."""
    if name in FILES and (answer := await file_answer(FILES[name], request.headers, HEADERS)):
        return answer
    raise NotFound(f"there is no route GET /docs/api/{name}; see /docs")


@router.api_route("/docs/{name:path}", methods=_READ)
async def docs_file(request: Request, name: str, accept: Accept = "") -> Response:
    """A page of the documentation, or a file of it."""
    site: StaticSite = request.app.state.doc_site
    if answer := await site.answer(name, request.headers, HEADERS):
        return answer
    if name == "" and not site.is_built:
        return HTMLResponse(NOT_BUILT, headers=HEADERS)
    if is_for_browser(accept):
        return HTMLResponse(NO_PAGE, 404, headers=HEADERS)
    raise NotFound(f"there is no page /docs/{name}; see /docs")
