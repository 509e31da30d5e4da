"""The router of a foreign format, whose clients send fields and parameters that Bay does not know."""

from fastapi import APIRouter
from starlette.responses import JSONResponse


def format_router(prefix: str) -> APIRouter:
    """A router whose routes are in no OpenAPI document, since they are other people's."""
    return APIRouter(prefix=prefix, default_response_class=JSONResponse, include_in_schema=False)
