"""The routes `…/kernels` and `…/python/exec`: run code that keeps its variables, and read its output."""

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack
from typing import Annotated

from fastapi import Path, Query, Request, Response
from pydantic import Field, StringConstraints
from starlette.responses import StreamingResponse

from bay.cell_output import event_to_wire
from bay.ids import new_id
from bay.models import CellEvent, Kernel, KernelSpec, PythonResult
from bay.server.kernels.service import Kernels, NewCell, NewKernel
from bay.server.web.bodies import DURATION, Body, Description, Tags
from bay.server.web.concurrency import entered_while_connected
from bay.server.web.dependencies import Cwd, Env, IdempotencyKey, Reader, User, Writer, noun_router, service
from bay.server.web.replies import HeldResponse, Items, WireResponse
from bay.store.records import HistoryNote

router = noun_router("kernels", "/v1/sandboxes/{sandbox_id}")

KernelsDep = Annotated[Kernels, service(Kernels)]

NDJSON = "application/x-ndjson"
Code = Annotated[str, StringConstraints(max_length=1 << 20)]
KernelId = Annotated[str, Path(max_length=64, description="`default`, or an id of a create")]
CellId = Annotated[str, Path(max_length=64, description="The id from the call or the answer of `run`")]


class RunPython(Body):
    """Code for the default kernel."""

    code: Code
    timeout: Annotated[int, Field(ge=1, le=300, description="Seconds from its start"), DURATION] = 30
    include_code: Annotated[bool, Field(description="Echo the code in the answer")] = False
    description: Description = None
    tags: Tags = None


class CreateKernel(Body):
    """The spec, directory, environment and user of a new kernel."""

    spec: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,128}$", description="One of `kernelspecs`")] = (
        "python3"
    )
    cwd: Cwd = None
    env: Env = Field(default_factory=dict)
    user: User = None


class RunCell(Body):
    """Code, its time limit, its variables and its id."""

    code: Code
    timeout_s: Annotated[float, Field(gt=0, le=7 * 86400, description="Seconds from its start"), DURATION] = (
        300
    )
    id: Annotated[str | None, Field(pattern=r"^cell-[0-9a-f]{24}$", description="Chosen by the client")] = (
        None
    )
    env: Annotated[Env, Field(description="Set for this cell and put back after it")] = Field(
        default_factory=dict
    )
    attached: Annotated[bool, Field(description="Interrupt it when the reader of the answer leaves")] = False
    describe: Annotated[bool, Field(description="Describe figures and tables as data too")] = False


class KernelList(Items[Kernel]):
    """All kernels of a sandbox."""


class KernelSpecList(Items[KernelSpec]):
    """The kernel specs of an image."""


@router.post("/python/exec", response_model=PythonResult)
async def python_exec(caller: Writer, kernels: KernelsDep, sandbox_id: str, body: RunPython) -> WireResponse:
    """Run code in the default kernel to its end. A timeout interrupts it and returns the output so far."""
    note = HistoryNote(exec_type="python", code=body.code, description=body.description, tags=body.tags)
    result = await kernels.python(caller, sandbox_id, note, body.timeout, include_code=body.include_code)
    return WireResponse(result)


@router.get("/kernelspecs", response_model=KernelSpecList)
async def list_kernelspecs(caller: Reader, kernels: KernelsDep, sandbox_id: str) -> WireResponse:
    """The kernel specs of the image. Wakes the sandbox."""
    return WireResponse({"items": await kernels.specs(caller, sandbox_id)})


@router.post("/kernels", status_code=201, response_model=Kernel)
async def create_kernel(
    caller: Writer,
    kernels: KernelsDep,
    sandbox_id: str,
    body: CreateKernel | None = None,
    idempotency_key: IdempotencyKey = None,
) -> WireResponse:
    """Create a kernel beside the default one."""
    new = NewKernel(**(body or CreateKernel()).model_dump())
    return WireResponse(await kernels.create(caller, sandbox_id, new, idempotency_key), 201)


