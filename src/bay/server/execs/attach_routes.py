"""`…/attach`, `…/terminal` and `…/screen`: an exec live, by WebSocket, and the screen of one."""

from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from typing import Annotated

from fastapi import APIRouter, Query, WebSocket

from bay.errors import BayError
from bay.models import Screen
from bay.server.execs.attachments import Attached
from bay.server.execs.output import WaitForReader
from bay.server.execs.relay import accepted, relay
from bay.server.execs.service import NewExec
from bay.server.web.auth import Caller
from bay.server.web.dependencies import ERRORS, Reader, Services, SocketWriter, Svc
from bay.server.web.replies import WireResponse

router = APIRouter(
    prefix="/v1/sandboxes/{sandbox_id}", tags=["execs"], responses=ERRORS, default_response_class=WireResponse
)

Size = Annotated[int, Query(ge=1, le=1000)]
Since = Annotated[int | None, Query(ge=0, lt=2**63, description="Byte offset; without it all that is kept")]
Repaint = Annotated[bool, Query(description="Begin with what redraws the terminal's last screen")]

_SHELL = ("sh", "-c", 'exec "$(command -v bash || echo sh)" -l')
"""A login shell: bash where the image has it."""


@router.websocket("/execs/{exec_id}/attach")
async def attach(
    socket: WebSocket,
    caller: SocketWriter,
    services: Svc,
    sandbox_id: str,
    exec_id: str,
    since: Since = None,
    repaint: Repaint = False,
    wait_for_reader: WaitForReader = False,
) -> None:
    """Output as it comes, input as it is typed; leaves the exec running."""
    attached = services.attachments.attach(
        caller, sandbox_id, exec_id, since, repaint=repaint, claims=wait_for_reader
    )
    await _serve(socket, attached, AsyncExitStack())


@router.websocket("/terminal")
async def terminal(
    socket: WebSocket,
    caller: SocketWriter,
    services: Svc,
    sandbox_id: str,
    rows: Size | None = None,
    cols: Size | None = None,
    exec: Annotated[str | None, Query(max_length=64, description="Come back to this one")] = None,  # noqa: A002
) -> None:
    """A login shell on a terminal in one call, or one that was started before, beginning with its last screen."""
    async with AsyncExitStack() as undo:
        if exec is None:
            shell = NewExec(argv=_SHELL, tty=True, rows=rows or 24, cols=cols or 80, keep_alive=False)
            exec = (await services.execs.create(caller, sandbox_id, shell, None, None)).id  # noqa: A001
            undo.push_async_callback(_end, services, caller, sandbox_id, exec)
        size = (rows, cols) if rows is not None and cols is not None else None
        attached = services.attachments.attach(caller, sandbox_id, exec, None, repaint=True, size=size)
        await _serve(socket, attached, undo)


@router.get("/execs/{exec_id}/screen", response_model=Screen)
async def exec_screen(
    caller: Reader,
    services: Svc,
    sandbox_id: str,
    exec_id: str,
    scrollback: Annotated[int, Query(ge=0, le=10_000, description="Lines above the screen")] = 0,
) -> WireResponse:
    """What the exec's terminal shows now, as lines of text."""
    return WireResponse(await services.attachments.screen(caller, sandbox_id, exec_id, scrollback))


async def _serve(
    socket: WebSocket, opening: AbstractAsyncContextManager[Attached], undo: AsyncExitStack
) -> None:
    """Refuse in plain HTTP while that is possible, then relay. `undo` is for what a client that was refused knows nothing of."""
    async with opening as attached:
        if await accepted(socket):
            undo.pop_all()
            await relay(socket, attached)


async def _end(services: Services, caller: Caller, sandbox_id: str, exec_id: str) -> None:
    with suppress(BayError):  # why the client was refused says more
        await services.execs.delete(caller, sandbox_id, exec_id)
