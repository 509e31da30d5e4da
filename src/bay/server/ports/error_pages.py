"""Error pages of a port whose app cannot answer: HTML for people, the one error shape for programs."""

from html import escape
from typing import Any

from starlette.responses import HTMLResponse, JSONResponse, Response

from bay.errors import BayError
from bay.server.web.replies import error_response

_TITLES = {
    400: "This request is not served",
    401: "This is not open to everybody",
    403: "This is not allowed",
    404: "There is nothing here",
    429: "Too many requests",
    502: "The app does not answer",
    503: "The sandbox is not ready",
    504: "The app takes too long",
}
_OWN = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>body{{font:16px/1.5 system-ui,sans-serif;max-width:40em;margin:15vh auto;padding:0 1em;color-scheme:light dark}}\
h1{{font-size:1.4em}}small{{opacity:.6}}</style>
<h1>{title}</h1>
<p>{message}</p>
<p><small>Bay · {status} {code} · {request_id}</small></p>
</html>
"""


class GuestRefusal(BayError, code="refused"):
    """The refusal of a guest: its status, and its body for programs, are those of a foreign format."""

    def __init__(self, message: str, status: int, body: dict[str, Any]) -> None:
        super().__init__(message)
        self.status = status
        self.body = {**body, "message": message, "code": status}


def error_page(error: BayError, request_id: str, accept: str) -> Response:
    """The answer for `error`: HTML where the Accept header asks for it. Neither is kept by anybody."""
    answer = _page(error, request_id) if "text/html" in accept.lower() else _for_programs(error, request_id)
    answer.headers.update({**_OWN, "X-Request-Id": request_id})
    return answer


def _for_programs(error: BayError, request_id: str) -> Response:
    if isinstance(error, GuestRefusal):
        return JSONResponse(error.body, error.status)
    return error_response(error, request_id)


def _page(error: BayError, request_id: str) -> Response:
    text = _PAGE.format(
        title=escape(_TITLES.get(error.status, "Something went wrong")),
        message=escape(error.message),
        status=error.status,
        code=escape(error.code),
        request_id=escape(request_id),
    )
    headers = {"Retry-After": "1"} if error.status in (429, 503) else None
    return HTMLResponse(text, error.status, headers)
