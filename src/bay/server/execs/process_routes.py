"""The routes `…/processes`: the processes of a sandbox, and signals for them."""

from typing import Annotated

from fastapi import Path as PathParameter

from bay.models import Process
from bay.server.execs.processes import Processes
from bay.server.execs.routes import SendSignal
from bay.server.web.dependencies import Reader, Writer, noun_router, service
from bay.server.web.replies import Items, Ok, WireResponse

router = noun_router("processes", "/v1/sandboxes/{sandbox_id}")

ProcessesDep = Annotated[Processes, service(Processes)]


class ProcessList(Items[Process]):
    """Every process of a sandbox."""


@router.get("/processes", response_model=ProcessList)
async def list_processes(caller: Reader, processes: ProcessesDep, sandbox_id: str) -> WireResponse:
    """The processes of the sandbox, each with its parent's id; none without compute."""
    return WireResponse({"items": await processes.list(caller, sandbox_id)})


@router.post("/processes/{pid}/signal", response_model=Ok)
async def signal_process(
    caller: Writer,
    processes: ProcessesDep,
    sandbox_id: str,
    pid: Annotated[int, PathParameter(ge=1, lt=2**31)],
    body: SendSignal,
) -> WireResponse:
    """Send a signal to one process; the sandbox's runtime, its first process, refuses signals."""
    await processes.signal(caller, sandbox_id, pid, body.signal)
    return WireResponse({"status": "ok"})
