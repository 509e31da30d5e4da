"""Connects to a session's Ship: the one way to it, for drivers and for the server.

A Unix socket: the sandbox may have replaced its path, so it is opened without following a link, must be a
socket, and the kernel must report the session's own first process as the peer.

A TCP address: another process may have it by now, so nothing is sent before the peer has shown, in a TLS 1.3
handshake, that it has the key of the certificate whose hash is known. No authority signs that certificate.
"""

import asyncio
import hashlib
import os
import socket
import ssl
import stat
import struct
from functools import cache

from bay.drivers.base import Endpoint
from bay.errors import ShipError
from ship_protocol.tls import KEEP_ALIVE, TlsLayer

CONNECT_S = 5.0

_PEERCRED = struct.Struct("iII")  # struct ucred: pid, uid, gid; see unix(7)


async def open_connection(
    endpoint: Endpoint, limit: int
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to the Ship there and to no other, its reader with that buffer. Raises OSError without a
    listener, TimeoutError among them, and ShipError for another peer.
    """
    if endpoint.address is None:
        link = connect(endpoint)
        return await asyncio.open_unix_connection(sock=link, limit=limit)
    reader, writer, certificate = await open_unchecked(endpoint.address, limit)
    if certificate != endpoint.certificate:
        writer.transport.abort()
        raise ShipError(
            "the process that listens at the sandbox's address is not its Ship; stop and start the sandbox"
        )
    return reader, writer


async def open_unchecked(address: str, limit: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, str]:
    """A TLS connection to whoever listens at IP:PORT, and the SHA-256 of the certificate that the peer has
    the key of, as hexadecimal digits. Raises OSError, and ShipError for a peer without TLS 1.3.
    """
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=limit, loop=loop)
    protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
    layer = TlsLayer(_context(), protocol, server=False)
    try:
        async with asyncio.timeout(CONNECT_S):
            link = await _connect_tcp(address)
            await loop.create_connection(lambda: layer, sock=link)
            await layer.settled
    except BaseException:
        layer.abort()
        raise
    certificate = layer.certificate if layer.is_open else None
    if certificate is None:
        layer.abort()
        if layer.failure is not None:
            raise ShipError("the process that listens at the sandbox's address does not speak TLS 1.3")
        raise ConnectionResetError("closed by the sandbox's runtime")
    writer = asyncio.StreamWriter(layer, protocol, reader, loop)
    return reader, writer, hashlib.sha256(certificate).hexdigest()


def connect(endpoint: Endpoint) -> socket.socket:
    """A connected, non-blocking Unix socket. Raises OSError without a listener, ShipError for another."""
    path = os.open(endpoint.socket_path or "", os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not stat.S_ISSOCK(os.fstat(path).st_mode):
            raise ShipError("the sandbox's socket path is not a socket")
        return _connect_checked(f"/proc/self/fd/{path}", endpoint)
    finally:
        os.close(path)


def _connect_checked(path: str, endpoint: Endpoint) -> socket.socket:
    link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        link.connect(path)
        _check_peer(link, endpoint)
    except BaseException:
        link.close()
        raise
    return link


def _check_peer(link: socket.socket, endpoint: Endpoint) -> None:
    pid, uid, _gid = _PEERCRED.unpack(link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size))
    if endpoint.peer_uid not in (None, uid) or endpoint.peer_pid not in (None, pid):
        raise ShipError("the process that listens in the sandbox is not its Ship; stop and start the sandbox")


@cache
def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # the hash of the certificate is compared instead
    return context


async def _connect_tcp(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    kind = socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    link = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, kind)
    try:
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in KEEP_ALIVE.items():
            link.setsockopt(socket.IPPROTO_TCP, option, value)
        await asyncio.get_running_loop().sock_connect(link, (host, int(port)))
    except BaseException:
        link.close()
        raise
    return link
