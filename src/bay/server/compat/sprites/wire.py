"""How requests of Sprites name their caller, and how its errors look."""

import re

from starlette.responses import JSONResponse, Response

from bay.errors import BayError, NotFound, Unauthorized
from bay.server.web.auth import Caller, Keys
from bay.server.web.replies import headers_of
from bay.server.web.wire_format import Headers, Scope, WireFormat

PREFIX = "/v1/sprites"


def _caller(keys: Keys, _scope: Scope, headers: Headers) -> Caller:
    return keys.authenticate(headers.one("authorization"))


def _error(error: BayError, request_id: str, _scope: Scope) -> Response:
    body: dict[str, object] = {"error": _words(error), "message": error.message, "request_id": request_id}
    headers = headers_of(error) or {}
    if error.status == 429:
        body["retry_after_seconds"] = int(headers["Retry-After"])
    return JSONResponse(body, error.status, headers)


def _words(error: BayError) -> str:
    """The text that clients compare and show."""
    if isinstance(error, Unauthorized):
        return "authentication failed"
    if type(error) is NotFound and "sandbox" in error.message:
        return "sprite not found"
    return error.message


FORMAT = WireFormat(
    prefix=PREFIX,
    authenticate=_caller,
    error=_error,
    uploads=re.compile(rf"{PREFIX}/[^/]+/fs/write"),
    streams=re.compile(rf"{PREFIX}/[^/]+/exec"),
    readers=re.compile(rf"{PREFIX}/[^/]+/(fs|ports)/watch"),
)
