"""An attachment to an exec: live output, and input that wakes the sandbox if it must.

Any number may be attached. Each reads Ship's buffer at its own offset, and Bay buffers nothing, so a slow one
delays only the command that waits for it; any other gets the offset where the buffer begins now.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated, Literal

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from bay.errors import BadRequest, BayError, Conflict, OutputGone, ShipError
from bay.models import Exec, OutputChunk, Screen
from bay.server.execs.locator import LOST, ExecLocator
from bay.server.execs.screen import Screens
from bay.server.execs.service import Execs, NewExec, as_asked
from bay.server.sessions.session_stream import SessionStream
from bay.server.sessions.waker import Waker
from bay.server.ship.client import Attachment, OutputEnd, ShipClient
from bay.server.ship.connection import Peer
from bay.server.web.auth import Caller
from bay.server.web.bodies import SignalName
from bay.server.web.open_connections import OpenConnections
from ship_protocol import END_OF_STDIN, STDIN, TERMINAL_EXTENT

_SHELL = ("sh", "-c", 'exec "$(command -v bash || echo sh)" -l')
"""A login shell: bash where the image has it."""

AttachSince = Callable[[int | None], AbstractAsyncContextManager[Attachment]]

_TRIES = 2
"""How often a screen is rendered whose end the buffer has let go of meanwhile."""

_REPAINT_LINES = 1000
"""How many lines that have left the screen a repaint brings along."""

_READS = 5
"""How often the output is read that the buffer lets go of meanwhile."""

_MAX_OUTPUT = 17 << 20
"""Bytes, just above the largest buffer that Ship has."""


Rows = Annotated[int, Field(ge=1, le=TERMINAL_EXTENT)]

MAX_CONTROL = 1024


class Resize(BaseModel):
    """The client's window has another size now."""

    type: Literal["resize"]
    rows: Rows
    cols: Rows


class Signal(BaseModel):
    """To the process, or to what runs in the foreground of its terminal."""

    type: Literal["signal"]
    signal: SignalName


_control: TypeAdapter[Resize | Signal] = TypeAdapter(Annotated[Resize | Signal, Field(discriminator="type")])


def check_input(frame: bytes) -> None:
    """Raises BadRequest unless `frame` is stdin, or its end."""
    if frame[:1] != STDIN and frame != END_OF_STDIN:
        raise BadRequest("a binary frame must be byte 0 and data for stdin, or byte 4 alone to end stdin")


def parse_control(text: str) -> Resize | Signal:
    """A text frame. Raises BadRequest when it is neither a resize nor a signal."""
    if len(text) > MAX_CONTROL:
        raise BadRequest(
            f"a text frame may have at most {MAX_CONTROL} characters; send stdin in binary frames"
        )
    try:
        return _control.validate_json(text)
    except ValidationError as error:
        raise BadRequest(
            "a text frame must be JSON of type resize or signal; send stdin in binary frames"
        ) from error


@dataclass(kw_only=True)
class Attached(SessionStream):
    """A client's attachment to an exec."""

    exec: Exec
    attachment: Attachment
    repaint: bytes | None
    """The bytes that redraw the screen as it was at `next_offset`."""
    undo: AsyncExitStack = field(default_factory=AsyncExitStack)
    """Ends what was made for this client, unless it is accepted."""

    @property
    def next_offset(self) -> int:
        """The offset of the first byte that `frames` gives."""
        return self.attachment.next_offset

    def accept(self) -> None:
        """Keep the exec that was started for this client: the client knows of it from here on."""
        self.undo.pop_all()

    def frames(self) -> AsyncGenerator[bytes | OutputEnd]:
        """Output after its stream's mark, and at last how the exec ended: `lost` if its session did first.
        Raises OutputGone when the buffer has let go of what comes next, and ShipError when the sandbox cannot
        be heard.
        """
        return self.until_over(self.attachment.frames(), lambda: LOST)

    async def send(self, message: bytes | Resize | Signal) -> None:
        """Pass input on, as fast as it is taken; wakes a frozen sandbox. Dropped once its session is over."""
        if not await self.thaw():
            return
        if isinstance(message, bytes):
            await self.attachment.send(message)
        else:
            await self.attachment.send_json(message.model_dump())


