"""The routes `…/attach`, `…/terminal` and `…/screen`: an exec live, by WebSocket, and the screen of one."""

from contextlib import AbstractAsyncContextManager
from typing import Annotated

from fastapi import Query, WebSocket

from bay.models import Screen
from bay.server.execs.attachments import Attached, Attachments
from bay.server.execs.output import WaitForReader
from bay.server.execs.relay import relay
from bay.server.web.dependencies import Reader, SocketWriter, noun_router, service
from bay.server.web.replies import WireResponse
from bay.server.web.websocket_close import accepted
from ship_protocol import TERMINAL_EXTENT

router = noun_router("execs", "/v1/sandboxes/{sandbox_id}")

AttachmentsDep = Annotated[Attachments, service(Attachments)]

Size = Annotated[int, Query(ge=1, le=TERMINAL_EXTENT)]
Since = Annotated[int | None, Query(ge=0, lt=2**63, description="Byte offset; default: the oldest kept byte")]
Repaint = Annotated[bool, Query(description="Begin with a redraw of the terminal's last screen")]


@router.websocket("/execs/{exec_id}/attach")
async def attach(
    socket: WebSocket,
    caller: SocketWriter,
    attachments: AttachmentsDep,
    sandbox_id: str,
    exec_id: str,
    since: Since = None,
    repaint: Repaint = False,
    wait_for_reader: WaitForReader = False,
) -> None:
    """Attach to an exec: live output and input. The exec survives the attachment."""
    attached = attachments.attach(caller, sandbox_id, exec_id, since, repaint=repaint, claims=wait_for_reader)
    await _serve(socket, attached)


@router.websocket("/terminal")
async def terminal(
    socket: WebSocket,
    caller: SocketWriter,
    attachments: AttachmentsDep,
    sandbox_id: str,
    rows: Size | None = None,
    cols: Size | None = None,
    exec: Annotated[str | None, Query(max_length=64, description="Reattach to this exec")] = None,  # noqa: A002
) -> None:
    """Open a login shell on a terminal, or reattach to one, beginning with its last screen."""
    await _serve(socket, attachments.terminal(caller, sandbox_id, exec, rows, cols))


@router.get("/execs/{exec_id}/screen", response_model=Screen)
async def exec_screen(
    caller: Reader,
    attachments: AttachmentsDep,
    sandbox_id: str,
    exec_id: str,
    scrollback: Annotated[
        int, Query(ge=0, le=10_000, description="Lines of scrollback above the screen")
    ] = 0,
) -> WireResponse:
    """The present screen of the exec's terminal, as lines of text."""
    return WireResponse(await attachments.screen(caller, sandbox_id, exec_id, scrollback))


async def _serve(socket: WebSocket, opening: AbstractAsyncContextManager[Attached]) -> None:
    """Refuse in plain HTTP while that is possible, then relay."""
    async with opening as attached:
        if await accepted(socket):
            attached.accept()
            await relay(socket, attached)
