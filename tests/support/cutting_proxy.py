"""A TCP proxy whose address stays while what is behind it comes and goes. Its connections can be cut or held
at any byte, and it can be away itself.
"""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager

_BLOCK = 4096
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close sends RST at once and drops what is unsent (socket(7))


class CuttingProxy:
    """Listens on a free loopback port. `target` is the port behind it, None while there is nobody."""

    def __init__(self) -> None:
        self.target: int | None = None
        self.port = 0
        self.cuts = 0
        """How many connections it has cut."""
        self.held = threading.Event()
        """Set once answers are held."""
        self._left: int | None = None
        self._later: list[int] = []
        self._until_held: int | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._listening = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def cut_after(self, count: int) -> None:
        """Cut all connections once `count` more bytes have gone to the clients."""
        self.cut_each([count])

    def cut_each(self, counts: Sequence[int]) -> None:
        """Cut all connections after each of these counts of bytes, one after the other."""
        self._loop.call_soon_threadsafe(self._plan, [*counts])

    def _plan(self, counts: list[int]) -> None:
        self._left, self._later = (counts[0] if counts else None), counts[1:]

    def hold_after(self, count: int) -> None:
        """Hold all answers once `count` more bytes have gone to the clients, until `refuse`."""
        self.held.clear()
        self._loop.call_soon_threadsafe(setattr, self, "_until_held", count)

    def refuse(self) -> None:
        """Cut all connections, and have the kernel refuse new ones until `listen`."""
        asyncio.run_coroutine_threadsafe(self._refuse(), self._loop).result(10)

    def listen(self) -> None:
        """Take connections again."""
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop, self._go = asyncio.Event(), asyncio.Event()
        with socket.socket() as place:  # never listens, and keeps the port from others while nothing does
            place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            place.bind(("127.0.0.1", 0))
            self.port = place.getsockname()[1]
            await self._listen()
            self._listening.set()
            await self._stop.wait()
            await self._refuse()
            await self._server.wait_closed()

    async def _listen(self) -> None:
        self._go.clear()
        self._server = await asyncio.start_server(self._pass, "127.0.0.1", self.port, reuse_port=True)

    async def _refuse(self) -> None:
        self._server.close()
        self._cut_all()
        self._until_held = None
        self._go.set()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            behind, to_behind = await asyncio.open_connection("127.0.0.1", self.target or 1)
        except OSError:
            self._cut(writer)
            return
        self._open.add(to_behind)
        with contextlib.suppress(OSError):
            await asyncio.gather(self._pump(reader, to_behind), self._count(behind, writer))
        for one in (writer, to_behind):
            self._cut(one)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_BLOCK):
            writer.write(data)
            await writer.drain()
        self._cut(writer)

    async def _count(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_BLOCK):
            if self._left is not None and len(data) > self._left:
                writer.write(data[: self._left])
                with contextlib.suppress(OSError):
                    await writer.drain()
                self._plan(self._later)
                self._cut_all()
                return
            if self._left is not None:
                self._left -= len(data)
            await self._hold(len(data))
            writer.write(data)
            await writer.drain()
        self._cut(writer)

    async def _hold(self, count: int) -> None:
        """Return when so many bytes may go on."""
        if self._until_held is None:
            return
        self._until_held -= count
        if self._until_held < 0:
            self.held.set()
            await self._go.wait()

    def _cut_all(self) -> None:
        self.cuts += 1
        for writer in list(self._open):
            self._cut(writer)

    def _cut(self, writer: asyncio.StreamWriter) -> None:
        self._open.discard(writer)
        with contextlib.suppress(OSError):
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        writer.transport.abort()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)


@contextmanager
def cutting_proxy() -> Generator[CuttingProxy]:
    """A proxy until the end of the block."""
    proxy = CuttingProxy()
    proxy._thread.start()
    assert proxy._listening.wait(10)
    try:
        yield proxy
    finally:
        proxy._end()