class Attachments:
    """The service behind `…/attach`, `…/terminal` and `…/screen`."""

    def __init__(
        self,
        *,
        waker: Waker,
        locator: ExecLocator,
        execs: Execs,
        ship: ShipClient,
        screens: Screens,
        connections: OpenConnections,
    ) -> None:
        self._execs = execs
        self._waker = waker
        self._locator = locator
        self._ship = ship
        self._screens = screens
        self._connections = connections

    @asynccontextmanager
    async def attach(
        self,
        caller: Caller,
        ref: str,
        exec_id: str,
        since: int | None,
        *,
        repaint: bool = False,
        size: tuple[int, int] | None = None,
        claims: bool = False,
        placed: bool = False,
    ) -> AsyncGenerator[Attached]:
        """Attach to an exec from byte `since` on, or from its last screen, resized to `size` (rows, columns).
        With `claims` this is the reader that the exec waits for; one that is `placed` is counted among the
        owner's connections already. Thaws a frozen sandbox once; it may freeze
        again meanwhile. Raises OutputGone as `Execs.output` does, and BadRequest for the screen of what has
        none.
        """
        with nullcontext() if placed else self._connections.place(caller.owner):
            async with self._locator.locate(caller, ref, exec_id, thaw=True, follower=True) as found:
                peer = found.live_peer
                if size is not None:
                    with suppress(Conflict):  # it has ended, or has no terminal: reported below
                        await self._ship.resize_exec(peer, exec_id, *size)
                attach = partial(self._ship.attach, peer, exec_id, claims=claims)
                opened = self._at_screen(peer, exec_id, attach) if repaint else self._at(attach, since)
                async with opened as (attachment, redraw):
                    yield Attached(
                        caller=caller,
                        sandbox_id=found.sandbox_id,
                        session_id=peer.session_id,
                        waker=self._waker,
                        connections=self._connections,
                        exec=as_asked(attachment.exec, found.item),
                        attachment=attachment,
                        repaint=redraw,
                    )

    @asynccontextmanager
    async def terminal(
        self, caller: Caller, ref: str, exec_id: str | None, rows: int | None, cols: int | None
    ) -> AsyncGenerator[Attached]:
        """Attach to an exec's last screen; without `exec_id` to a new login shell, ended if unaccepted."""
        async with AsyncExitStack() as undo:
            if exec_id is None:
                shell = NewExec(argv=_SHELL, tty=True, rows=rows or 24, cols=cols or 80, keep_alive=False)
                exec_id = (await self._execs.create(caller, ref, shell, None, None)).id
                undo.push_async_callback(self._end, caller, ref, exec_id)
            size = (rows, cols) if rows is not None and cols is not None else None
            async with self.attach(caller, ref, exec_id, None, repaint=True, size=size) as attached:
                attached.undo = undo
                yield attached

    async def _end(self, caller: Caller, ref: str, exec_id: str) -> None:
        with suppress(BayError):  # why the client was refused says more
            await self._execs.delete(caller, ref, exec_id)

    async def screen(self, caller: Caller, ref: str, exec_id: str, scrollback: int) -> Screen:
        """The screen of an exec's terminal as it is now, with up to `scrollback` lines that have left it."""
        async with self._locator.locate(caller, ref, exec_id, thaw=True) as found:
            screen, _ = await self._render(found.live_peer, exec_id, scrollback)
            return screen

    @asynccontextmanager
    async def _at(self, attach: AttachSince, since: int | None) -> AsyncGenerator[tuple[Attachment, None]]:
        async with attach(since) as attachment:
            yield attachment, None

    @asynccontextmanager
    async def _at_screen(
        self, peer: Peer, exec_id: str, attach: AttachSince
    ) -> AsyncGenerator[tuple[Attachment, bytes]]:
        async with AsyncExitStack() as stack:
            yield await self._enter_at_screen(stack, peer, exec_id, attach)

    async def _enter_at_screen(
        self, stack: AsyncExitStack, peer: Peer, exec_id: str, attach: AttachSince
    ) -> tuple[Attachment, bytes]:
        """Attach just behind what the screen shows."""
        redraw = b""
        for _ in range(_TRIES):
            with suppress(OutputGone):
                screen, redraw = await self._render(peer, exec_id, _REPAINT_LINES)
                return await stack.enter_async_context(attach(screen.offset)), redraw
        # It prints faster than a screen can be rendered: the gap would have scrolled off at once.
        return await stack.enter_async_context(attach(None)), redraw

    async def _render(self, peer: Peer, exec_id: str, scrollback: int) -> tuple[Screen, bytes]:
        item, data, offset = await self._read(peer, exec_id)
        screen, redraw = await self._screens.render(data, item.rows or 24, item.cols or 80, scrollback)
        return replace(screen, offset=offset), redraw

    async def _read(self, peer: Peer, exec_id: str) -> tuple[Exec, bytes, int]:
        """The exec on a terminal, its buffered output (less with each try), and the offset behind that."""
        attempt = 0
        while True:
            item = await self._ship.get_exec(peer, exec_id, None)
            if not item.tty:
                raise BadRequest(f"exec {exec_id} has no terminal, so it has no screen; start it with tty")
            skipped = (item.output_bytes - item.first_offset) * attempt // _READS
            try:
                return item, *await self._read_from(peer, exec_id, item.first_offset + skipped)
            except OutputGone:
                attempt += 1
                if attempt == _READS:
                    raise

    async def _read_from(self, peer: Peer, exec_id: str, offset: int) -> tuple[bytes, int]:
        data = bytearray()
        async with self._ship.output(peer, exec_id, offset, follow=False) as chunks:
            async for chunk in _chunks_of(chunks):
                data += chunk.data
                if len(data) > _MAX_OUTPUT:
                    raise ShipError("the sandbox's runtime sent more output than it can buffer")
                offset = chunk.offset + len(chunk.data)
        return bytes(data), offset


async def _chunks_of(items: AsyncIterator[OutputChunk | OutputEnd]) -> AsyncGenerator[OutputChunk]:
    async for item in items:
        if isinstance(item, OutputChunk):
            yield item
