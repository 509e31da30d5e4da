"""The Connect protocol, version 1, with JSON messages: unary calls, streams, frames and errors.

A stream is a body of frames, each with a flag byte, four bytes of length, and a message. Its last frame has
the flag 2 and says how it ended: an error of a stream is in there, inside an answer 200. By hand rather than
by a library: those that also speak binary protobuf cost 40 MB and a third of a second at every start.
"""

import asyncio
import json
import struct
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from bay.errors import (
    BayError,
    CallerError,
    Conflict,
    FileMissing,
    Forbidden,
    InvalidArgument,
    NotFound,
    OutputGone,
    PayloadTooLarge,
    QuotaExceeded,
    ShipError,
    StorageFull,
    Timeout,
    Unauthorized,
)
from bay.server.compat.e2b.messages import Malformed, Message
from bay.server.web.replies import HeldResponse

_JSON = "application/json"
STREAM = "application/connect+json"
MAX_MESSAGE = 4 << 20
"""Bytes of one frame's message."""

_HEAD = struct.Struct(">BI")
_END = 0b10
_TURN = 64
"""Frames that are handed out before other requests have their turn."""
_LEAST_S, _MOST_S = 1.0, 3600.0
_KEEPALIVE_S = 90.0
_LONGEST_MS = 7 * 86400 * 1000
"""The longest time of an exec."""

_STATUS = {
    "canceled": 499, "unknown": 500, "invalid_argument": 400, "deadline_exceeded": 504, "not_found": 404,
    "already_exists": 409, "permission_denied": 403, "resource_exhausted": 429, "failed_precondition": 400,
    "aborted": 409, "out_of_range": 400, "unimplemented": 501, "internal": 500, "unavailable": 503,
    "data_loss": 500, "unauthenticated": 401,
}  # fmt: skip
"""HTTP status of an error of a unary call, by its code."""

_CODES: tuple[tuple[type[BayError], str], ...] = (
    (Unauthorized, "unauthenticated"),
    (Forbidden, "permission_denied"),
    (FileMissing, "not_found"),
    (NotFound, "not_found"),
    (OutputGone, "out_of_range"),
    (PayloadTooLarge, "resource_exhausted"),
    (QuotaExceeded, "resource_exhausted"),
    (StorageFull, "resource_exhausted"),
    (InvalidArgument, "invalid_argument"),
    (Conflict, "failed_precondition"),
    (CallerError, "invalid_argument"),
    (Timeout, "deadline_exceeded"),
    (ShipError, "unavailable"),
)

T = TypeVar("T")
Opened = AbstractAsyncContextManager[AsyncIterator[Mapping[str, Any]]]


