"""How a request at `/mcp` names its caller, and how errors beside the protocol look.

They are Bay's own, and a refusal says where the protocol's OAuth metadata is: it tells clients that a key is
all there is.
"""

import re

from starlette.responses import Response

from bay.errors import BayError, Unauthorized
from bay.server.web.auth import Caller, Keys
from bay.server.web.replies import error_response
from bay.server.web.wire_format import Headers, Scope, WireFormat

PREFIX = "/mcp"
METADATA = "/.well-known/oauth-protected-resource"
"""RFC 9728; the same with the path of the resource behind it."""


def _caller(keys: Keys, _scope: Scope, headers: Headers) -> Caller:
    return keys.authenticate(headers.one("authorization"))


def _error(error: BayError, request_id: str, scope: Scope) -> Response:
    answer = error_response(error, request_id)
    if isinstance(error, Unauthorized):
        place = f"{origin_of(scope)}{METADATA}{PREFIX}"
        answer.headers["WWW-Authenticate"] = f'Bearer resource_metadata="{place}"'
    return answer


def origin_of(scope: Scope) -> str:
    """Scheme, host and port by which the client reached Bay."""
    host = next((value for name, value in scope["headers"] if name == b"host"), b"localhost")
    return f"{scope.get('scheme', 'http')}://{host.decode('latin-1')}"


FORMAT = WireFormat(
    prefix=PREFIX,
    authenticate=_caller,
    error=_error,
    readers=re.compile(
        PREFIX
    ),  # each call of a tool is a request to Bay, which needs its scope and is audited
)
"""Known to the edge as another platform's format is."""
