"""The routes `…/processes`: the processes of a sandbox, and signals for them."""

from typing import Annotated

from fastapi import APIRouter
from fastapi import Path as PathParameter
from pydantic import BaseModel

from bay.models import Process
from bay.server.execs.processes import Processes
from bay.server.execs.routes import SendSignal
from bay.server.web.dependencies import ERRORS, Reader, Writer, service
from bay.server.web.replies import Ok, WireResponse

router = APIRouter(
    prefix="/v1/sandboxes/{sandbox_id}",
    tags=["processes"],
    responses=ERRORS,
    default_response_class=WireResponse,
)

ProcessesDep = Annotated[Processes, service(Processes)]


class ProcessList(BaseModel):
    """Every process of a sandbox."""

    items: list[Process]


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
