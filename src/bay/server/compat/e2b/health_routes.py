"""Whether a sandbox runs, as its planes say it: the entrance has looked, so there is nothing left to ask."""

from fastapi import Response

from bay.server.compat.e2b.envd_requests import ENVD
from bay.server.compat.e2b.planes import INTERPRETER
from bay.server.compat.routers import format_router

router = format_router("")


@router.get(ENVD + "/health", status_code=204)
async def envd_health(sandbox_id: str) -> Response:
    """Nothing, for a sandbox that runs."""
    return Response(status_code=204)


@router.get(INTERPRETER + "/health")
async def interpreter_health(sandbox_id: str) -> Response:
    """The same of its interpreter, whose clients want a body."""
    return Response("OK", media_type="text/plain")
