"""Files as resources: `bay://SANDBOX/PATH`, to read, and to hear of when they change."""

import re
from base64 import b64encode
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import Any, TypeVar
from urllib.parse import quote, unquote

import anyio
import mcp_types as types
from mcp.server.context import ServerRequestContext
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler, ResourceUpdated
from mcp.shared.exceptions import MCPError

import bay
from bay.mcp.agent import Agent
from bay.mcp.bounds import BLOB_BYTES

T = TypeVar("T")
Context = ServerRequestContext[Any, Any]

TEMPLATE = "bay://{sandbox}/{+path}"
WATCHES = 16
"""Resources that one stream of changes follows at most."""

_LISTED = 100
_URI = re.compile(r"bay://([^/?#]+)(/[^?#]*)")


def uri_of(sandbox: str, path: str) -> str:
    """The address of the file at an absolute path."""
    return f"bay://{sandbox}{quote(path)}"


def place_of(uri: str) -> tuple[str, str]:
    """The sandbox and the absolute path. Raises MCPError."""
    found = _URI.fullmatch(uri)
    if found is None:
        raise MCPError(types.INVALID_PARAMS, f"{uri[:200]} is no file of a sandbox; write {TEMPLATE}")
    return found[1], unquote(found[2])


async def listed(agent: Agent) -> list[types.Resource]:
    """The files in the workspace of the default sandbox, if there is one."""
    try:
        box = await agent.existing(None)
    except bay.NotFound:
        return []
    except bay.BayError as error:
        raise _refusal(error) from error
    found = await _refusing(box.files.list(".", limit=_LISTED))
    name = box.name or box.id
    return [
        types.Resource(uri=uri_of(name, entry.path), name=entry.name, size=entry.size)
        for entry in found
        if entry.is_file
    ]


async def read(agent: Agent, uri: str) -> types.TextResourceContents | types.BlobResourceContents:
    """A file whole. Raises MCPError for one that is not there or larger than `BLOB_BYTES`."""
    sandbox, path = place_of(uri)
    box = await _refusing(agent.existing(sandbox))
    data = await _refusing(box.files.read(path, 0, BLOB_BYTES + 1))
    if len(data) > BLOB_BYTES:
        raise MCPError(
            types.INVALID_PARAMS,
            f"{path} has more than {BLOB_BYTES} bytes; read a part with the tool read_file",
        )
    try:
        return types.TextResourceContents(uri=uri, text=data.decode(), mime_type="text/plain")
    except UnicodeDecodeError:
        blob = b64encode(data).decode()
        return types.BlobResourceContents(uri=uri, blob=blob, mime_type="application/octet-stream")


def _refusal(error: bay.BayError) -> MCPError:
    return MCPError(types.INVALID_PARAMS, error.message, {"code": error.code})


async def _refusing(work: Awaitable[T]) -> T:
    """The result of `work`; its BayError as the protocol says it."""
    try:
        return await work
    except bay.BayError as error:
        raise _refusal(error) from error


@asynccontextmanager
async def watched(agent: Agent, uri: str) -> AsyncGenerator[bay.AsyncWatch]:
    """A watch of a file or a directory. Raises MCPError for what is not there."""
    sandbox, path = place_of(uri)
    box = await _refusing(agent.existing(sandbox))
    watch = box.files.watch(path)
    await _refusing(watch.__aenter__())
    try:
        yield watch
    finally:
        with anyio.CancelScope(shield=True):
            await watch.aclose()


async def follow(watch: bay.AsyncWatch, changed: Callable[[], Awaitable[None]]) -> None:
    """Call `changed` at each change, until what is watched is gone; then once more."""
    with suppress(bay.BayError):
        async for _ in watch:
            await changed()
    await changed()  # the client reads again, and hears how it is


@asynccontextmanager
async def _published(agent: Agent, uris: Sequence[str], bus: InMemorySubscriptionBus) -> AsyncGenerator[None]:
    """Within, `bus` has the changes of these resources. Raises MCPError for one that cannot be watched."""
    async with AsyncExitStack() as stack:
        watches = [(uri, await stack.enter_async_context(watched(agent, uri))) for uri in uris]
        group = await stack.enter_async_context(anyio.create_task_group())
        for uri, watch in watches:
            group.start_soon(follow, watch, partial(bus.publish, ResourceUpdated(uri=uri)))
        yield
        group.cancel_scope.cancel()


async def listen(
    agent: Agent, ctx: Context, params: types.SubscriptionsListenRequestParams
) -> types.SubscriptionsListenResult:
    """A stream of changes, until its client leaves. Raises MCPError for a resource that cannot be watched."""
    uris = checked(params.notifications.resource_subscriptions or ())
    bus = InMemorySubscriptionBus()
    async with _published(agent, uris, bus):
        return await ListenHandler(bus, max_subscriptions=1)(ctx, params)


def checked(uris: Sequence[str]) -> Sequence[str]:
    """The same. Raises MCPError when there are too many."""
    if len(uris) > WATCHES:
        raise MCPError(
            types.INVALID_PARAMS, f"{len(uris)} resources are more than {WATCHES}; watch a directory"
        )
    return uris
