"""The first health check of a Ship: it answers, and it is the one that was started."""

import asyncio

from bay.drivers.base import Endpoint
from bay.drivers.ship_socket import connect
from bay.errors import SandboxNotReady, ShipError
from ship_protocol import SESSION_HEADER, session_proof

_LIMIT = 16_384


async def check_health(endpoint: Endpoint, token: str, timeout_s: float = 5.0) -> None:
    """Return once `GET /healthz` proved that Ship has `token`. Raises SandboxNotReady after `timeout_s`."""
    try:
        async with asyncio.timeout(timeout_s):
            await _ask(endpoint, token)
    except (OSError, ShipError) as error:  # TimeoutError is an OSError
        why = error or "timed out"
        raise SandboxNotReady(f"Ship does not answer at {endpoint.socket_path}: {why}") from error


async def _ask(endpoint: Endpoint, token: str) -> None:
    reader, writer = await asyncio.open_unix_connection(sock=connect(endpoint), limit=_LIMIT)
    try:
        head = f"GET /healthz HTTP/1.1\r\nHost: ship\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode("ascii"))
        _check_answer(await reader.readuntil(b"\r\n\r\n"), token)
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
        raise SandboxNotReady(f"Ship ended its answer early at {endpoint.socket_path}") from error
    finally:
        writer.close()


def _check_answer(head: bytes, token: str) -> None:
    status, _, headers = head.decode("latin-1").partition("\r\n")
    if f"\r\n{SESSION_HEADER.lower()}: {session_proof(token)}\r\n" not in f"\r\n{headers.lower()}":
        raise SandboxNotReady("a process that is not this session's Ship answered")
    if status.split()[1:2] != ["200"]:
        raise SandboxNotReady(f"Ship answered {status!r} to /healthz")
