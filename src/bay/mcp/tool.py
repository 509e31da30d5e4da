"""A tool: its name, its description, the schema of its arguments, and the function that does the work.

The schemas are written for the reader's budget: an agent has the whole list in its context in each turn.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar, cast

import mcp_types as types
from pydantic import BaseModel, ConfigDict, Field, ValidationError

import bay
from bay.hints import unknown
from bay.mcp.agent import Agent, Progress
from bay.validation_words import place, words

SandboxName = Annotated[str | None, Field(min_length=1, max_length=100)]
"""The argument of nearly all tools. The instructions of the server say what leaving it out means."""


_ARGUMENTS = 50
"""No tool has as many. Each unknown one costs a message, which somebody else waits for."""

_TICK_S = 2.0


class Arguments(BaseModel):
    """The arguments of a tool. Unknown ones are refused."""

    model_config = ConfigDict(extra="forbid", strict=False)
    sandbox: SandboxName = None


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call of a tool."""

    agent: Agent
    progress: Progress


@dataclass(frozen=True, slots=True)
class ToolAnswer:
    """The result: text for the agent, the same as `data` for programs, and images or files beside it."""

    text: str
    data: Mapping[str, Any] = field(default_factory=dict[str, Any])
    beside: tuple[types.ContentBlock, ...] = ()
    failed: bool = False
    """Whether what the agent asked for was done, and did not succeed."""


ArgumentsT = TypeVar("ArgumentsT", bound=Arguments)


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool of the list."""

    name: str
    description: str
    arguments: type[Arguments]
    run: Callable[[ToolCall, Any], Awaitable[ToolAnswer]]
    reads: bool = False
    """Whether it changes nothing."""
    destroys: bool = False

    def listed(self) -> types.Tool:
        """The tool as the list has it."""
        hints = types.ToolAnnotations(
            read_only_hint=True if self.reads else None, destructive_hint=True if self.destroys else None
        )
        return types.Tool(
            name=self.name,
            description=self.description,
            input_schema=short(self.arguments.model_json_schema()),
            annotations=hints if self.reads or self.destroys else None,
        )

    async def answer(self, call: ToolCall, given: Mapping[str, Any]) -> types.CallToolResult:
        """Do the work. A failure is an answer too, which says what to do."""
        if len(given) > _ARGUMENTS:
            return refused(f"{self.name}: {len(given)} arguments are too many", bay.InvalidArgument.code)
        try:
            arguments = self.arguments.model_validate(given)
            async with _ticking(call, self.name):
                found = await self.run(call, arguments)
        except ValidationError as error:
            return refused(self._wrong(error), bay.InvalidArgument.code)
        except bay.Unauthorized as error:
            return refused("Bay refused the key: it was revoked, has expired or never was one", error.code)
        except bay.BayError as error:
            return refused(error.message, error.code, error.details)
        return types.CallToolResult(
            content=[types.TextContent(text=found.text), *found.beside],
            structured_content=dict(found.data),
            is_error=found.failed,
        )

    def _wrong(self, error: ValidationError) -> str:
        """The errors of the arguments, in plain words."""
        return f"{self.name}: {'; '.join(map(self._said, error.errors()[:5]))}"

    def _said(self, error: Any) -> str:
        name = place(cast("Mapping[str, Any]", error))
        if error["type"] == "extra_forbidden":
            return unknown("argument", name, self.arguments.model_fields)
        return f"{name} {words(error)}"


@asynccontextmanager
async def _ticking(call: ToolCall, name: str) -> AsyncGenerator[None]:
    """Tell the client again and again that the call goes on, for as long as the block does."""
    began = time.monotonic()

    async def tick() -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            passed = time.monotonic() - began
            await call.progress(passed, f"{name} takes {passed:.0f} s so far")

    ticking = asyncio.create_task(tick())  # no task group, which would wrap an error of the block
    try:
        yield
    finally:
        ticking.cancel()


class Toolbox:
    """Tools by name. A module of tools makes one, and adds to it by decorator."""

    def __init__(self) -> None:
        self.tools: list[Tool] = []

    def add(
        self, description: str, *, reads: bool = False, destroys: bool = False
    ) -> Callable[
        [Callable[[ToolCall, ArgumentsT], Awaitable[ToolAnswer]]],
        Callable[[ToolCall, ArgumentsT], Awaitable[ToolAnswer]],
    ]:
        """Make a tool of a function, under its name. Its parameter `given` has the type of the arguments."""

        def added(
            run: Callable[[ToolCall, ArgumentsT], Awaitable[ToolAnswer]],
        ) -> Callable[[ToolCall, ArgumentsT], Awaitable[ToolAnswer]]:
            arguments = run.__annotations__["given"]
            self.tools.append(Tool(run.__name__, description, arguments, run, reads, destroys))
            return run

        return added


def refused(message: str, code: str, details: Mapping[str, Any] | None = None) -> types.CallToolResult:
    """The answer to a call that failed."""
    error = {"code": code, "message": message, **({"details": dict(details)} if details else {})}
    return types.CallToolResult(
        content=[types.TextContent(text=message)], structured_content={"error": error}, is_error=True
    )


def short(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A schema without what costs an agent room and says nothing: titles, `null` as a choice, its default."""
    return cast("dict[str, Any]", _shortened(schema, top=True))


def _shortened(value: object, *, top: bool = False) -> object:
    if isinstance(value, list):
        return [_shortened(item) for item in cast("list[object]", value)]
    if not isinstance(value, dict):
        return value
    known = cast("dict[str, Any]", value)
    choices = [choice for choice in known.get("anyOf", ()) if choice != {"type": "null"}]
    if len(choices) == 1:
        known = {**{name: item for name, item in known.items() if name != "anyOf"}, **choices[0]}
    return {
        name: _properties(item) if name == "properties" else _shortened(item)
        for name, item in known.items()
        if name != "title"
        and not (name == "default" and item is None)
        and not (top and name == "description")
    }


def _properties(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _shortened(schema) for name, schema in properties.items()}
