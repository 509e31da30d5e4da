"""How requests of E2B's control plane and planes name their caller, and how their errors look."""

import re

from starlette.responses import JSONResponse, Response

from bay.errors import BayError, Unauthorized
from bay.server.compat.e2b.planes import PREFIX, error_on, plane_in
from bay.server.web.auth import Caller, Keys
from bay.server.web.replies import headers_of
from bay.server.web.wire_format import Headers, Scope, WireFormat


def _caller(keys: Keys, scope: Scope, headers: Headers) -> Caller | None:
    if (plane := plane_in(scope)) is not None:
        return plane.caller(keys, scope, headers)
    key = headers.one("x-api-key")
    if not key:
        raise Unauthorized("no API key; set E2B_API_KEY to a key of this Bay")
    return keys.authenticate(f"Bearer {key}")


def _error(error: BayError, _request_id: str, scope: Scope) -> Response:
    if (plane := plane_in(scope)) is not None:
        return error_on(plane, error)
    # Clients ask again up to three times after these, a create too, unless they are told not to.
    headers = {"Should-Retry": "false"} if error.status in (429, 502, 503, 504) else {}
    status = 400 if error.status == 422 else error.status  # which no operation of theirs answers with
    body = {"code": status, "message": error.message, "error_code": error.code}
    return JSONResponse(body, status, headers | (headers_of(error) or {}))


_ENVD = rf"{PREFIX}/sandboxes/[^/]+/envd"

FORMAT = WireFormat(
    prefix=PREFIX,
    authenticate=_caller,
    error=_error,
    uploads=re.compile(rf"{_ENVD}/files"),
    streams=re.compile(rf"{_ENVD}/process\.Process/StreamInput"),
    readers=re.compile(
        rf"{_ENVD}/(process\.Process/List|filesystem\.Filesystem/"
        r"(Stat|ListDir|WatchDir|CreateWatcher|GetWatcherEvents|RemoveWatcher))"
    ),
)
