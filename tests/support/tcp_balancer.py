"""A TCP balancer on a loopback port: each connection goes to the next backend that takes it."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager

_BLOCK = 1 << 16
_WAIT_S = 10


class Balancer:
    """`ports` gives those of the backends of now. One that refuses is skipped; when all refuse, or a backend
    goes away, the client's connection is closed.
    """

    def __init__(self, ports: Callable[[], Sequence[int]]) -> None:
        self.port = 0
        self._ports = ports
        self._turn = 0
        self._running = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        async with await asyncio.start_server(self._pass, "127.0.0.1", 0) as server:
            self.port = server.sockets[0].getsockname()[1]
            self._running.set()
            await self._stop.wait()
            # Left open, a connection would keep the server from its end.
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.CancelledError), contextlib.closing(writer.transport):
            if (behind := await self._next()) is not None:
                from_behind, to_behind = behind
                with contextlib.closing(to_behind.transport):
                    await asyncio.gather(_pump(reader, to_behind), _pump(from_behind, writer))

    async def _next(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        ports = self._ports()
        self._turn += 1
        for place in range(len(ports)):
            with contextlib.suppress(OSError):
                return await asyncio.open_connection("127.0.0.1", ports[(self._turn + place) % len(ports)])
        return None


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(_BLOCK):
            writer.write(data)
            await writer.drain()
    # One side's end is the other's: HTTP has no half-closed connections.
    writer.close()


@contextmanager
def balancing(balancer: Balancer) -> Generator[None]:
    """Have it listen until the block is left."""
    balancer._thread.start()
    assert balancer._running.wait(_WAIT_S)
    try:
        yield
    finally:
        balancer._loop.call_soon_threadsafe(balancer._stop.set)
        balancer._thread.join(_WAIT_S)
