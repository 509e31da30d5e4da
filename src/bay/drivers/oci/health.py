"""One question to a Ship that has just started: is it the one that was started, and does it answer?"""

import asyncio
import hashlib
import os
import socket
import stat
import struct

from bay.drivers.base import Endpoint
from bay.errors import SandboxNotReady

_LIMIT = 16_384


async def check_health(endpoint: Endpoint, token: str, timeout_s: float = 5.0) -> None:
    """Return once Ship has answered `GET /healthz` at `endpoint`, and proved that it knows `token`.

    Raises SandboxNotReady when it does not within `timeout_s`, or is not who it should be.
    """
    try:
        async with asyncio.timeout(timeout_s):
            await _ask(endpoint, token)
    except OSError as error:  # TimeoutError is one
        raise SandboxNotReady(
            f"Ship does not answer at {endpoint.socket_path}: {error or 'timed out'}"
        ) from error


async def _ask(endpoint: Endpoint, token: str) -> None:
    reader, writer = await _connect(endpoint.socket_path)
    try:
        _check_peer(writer.get_extra_info("socket"), endpoint)
        writer.write(_request(token))
        _check_answer(await reader.readuntil(b"\r\n\r\n"), token)
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
        raise SandboxNotReady(f"Ship broke off its answer at {endpoint.socket_path}") from error
    finally:
        writer.close()


async def _connect(path: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    # By descriptor: whatever is at the path must be a socket and not a link to another sandbox's.
    found = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not stat.S_ISSOCK(os.fstat(found).st_mode):
            raise SandboxNotReady(f"{path} is not a socket")
        return await asyncio.open_unix_connection(f"/proc/self/fd/{found}", limit=_LIMIT)
    finally:
        os.close(found)


def _check_peer(sock: socket.socket, endpoint: Endpoint) -> None:
    pid, uid, _ = struct.unpack("iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    for what, seen, expected in (("pid", pid, endpoint.peer_pid), ("uid", uid, endpoint.peer_uid)):
        if expected is not None and seen != expected:
            raise SandboxNotReady(f"{endpoint.socket_path} is served by {what} {seen}, not {expected}")


def _request(token: str) -> bytes:
    head = (
        f"GET /healthz HTTP/1.1\r\nHost: ship\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
    )
    return head.encode("ascii")


def _check_answer(head: bytes, token: str) -> None:
    status, _, headers = head.decode("latin-1").partition("\r\n")
    expected = hashlib.sha256(f"ship-session:{token}".encode()).hexdigest()[:32]
    if f"\r\nx-ship-session: {expected}\r\n" not in f"\r\n{headers.lower()}":
        raise SandboxNotReady("something that is not this session's Ship answered")
    if status.split()[1:2] != ["200"]:
        raise SandboxNotReady(f"Ship answered {status!r} to /healthz")