class RpcError(Exception):
    """An error in the words of Connect: one of its codes, and a message for people."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class SandboxGone(NotFound):
    """The caller has no such sandbox, which no code of Connect says: clients look at the HTTP status."""


def fault_of(error: "BayError | RpcError | Malformed") -> RpcError:
    """The same error in the words of Connect."""
    if isinstance(error, RpcError):
        return error
    if isinstance(error, Malformed):
        return RpcError("invalid_argument", str(error))
    default = "unavailable" if error.status == 503 else "internal"
    code = next((code for kind, code in _CODES if isinstance(error, kind)), default)
    return RpcError(code, error.message)


async def answered(
    request: Request, call: Callable[[Message], Awaitable[Mapping[str, Any] | bytes]]
) -> Response:
    """The answer to a unary call, which may be JSON already. NotFound: no such sandbox."""
    if (refused := _refused(request, _JSON)) is not None:
        return refused
    try:
        made = await call(Message.of_json(await _whole(request)))
        return Response(made, media_type=_JSON) if isinstance(made, bytes) else JSONResponse(dict(made))
    except SandboxGone as error:
        raise NotFound(error.message) from error
    except (BayError, RpcError, Malformed) as error:
        fault = fault_of(error)
    request.state.error_code = fault.code
    return JSONResponse(_wire(fault), _STATUS[fault.code])


async def streamed(request: Request, open_: Callable[[Message], Opened], beat: Mapping[str, Any]) -> Response:
    """The stream that answers one message, with `beat` in its silences. NotFound: no such sandbox."""
    if (refused := _refused(request, STREAM)) is not None:
        return refused
    stack = AsyncExitStack()
    try:
        message = await anext(messages(request))
        events = await stack.enter_async_context(open_(message))
    except SandboxGone as error:
        raise NotFound(error.message) from error
    except StopAsyncIteration:
        return _ended(request, RpcError("invalid_argument", "the stream has no message"))
    except (BayError, RpcError, Malformed) as error:
        return _ended(request, error)
    frames = _frames(request, beating(events, _every_s(request), beat))
    return HeldResponse(stack, frames, media_type=STREAM)


async def gathered(
    request: Request, call: Callable[[AsyncIterator[Message]], Awaitable[Mapping[str, Any]]]
) -> Response:
    """The answer to a stream of messages. NotFound: no such sandbox."""
    if (refused := _refused(request, STREAM)) is not None:
        return refused
    try:
        return Response(frame(await call(messages(request))) + _end(None), media_type=STREAM)
    except SandboxGone as error:
        raise NotFound(error.message) from error
    except (BayError, RpcError, Malformed) as error:
        return _ended(request, error)


async def messages(request: Request) -> AsyncGenerator[Message]:
    """The messages of a stream as they come. Raises RpcError for what is no frame, or one too large."""
    held = bytearray()
    count = 0
    async for data in _body(request):
        held += data
        while (message := _taken(held)) is not None:
            yield message
            count += 1
            if count % _TURN == 0:
                await asyncio.sleep(0)
    if held:
        raise RpcError("invalid_argument", "the body ended within a frame; send frames whole")


async def beating(items: AsyncIterator[T], every_s: float, beat: T) -> AsyncGenerator[T]:
    """The items, and `beat` whenever none came for that many seconds."""
    coming: asyncio.Task[T | None] | None = None
    try:
        while True:
            if coming is None:
                coming = asyncio.ensure_future(_next(items))
            if not (await asyncio.wait((coming,), timeout=every_s))[0]:
                yield beat
                continue
            item, coming = coming.result(), None
            if item is None:
                return
            yield item
    finally:
        if coming is not None:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)


def timeout_s(request: Request) -> float | None:
    """The time that a client gives its call, in seconds; None for none. Raises RpcError."""
    given = request.headers.get("connect-timeout-ms")
    if given is None:
        return None
    if not (given.isascii() and given.isdigit() and len(given) <= 10):
        raise RpcError("invalid_argument", "Connect-Timeout-Ms must be a whole number of up to ten digits")
    if not int(given):
        return None
    return min(int(given), _LONGEST_MS) / 1000


def frame(message: Mapping[str, Any], flags: int = 0) -> bytes:
    """One message of a stream."""
    data = json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    return _HEAD.pack(flags, len(data)) + data


def _end(fault: RpcError | None) -> bytes:
    return frame({} if fault is None else {"error": _wire(fault)}, _END)


def _ended(request: Request, error: BayError | RpcError | Malformed) -> Response:
    fault = fault_of(error)
    request.state.error_code = fault.code
    return Response(_end(fault), media_type=STREAM)


async def _frames(request: Request, events: AsyncGenerator[Mapping[str, Any]]) -> AsyncGenerator[bytes]:
    fault: RpcError | None = None
    try:
        async for event in events:
            yield frame(event)
    except (BayError, RpcError) as error:
        fault = fault_of(error)
    finally:
        await events.aclose()
    if fault is not None:
        request.state.error_code = fault.code
    yield _end(fault)


def _wire(fault: RpcError) -> dict[str, str]:
    return {"code": fault.code, "message": fault.message}


def _refused(request: Request, wanted: str) -> Response | None:
    """415 for another encoding: without a common one, Connect has no error of its own."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    coding = request.headers.get("content-encoding", "identity") if wanted != STREAM else "identity"
    if kind == wanted and coding in ("", "identity"):
        return None
    fact = f"this call takes {wanted}, uncompressed; binary protobuf and compression are not served"
    return JSONResponse({"code": "unimplemented", "message": fact}, 415, {"Accept-Post": wanted})


async def _whole(request: Request) -> bytes:
    return b"".join([data async for data in _body(request)])


async def _body(request: Request) -> AsyncGenerator[bytes]:
    try:
        async for data in request.stream():
            yield data
    except ClientDisconnect as error:
        raise RpcError("canceled", "the client disconnected") from error


def _taken(held: bytearray) -> Message | None:
    """The first message of `held`, which loses it; None until all of it is there."""
    if len(held) < _HEAD.size:
        return None
    flags, length = _HEAD.unpack_from(held)
    if flags:
        raise RpcError(
            "invalid_argument", f"a frame has the flags {flags}; only uncompressed messages are served"
        )
    if length > MAX_MESSAGE:
        raise RpcError("resource_exhausted", f"a frame has {length} bytes; send at most {MAX_MESSAGE} in one")
    if len(held) < _HEAD.size + length:
        return None
    data = bytes(held[_HEAD.size : _HEAD.size + length])
    del held[: _HEAD.size + length]
    try:
        return Message.of_json(data)
    except Malformed as error:
        raise fault_of(error) from error


async def _next(items: AsyncIterator[T]) -> T | None:
    return await anext(items, None)


def _every_s(request: Request) -> float:
    given = request.headers.get("keepalive-ping-interval", "")
    if not (given.isascii() and given.isdigit() and len(given) < 6):
        return _KEEPALIVE_S
    return min(max(float(given), _LEAST_S), _MOST_S)
