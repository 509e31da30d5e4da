"""A TLS server in front of a Bay, as an operator has one, for names that no DNS knows.

Clients that can be told of a proxy reach it by `CONNECT`, whatever name they ask for; others connect to it
as if the name had been resolved.
"""

import asyncio
import contextlib
import ssl
import tempfile
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from anyio.from_thread import start_blocking_portal
from registry import authority

_BLOCK = 65536


@dataclass(eq=False)
class TlsFront:
    """Answers at `port` of loopback for `*.{domain}`, and takes `CONNECT` at `proxy_port`."""

    domain: str
    trust: Path
    """The certificate of the authority that clients must trust."""
    port: int = 0
    proxy_port: int = 0
    target: int = 0
    """The port of the server behind it."""
    _open: set[asyncio.StreamWriter] = field(default_factory=set[asyncio.StreamWriter])

    @property
    def public_url(self) -> str:
        """The URL that Bay is to take for its own."""
        return f"https://{self.domain}:{self.port}"

    @asynccontextmanager
    async def serving(self, context: ssl.SSLContext) -> AsyncGenerator[None]:
        """Listen until the block is left, then cut every connection."""
        front = await asyncio.start_server(self._front, "127.0.0.1", 0, ssl=context)
        proxy = await asyncio.start_server(self._proxy, "127.0.0.1", 0)
        self.port, self.proxy_port = (one.sockets[0].getsockname()[1] for one in (front, proxy))
        try:
            yield
        finally:
            front.close()
            proxy.close()
            for writer in list(self._open):
                writer.transport.abort()

    async def _front(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._join(reader, writer, self.target)

    async def _proxy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        name = head.split(b" ")[1].rpartition(b":")[0].decode()
        assert name.endswith(f".{self.domain}"), head
        writer.write(b"HTTP/1.1 200 Connected\r\n\r\n")
        await self._join(reader, writer, self.port)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
        behind, to_behind = await asyncio.open_connection("127.0.0.1", port)
        self._open |= {writer, to_behind}
        try:
            await asyncio.gather(_pump(reader, to_behind), _pump(behind, writer))
        finally:
            self._open -= {writer, to_behind}


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Carry one direction to its end, which closes the other side: HTTP has no half of a connection."""
    with contextlib.suppress(OSError):
        while data := await reader.read(_BLOCK):
            writer.write(data)
            await writer.drain()
    writer.close()


@contextmanager
def tls_front(domain: str) -> Generator[TlsFront]:
    """Listen until the block is left."""
    with (
        tempfile.TemporaryDirectory(prefix="bay-tls-", dir="/tmp") as root,
        start_blocking_portal("asyncio") as portal,
    ):
        made = authority(Path(root, "ca"), domain, f"*.{domain}")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(made / "server.crt", made / "server.key")
        context.set_alpn_protocols(["http/1.1"])
        front = TlsFront(domain, made / "ca.crt")
        with portal.wrap_async_context_manager(front.serving(context)):
            yield front
