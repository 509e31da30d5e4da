"""Builds answers: models as JSON, and one shape for every error."""

import asyncio
import json
import math
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack
from typing import Any, Generic, TypeVar
from urllib.parse import quote

from fastapi import Request
from fastapi.exceptions import ValidationException
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Match, Route
from starlette.types import Receive, Scope, Send

from bay import validation_words
from bay.errors import (
    BadRequest,
    BayError,
    InternalError,
    InvalidArgument,
    MethodNotAllowed,
    NotFound,
    RangeNotSatisfiable,
)
from bay.models import to_wire
from bay.server.web import wire_format

T = TypeVar("T")

_MAX_ERRORS = 20


class Ok(BaseModel):
    """The call is done."""

    status: str


class Items(BaseModel, Generic[T]):
    """A whole list."""

    items: list[T]


class PageOf(Items[T], Generic[T]):
    """A part of a list, and how to get the next one."""

    has_more: bool
    next_cursor: str | None


class ErrorDetail(BaseModel):
    """An error's body: `code` for programs, `message` for people."""

    code: str
    message: str
    request_id: str
    retryable: bool
    details: dict[str, Any] | None = None


class ErrorBody(BaseModel):
    """The body of every answer that is not a success."""

    error: ErrorDetail


class AnswerCut(ConnectionAbortedError):
    """An answer that has begun cannot be finished: it is aborted, so that no client takes it for whole."""


class WireResponse(JSONResponse):
    """A model, or anything made of models, as JSON."""

    def render(self, content: Any) -> bytes:
        return json.dumps(to_wire(content), ensure_ascii=False, separators=(",", ":")).encode()


def download_headers(name: str) -> dict[str, str]:
    """Headers of an answer that browsers save under `name`, and do not interpret."""
    disposition = f"attachment; filename*=UTF-8''{quote(name, safe='')}"
    return {"Content-Disposition": disposition, "X-Content-Type-Options": "nosniff"}


class HeldResponse(StreamingResponse):
    """An answer in parts, and then the end of what they need, which `stack` holds.

    It ends also when the reader left before the first part: such an answer is cancelled before its parts are
    asked for, and a generator that never began runs no `finally`.
    """

    def __init__(self, stack: AsyncExitStack, parts: AsyncIterator[bytes], *rest: Any, **more: Any) -> None:
        super().__init__(parts, *rest, **more)
        self._stack = stack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._stack:
            await super().__call__(scope, receive, send)


class AnswerBeside(HeldResponse):
    """An answer that begins while `reading` still takes the request's body. The wait for the reader's leave
    would take parts of it, so it begins after that; until then `reading` hears of a leave.
    """

    def __init__(self, reading: asyncio.Future[None], *rest: Any, **more: Any) -> None:
        super().__init__(*rest, **more)
        self._reading = reading

    async def listen_for_disconnect(self, receive: Receive) -> None:
        await asyncio.wait({self._reading})
        await super().listen_for_disconnect(receive)


async def begun(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    """The chunks of an answer once the first is here, so that what fails at once is no answer that is cut."""
    first = await anext(chunks, b"")

    async def whole() -> AsyncGenerator[bytes]:
        yield first
        async for chunk in chunks:
            yield chunk

    return whole()


def error_response(error: BayError, request_id: str, extra: dict[str, Any] | None = None) -> JSONResponse:
    """The one error shape, with `Retry-After` (seconds) where trying again can help."""
    body: dict[str, Any] = {
        "code": error.code,
        "message": error.message,
        "request_id": request_id,
        "retryable": error.retryable,
    }
    if error.details:
        body["details"] = error.details
    return JSONResponse({"error": body, **(extra or {})}, error.status, headers_of(error))


def answer_for(
    scope: wire_format.Scope, error: BayError, request_id: str, extra: dict[str, Any] | None = None
) -> Response:
    """The error as the format of the request words it; `extra` goes beside Bay's own."""
    if (wire := wire_format.in_scope(scope)) is not None:
        return wire.error(error, request_id, scope)
    return error_response(error, request_id, extra)


def headers_of(error: BayError) -> dict[str, str] | None:
    """The headers that say when to try again, and how large a file is."""
    if error.status in (429, 503):
        return {"Retry-After": str(_retry_after_s(error))}
    if isinstance(error, RangeNotSatisfiable) and isinstance(size := error.details.get("size"), int):
        return {"Content-Range": f"bytes */{size}"}
    return None


def _retry_after_s(error: BayError) -> int:
    """Whole seconds, never sooner than the error says and never at once: a client must not spin."""
    said = error.details.get("retry_after_ms")
    return max(1, math.ceil(said / 1000)) if isinstance(said, int | float) else 1


def _respond(request: Request, error: BayError, extra: dict[str, Any] | None = None) -> Response:
    """The answer, its code left where the edge finds it for the audit."""
    request.state.error_code = error.code
    return answer_for(request.scope, error, request.state.request_id, extra)


async def on_bay_error(request: Request, error: Exception) -> Response:
    """Any error raised on purpose."""
    known = (
        error
        if isinstance(error, BayError)
        else InternalError("Bay failed on an internal error; see its log")
    )
    return _respond(request, known)


async def on_invalid_request(request: Request, error: Exception) -> Response:
    """A malformed body or parameter, with the first 20 entries of FastAPI's `detail` beside the error."""
    found: Sequence[Any] = error.errors() if isinstance(error, ValidationException) else ()
    detail = [
        {"loc": list(e["loc"]), "msg": validation_words.words(e), "type": e["type"]}
        for e in found[:_MAX_ERRORS]
    ]
    where, said = (validation_words.place(found[0]), detail[0]["msg"]) if found else ("body", "is not valid")
    invalid = InvalidArgument(f"{where}: {said}", details={"errors": len(found), "field": where})
    return _respond(request, invalid, {"detail": detail})


async def on_http_exception(request: Request, error: Exception) -> Response:
    """The framework's own refusals: unknown routes, wrong methods, unreadable bodies."""
    cause = error.__cause__
    if isinstance(cause, BayError):
        return _respond(request, cause)
    answer = _respond(request, _from_framework(request, error))
    if isinstance(error, HTTPException) and error.headers:
        answer.headers.update(error.headers)
    if answer.status_code == 405:
        answer.headers["Allow"] = ", ".join(_methods_at(request))
    return answer


def _methods_at(request: Request) -> list[str]:
    """The methods of the path: the framework names those of one route of it alone."""
    routes = (route for route in request.app.routes if isinstance(route, Route))
    matching = (route for route in routes if route.matches(request.scope)[0] is not Match.NONE)
    return sorted({method for route in matching for method in route.methods or ()})


def _from_framework(request: Request, error: Exception) -> BayError:
    status = error.status_code if isinstance(error, HTTPException) else 500
    match status:
        case 404:
            return NotFound(f"there is no route {request.method} {request.url.path}; see /docs")
        case 405:
            return MethodNotAllowed(f"{request.url.path} does not take {request.method}; see /docs")
        case _ if status < 500:
            return BadRequest("the request body could not be read")
        case _:
            return InternalError("Bay failed on an internal error; see its log")
