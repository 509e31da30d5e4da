"""Listening on TCP with TLS: strangers are few, and soon gone.

Anybody may connect, also programs of the sandbox. A connection is a stranger's until a request with the right
token has come. When there are too many, one gives way to the newest: one of a program of this host if there
is one, else any, so that a flood of them does not keep Bay out for certain.
"""

import asyncio
import os
import socket
import ssl
from collections.abc import Callable, Coroutine
from typing import Any

from ship.http.connection import Connection
from ship.http.door import Door
from ship.ports.ports import Ports
from ship_protocol.tls import KEEP_ALIVE, TlsLayer

_MAX_STRANGERS = 64
_STRANGER_S = 10.0
_BACKLOG = 1024

Serve = Callable[[Connection], Coroutine[Any, Any, None]]


class TlsListener:
    """Serves the connections of `listening`: by `serve` at first, at a door once that is open."""

    def __init__(self, listening: socket.socket, context: ssl.SSLContext, serve: Serve) -> None:
        self._listening = listening
        self._context = context
        self._serve = serve
        self._door: asyncio.Future[Door] = asyncio.get_running_loop().create_future()
        self._server: asyncio.Server | None = None
        self._strangers: dict[TlsLayer, tuple[Connection, asyncio.TimerHandle]] = {}

    async def start(self) -> None:
        """Take connections from now on."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._accept, sock=self._listening, backlog=_BACKLOG)

    async def wait_for_door(self, wire: Connection) -> None:
        """Serve a connection at the door, once that is open."""
        door = await asyncio.shield(self._door)
        await door.serve(wire)

    def serve_by(self, serve: Serve) -> None:
        """Serve connections that come from now on by it."""
        self._serve = serve

    async def open(self, door: Door) -> None:
        """Serve connections at `door`."""
        self._door.set_result(door)
        self._serve = door.serve

    def may_ask(self, _wire: Connection) -> bool:
        """Any peer, since the token is the proof."""
        return True

    def close(self) -> None:
        """Take no more connections."""
        if self._server is not None:
            self._server.close()

    def hide_from(self, ports: Ports) -> None:
        """Ship's own port is none of the sandbox's."""
        ports.hide(self._listening)

    def remove(self) -> None:
        """There is nothing to remove."""

    def _accept(self) -> TlsLayer:
        if len(self._strangers) >= _MAX_STRANGERS:
            self._show_one_out()
        loop = asyncio.get_running_loop()
        wire = Connection(self._serve)
        layer = TlsLayer(self._context, wire, server=True, ended=self._forget)
        timer = loop.call_later(_STRANGER_S, self._expire, layer)
        self._strangers[layer] = wire, timer
        return layer

    def _show_one_out(self) -> None:
        for layer, (wire, _timer) in list(self._strangers.items()):
            if wire.is_trusted:
                self._forget(layer)
        if len(self._strangers) < _MAX_STRANGERS:
            return
        chosen = list(filter(_is_of_this_host, self._strangers)) or list(self._strangers)
        one = chosen[int.from_bytes(os.urandom(4), "big") % len(chosen)]
        self._forget(one)
        one.abort()

    def _expire(self, layer: TlsLayer) -> None:
        wire, _timer = self._strangers[layer]
        self._forget(layer)
        if not wire.is_trusted:
            layer.abort()

    def _forget(self, layer: TlsLayer) -> None:
        if (found := self._strangers.pop(layer, None)) is not None:
            found[1].cancel()


def listen(address: str) -> socket.socket:
    """A socket bound to HOST:PORT, or [HOST]:PORT. Raises ValueError or OSError."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit():
        raise ValueError("SHIP_LISTEN must be HOST:PORT")
    host = host.removeprefix("[").removesuffix("]")
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if ":" in host:
        bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # this and the next hold for its connections
    for option, value in KEEP_ALIVE.items():
        bound.setsockopt(socket.IPPROTO_TCP, option, value)
    bound.bind((host, int(port)))
    return bound


def _is_of_this_host(layer: TlsLayer) -> bool:
    peer, own = layer.get_extra_info("peername"), layer.get_extra_info("sockname")
    return bool(peer and own) and peer[0] == own[0]
