"""Sandboxes: making, showing, stopping, deleting, forking, and their checkpoints."""

from contextlib import aclosing
from typing import Any, Literal

from pydantic import Field

import bay
from bay.mcp.agent import KeptSandbox
from bay.mcp.bounds import first_lines
from bay.mcp.tool import Arguments, ToolAnswer, Toolbox, ToolCall

TOOLBOX = Toolbox()

_LISTED = 100


class CreateSandboxArguments(Arguments):
    """Arguments of `create_sandbox`."""

    image: str | None = None
    template: str | None = None
    profile: str | None = None
    from_checkpoint: str | None = None
    env: dict[str, str] | None = None
    network: Literal["none", "open"] | None = None


@TOOLBOX.add(
    "Create a sandbox under the name `sandbox`; without a name it is the default one. Only needed to choose "
    "its image, template or the like."
)
async def create_sandbox(call: ToolCall, given: CreateSandboxArguments) -> ToolAnswer:
    options = given.model_dump(exclude_none=True, exclude={"sandbox"})
    default = call.agent.default
    name = given.sandbox or default.name
    try:
        await call.agent.client.sandboxes.get(name)
    except bay.NotFound:
        place = default if name == default.name else KeptSandbox(name)
        return _shown(await place.open(call.agent.client, options))
    raise bay.Conflict(f"there is a sandbox {name} already; use it, or delete it first")


class ListSandboxesArguments(Arguments):
    """Arguments of `list_sandboxes`: `sandbox` is the beginning of the names to list."""


@TOOLBOX.add("List sandboxes, newest first; `sandbox` is how their names begin.", reads=True)
async def list_sandboxes(call: ToolCall, given: ListSandboxesArguments) -> ToolAnswer:
    found = call.agent.client.sandboxes.list(name_prefix=given.sandbox, order="newest", limit=_LISTED)
    boxes: list[bay.AsyncBox] = []
    async with aclosing(found) as each:
        async for box in each:
            boxes.append(box)
            if len(boxes) > _LISTED:
                break
    lines, cut = first_lines(map(_line, boxes[:_LISTED]))
    data = {"sandboxes": [box.name or box.id for box in boxes[: len(lines)]]}
    if cut or len(boxes) > _LISTED:
        lines.append(f"[there are more than these {len(lines)}; give the beginning of a name]")
    return ToolAnswer("\n".join(lines) or "[none]", data)


class OneSandboxArguments(Arguments):
    """Arguments of tools that take no more than a sandbox."""


@TOOLBOX.add("Show a sandbox: its state, ports and newest checkpoints.", reads=True)
async def get_sandbox(call: ToolCall, given: OneSandboxArguments) -> ToolAnswer:
    box = await call.agent.existing(given.sandbox)
    newest = reversed(await box.checkpoints())
    checkpoints, _ = first_lines(made.name or made.id for made in newest)
    ports = [port.port for port in await box.ports.list()]
    return _shown(box, {"ports": ports, "checkpoints": checkpoints})


@TOOLBOX.add("Stop the compute: processes end, files stay. The next call starts it again.")
async def stop_sandbox(call: ToolCall, given: OneSandboxArguments) -> ToolAnswer:
    box = await call.agent.existing(given.sandbox)
    await box.stop()
    return _shown(box, {"status": (await box.refresh()).status})


class NamedArguments(Arguments):
    """Arguments of `delete_sandbox`: what cannot be undone names its sandbox."""

    sandbox: str = Field(min_length=1, max_length=100)  # pyright: ignore[reportIncompatibleVariableOverride, reportGeneralTypeIssues]


@TOOLBOX.add("Delete a sandbox and its files for good.", destroys=True)
async def delete_sandbox(call: ToolCall, given: NamedArguments) -> ToolAnswer:
    box = await call.agent.existing(given.sandbox)
    await box.delete()
    return ToolAnswer(f"[deleted {given.sandbox}]", {"deleted": given.sandbox})


class ForkArguments(Arguments):
    """Arguments of `fork_sandbox`."""

    name: str | None = None
    count: int = Field(1, ge=1, le=20)
    checkpoint: str | None = None
    memory: bool = False


@TOOLBOX.add(
    "Create sandboxes whose files begin as this one's now, or as a checkpoint's. With `memory` they go on with "
    "what runs as well."
)
async def fork_sandbox(call: ToolCall, given: ForkArguments) -> ToolAnswer:
    box = await call.agent.existing(given.sandbox)
    made = await box.fork(given.count, given.checkpoint, given.name, memory=given.memory)
    names = [one.name or one.id for one in made]
    return ToolAnswer("\n".join(map(_line, made)), {"sandboxes": names})


class CheckpointArguments(Arguments):
    """Arguments of `checkpoint`."""

    name: str | None = None
    comment: str | None = None
    memory: bool = False


@TOOLBOX.add("Keep the files as they are now, to restore or fork later. With `memory` what runs as well.")
async def checkpoint(call: ToolCall, given: CheckpointArguments) -> ToolAnswer:
    box = await call.agent.existing(given.sandbox)
    made = await box.checkpoint(given.name, given.comment, memory=given.memory)
    return ToolAnswer(
        f"[checkpoint {made.name or made.id}]", {"checkpoint": made.name or made.id, "id": made.id}
    )


class RestoreArguments(Arguments):
    """Arguments of `restore`."""

    checkpoint: str
    memory: bool | None = None


@TOOLBOX.add(
    "Put the files back as a checkpoint has them. Present files are lost, commands end; those of a checkpoint "
    "with memory go on, unless `memory` is false.",
    destroys=True,
)
async def restore(call: ToolCall, given: RestoreArguments) -> ToolAnswer:
    box = await call.agent.existing(given.sandbox)
    await box.restore(given.checkpoint, memory=given.memory)
    return ToolAnswer(f"[restored {given.checkpoint}]", {"restored": given.checkpoint})


def _shown(box: bay.AsyncBox, more: dict[str, Any] | None = None) -> ToolAnswer:
    info = box.info
    data: dict[str, Any] = {
        "sandbox": info.name or info.id,
        "status": info.status,
        "compute": info.compute,
        "image": info.image,
        "network": info.network,
        "expires_at": info.expires_at and info.expires_at.isoformat(),
        **(more or {}),
    }
    return ToolAnswer(
        "\n".join(f"{name}: {value}" for name, value in data.items() if value not in (None, [])), data
    )


def _line(box: bay.AsyncBox) -> str:
    return f"{box.name or box.id} {box.info.status} {box.info.compute} {box.info.image}"
