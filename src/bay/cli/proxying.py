"""The proxy's event loop: each connection has a tunnel of its own, and buffers no more than a little.

A broken connection is reset, so that no peer takes half of a stream for the whole of it. Plain asyncio
streams and not anyio's, which close in good order in any case.
"""

import asyncio
import resource
import signal
import socket
import struct
from collections.abc import Awaitable, Callable, Generator
from contextlib import ExitStack, contextmanager, suppress

import anyio
import anyio.abc

import bay
from bay.cli.commands.proxy import Forward, ProxyPlan, written
from bay.cli.output import note
from bay.errors import BayError, Conflict

Say = Callable[[str, int, int], None]
Way = Callable[[], Awaitable[None]]

PIECE_BYTES = 64 << 10
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SPARE_FILES = 64
_AFTER_TROUBLE_S = 0.2
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER (socket(7)): drop unsent data, and send RST in place of FIN."""


def run(plan: ProxyPlan, say: Say) -> int:
    """Serve until a signal ends it; the exit code. `say` is called for each port that is listened on."""
    return asyncio.run(_Proxy(plan).run(say))


class _Proxy:
    """All ports of one `bay proxy`."""

    def __init__(self, plan: ProxyPlan) -> None:
        self._plan = plan
        self._room = asyncio.Semaphore(_most_connections())
        """Held by each connection, which takes two descriptors.

        With none left, nothing could be accepted or refused.
        """

    async def run(self, say: Say) -> int:
        plan = self._plan
        async with bay.AsyncClient(plan.url, plan.api_key) as client:
            box = await client.sandboxes.get(plan.name)
            with ExitStack() as open_, _told() as told:
                listeners = [
                    (_listen(plan.bind, forward, open_), forward.remote) for forward in plan.forwards
                ]
                for listener, remote in listeners:
                    say(plan.bind, listener.getsockname()[1], remote)
                async with anyio.create_task_group() as tasks:
                    for listener, remote in listeners:
                        tasks.start_soon(self._serve, tasks, box, listener, remote)
                    await told
                    tasks.cancel_scope.cancel()
                return 128 + told.result()

    async def _serve(
        self, tasks: anyio.abc.TaskGroup, box: bay.AsyncBox, listener: socket.socket, remote: int
    ) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._room.acquire()
            try:
                accepted, peer = await loop.sock_accept(listener)
            except OSError as error:
                self._room.release()
                note(f"cannot take a connection: {error.strerror or error}")
                await anyio.sleep(_AFTER_TROUBLE_S)
            else:
                what = f"{written(*peer[:2])} -> {self._plan.name}:{remote}"
                tasks.start_soon(self._connection, box, accepted, remote, what)

    async def _connection(self, box: bay.AsyncBox, accepted: socket.socket, remote: int, what: str) -> None:
        try:
            # Before anything is read: a connection that is closed for want of a tunnel is a refused one.
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            with accepted:
                async with box.tunnel(remote) as tunnel:
                    await _Carrying(tunnel).run(accepted)
        except BayError as error:
            note(f"{what}: {error.message}")
        finally:
            self._room.release()


class _Carrying:
    """One connection here and its tunnel."""

    def __init__(self, tunnel: bay.AsyncTunnel) -> None:
        self._tunnel = tunnel
        self._failure: BayError | None = None
        self._broken = False

    async def run(self, accepted: socket.socket) -> None:
        """Carry both directions to their ends. Raises the tunnel's error, and resets the connection here."""
        self._reader, self._writer = await asyncio.open_connection(sock=accepted, limit=PIECE_BYTES)
        try:
            async with anyio.create_task_group() as both:
                for way in (self._up, self._down):
                    both.start_soon(self._guarded, way, both.cancel_scope)
            if not self._broken:
                await self._close(accepted)
        finally:
            self._writer.transport.abort()
        if self._failure is not None:
            raise self._failure

    async def _guarded(self, way: Way, scope: anyio.CancelScope) -> None:
        try:
            await way()
        except (BayError, OSError) as error:
            # An OSError is a client that has left: no message.
            self._failure = error if isinstance(error, BayError) else None
            self._broken = True
            scope.cancel()

    async def _up(self) -> None:
        """From here to the sandbox."""
        try:
            while data := await self._reader.read(PIECE_BYTES):
                await self._tunnel.send(data)
        except Conflict:
            return  # its sending side is closed, but earlier data may still be on its way here
        await self._tunnel.send_eof()

    async def _down(self) -> None:
        """From the sandbox to here."""
        while data := await self._tunnel.receive():
            self._writer.write(data)
            await self._writer.drain()
        self._writer.write_eof()

    async def _close(self, accepted: socket.socket) -> None:
        """Both have ended: unsent data goes out, for as long as that takes."""
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 0, 0))
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()


@contextmanager
def _told() -> Generator["asyncio.Future[int]", None, None]:
    """The number of the first signal to end."""
    loop = asyncio.get_running_loop()
    told: asyncio.Future[int] = loop.create_future()

    def note_it(number: int) -> None:
        if not told.done():
            told.set_result(number)

    for number in _ENDING:
        loop.add_signal_handler(number, note_it, number)
    try:
        yield told
    finally:
        for number in _ENDING:
            loop.remove_signal_handler(number)


def _listen(bind: str, forward: Forward, open_: ExitStack) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(bind, forward.local, type=socket.SOCK_STREAM)[0]
        listener = open_.enter_context(socket.create_server(address[:2], family=family, backlog=1024))
    except OSError as error:
        where = written(bind, forward.local)
        raise BayError(
            f"cannot listen on {where}: {error.strerror or error}; choose another port or --bind"
        ) from error
    listener.setblocking(False)
    return listener


def _most_connections() -> int:
    """As many as this process may have files for, of which it asks for all that it may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return max(1, (min(soft, 1 << 20) - _SPARE_FILES) // 2)
