"""The server of the protocol: the list of tools, their calls, and files as resources, for whoever calls."""

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import anyio
import mcp_types as types
from anyio.abc import TaskStatus
from mcp.server.lowlevel.server import Server

import bay
from bay.hints import unknown
from bay.mcp import resources
from bay.mcp.agent import Agent
from bay.mcp.resources import Context
from bay.mcp.tool import ToolCall, refused
from bay.mcp.tools import LISTED, SCHEMAS, TOOLS

AgentOf = Callable[[Context], AbstractAsyncContextManager[Agent]]
"""The caller of a request, for as long as it takes."""

INSTRUCTIONS = (
    "Each tool acts on one sandbox: a Linux computer whose files stay. Leave `sandbox` out for your default "
    "one, which is made when it is first needed; name another to use that. Paths are absolute or relative to "
    "/workspace. Answers are bounded: where more is left, they say the offset to read on at. Of a tool that "
    "failed the message says what to do."
)


class BayTools:
    """The handlers of the protocol's requests."""

    def __init__(self, agent_of: AgentOf, listener_of: AgentOf | None = None) -> None:
        self._agent_of = agent_of
        self._listener_of = listener_of or agent_of
        """For requests that last as long as the client likes."""

    async def list_tools(
        self, _ctx: Context, _params: types.PaginatedRequestParams | None
    ) -> types.ListToolsResult:
        """All tools, in one page."""
        return types.ListToolsResult(tools=LISTED)

    async def call_tool(self, ctx: Context, params: types.CallToolRequestParams) -> types.CallToolResult:
        """The answer of a tool. A failure is an answer, with `isError`, so that the agent reads it."""
        if (tool := TOOLS.get(params.name)) is None:
            return refused(unknown("tool", params.name, TOOLS), "not_found")

        async def progress(seconds: float, said: str) -> None:
            await ctx.session.report_progress(seconds, None, said)

        async with self._agent_of(ctx) as agent:
            return await tool.answer(ToolCall(agent, progress), params.arguments or {})

    async def list_resources(
        self, ctx: Context, _params: types.PaginatedRequestParams | None
    ) -> types.ListResourcesResult:
        """The files of the default sandbox's workspace."""
        async with self._agent_of(ctx) as agent:
            return types.ListResourcesResult(resources=await resources.listed(agent))

    async def list_templates(
        self, _ctx: Context, _params: types.PaginatedRequestParams | None
    ) -> types.ListResourceTemplatesResult:
        """How the address of any file is made."""
        template = types.ResourceTemplate(
            name="file",
            uri_template=resources.TEMPLATE,
            description="A file of a sandbox, by its absolute path",
        )
        return types.ListResourceTemplatesResult(resource_templates=[template])

    async def read_resource(
        self, ctx: Context, params: types.ReadResourceRequestParams
    ) -> types.ReadResourceResult:
        """A file."""
        async with self._agent_of(ctx) as agent:
            return types.ReadResourceResult(contents=[await resources.read(agent, str(params.uri))])

    async def listen(
        self, ctx: Context, params: types.SubscriptionsListenRequestParams
    ) -> types.SubscriptionsListenResult:
        """Changes of files, as a stream."""
        async with self._listener_of(ctx) as agent:
            return await resources.listen(agent, ctx, params)


class Subscriptions:
    """The resources that the one client of a connection is told of, by the protocol's older way."""

    def __init__(self, agent_of: AgentOf) -> None:
        self._agent_of = agent_of
        self._scopes: dict[str, anyio.CancelScope] = {}

    @asynccontextmanager
    async def lifespan(self, _server: Server[Any]) -> AsyncGenerator[None]:
        """Within, subscriptions can be made; they end with it."""
        async with anyio.create_task_group() as self._group:
            yield
            self._group.cancel_scope.cancel()

    async def subscribe(self, ctx: Context, params: types.SubscribeRequestParams) -> types.EmptyResult:
        """Tell of changes of a resource from now on. Again is no error."""
        uri = str(params.uri)
        if uri in self._scopes:
            return types.EmptyResult()
        resources.checked([*self._scopes, uri])
        scope = self._scopes[uri] = anyio.CancelScope()  # before others can ask for the same
        try:
            await self._group.start(self._follow, ctx, uri, scope)
        except BaseException:
            self._forget(uri, scope)
            raise
        return types.EmptyResult()

    async def unsubscribe(self, _ctx: Context, params: types.UnsubscribeRequestParams) -> types.EmptyResult:
        """No longer. Again is no error."""
        if (scope := self._scopes.pop(str(params.uri), None)) is not None:
            scope.cancel()
        return types.EmptyResult()

    async def _follow(
        self,
        ctx: Context,
        uri: str,
        scope: anyio.CancelScope,
        *,
        task_status: "TaskStatus[None]" = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        async def changed() -> None:
            await ctx.session.send_resource_updated(uri)

        with scope:
            async with self._agent_of(ctx) as agent, resources.watched(agent, uri) as watch:
                task_status.started()
                await resources.follow(watch, changed)
        self._forget(uri, scope)

    def _forget(self, uri: str, scope: anyio.CancelScope) -> None:
        if self._scopes.get(uri) is scope:
            del self._scopes[uri]


def mcp_server(tools: BayTools, subscriptions: Subscriptions | None = None) -> Server[Any]:
    """The server. `subscriptions` are for a connection that lasts; the newer way needs none."""
    more: Mapping[str, Any] = {}
    if subscriptions is not None:
        more = {
            "lifespan": subscriptions.lifespan,
            "on_subscribe_resource": subscriptions.subscribe,
            "on_unsubscribe_resource": subscriptions.unsubscribe,
        }
    return Server(
        "bay",
        version=bay.__version__,
        title="Bay sandboxes",
        instructions=INSTRUCTIONS,
        get_tool_input_schema=SCHEMAS.get,
        on_list_tools=tools.list_tools,
        on_call_tool=tools.call_tool,
        on_list_resources=tools.list_resources,
        on_list_resource_templates=tools.list_templates,
        on_read_resource=tools.read_resource,
        on_subscriptions_listen=tools.listen,
        **more,
    )
