"""The routes of the Model Context Protocol: its messages, and what its clients ask before they have a key."""

from typing import Annotated, Any

from fastapi import Request, Response

from bay.server.compat.mcp.messages import McpMessages
from bay.server.compat.mcp.wire import METADATA, PREFIX, origin_of
from bay.server.compat.routers import format_router
from bay.server.web.dependencies import Reader, service

router = format_router("")

MessagesDep = Annotated[McpMessages, service(McpMessages)]


@router.api_route(PREFIX, methods=["GET", "POST", "DELETE"])
async def mcp(caller: Reader, messages: MessagesDep) -> Response:
    """Messages of the protocol, by its streamable HTTP transport."""
    return messages.answer(caller)


@router.get(METADATA)
@router.get(METADATA + PREFIX)
async def oauth_metadata(request: Request) -> dict[str, Any]:
    """That a caller needs a key of Bay as its bearer token, and that no server hands out others."""
    origin = origin_of(request.scope)
    return {
        "resource": f"{origin}{PREFIX}",
        "resource_name": "Bay sandboxes",
        "bearer_methods_supported": ["header"],
        "scopes_supported": ["read", "write", "admin"],
        "resource_documentation": f"{origin}/docs",
    }