@router.get("/kernels", response_model=KernelList)
async def list_kernels(caller: Reader, kernels: KernelsDep, sandbox_id: str) -> WireResponse:
    """The kernels of a sandbox; none without compute."""
    return WireResponse({"items": await kernels.every(caller, sandbox_id)})


@router.get("/kernels/{kernel_id}", response_model=Kernel)
async def get_kernel(
    caller: Reader, kernels: KernelsDep, sandbox_id: str, kernel_id: KernelId
) -> WireResponse:
    """One kernel; 404 when it ended with its session."""
    return WireResponse(await kernels.get(caller, sandbox_id, kernel_id))


@router.delete("/kernels/{kernel_id}", status_code=204)
async def delete_kernel(
    caller: Writer, kernels: KernelsDep, sandbox_id: str, kernel_id: KernelId
) -> Response:
    """End a kernel and its process tree."""
    await kernels.delete(caller, sandbox_id, kernel_id)
    return Response(status_code=204)


@router.post("/kernels/{kernel_id}/interrupt", response_model=Kernel)
async def interrupt_kernel(
    caller: Writer, kernels: KernelsDep, sandbox_id: str, kernel_id: KernelId
) -> WireResponse:
    """Interrupt the running cell, if any; queued ones continue."""
    return WireResponse(await kernels.act(caller, sandbox_id, kernel_id, "interrupt"))


@router.post("/kernels/{kernel_id}/restart", response_model=Kernel)
async def restart_kernel(
    caller: Writer, kernels: KernelsDep, sandbox_id: str, kernel_id: KernelId
) -> WireResponse:
    """Restart the kernel under the same id, without variables."""
    return WireResponse(await kernels.act(caller, sandbox_id, kernel_id, "restart"))


@router.post("/kernels/{kernel_id}/run", response_class=StreamingResponse)
async def run_cell(
    request: Request,
    caller: Writer,
    kernels: KernelsDep,
    sandbox_id: str,
    kernel_id: KernelId,
    body: RunCell,
) -> StreamingResponse:
    """Run code and follow its events as lines of JSON; reconnect by the id in `Bay-Cell-Id`."""
    cell_id = body.id or new_id("cell")
    cell = NewCell(
        id=cell_id,
        code=body.code,
        timeout_s=body.timeout_s,
        env=body.env,
        attached=body.attached,
        describe=body.describe,
    )
    running = kernels.run(caller, sandbox_id, kernel_id, cell)
    if body.attached:  # one whose reader left while the sandbox woke must not begin
        stack, events = await entered_while_connected(request, running)
    else:
        stack = AsyncExitStack()
        events = await stack.enter_async_context(running)
    return HeldResponse(stack, _lines(events), media_type=NDJSON, headers={"Bay-Cell-Id": cell_id})


@router.get("/kernels/{kernel_id}/cells/{cell_id}/events", response_class=StreamingResponse)
async def cell_events(
    caller: Reader,
    kernels: KernelsDep,
    sandbox_id: str,
    kernel_id: KernelId,
    cell_id: CellId,
    since: Annotated[int, Query(ge=0, lt=2**63, description="The first event to return, by `seq`")] = 0,
    follow: Annotated[bool, Query(description="Follow until the cell has ended")] = False,
) -> StreamingResponse:
    """A cell's events as lines of JSON, until ten minutes after its end."""
    stack = AsyncExitStack()
    opened = kernels.events(caller, sandbox_id, kernel_id, cell_id, since, follow=follow)
    events = await stack.enter_async_context(opened)
    return HeldResponse(stack, _lines(events), media_type=NDJSON)


async def _lines(events: AsyncIterator[CellEvent]) -> AsyncGenerator[bytes, None]:
    async for event in events:
        yield json.dumps(event_to_wire(event), ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
