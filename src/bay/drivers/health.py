"""The first health check of a Ship: it answers, and it is the one that was started."""

import asyncio

from bay.drivers.base import Endpoint
from bay.drivers.ship_call import LIMIT, exchange
from bay.drivers.ship_socket import open_connection
from bay.errors import SandboxNotReady, ShipError
from ship_protocol import SESSION_HEADER, session_proof


async def check_health(endpoint: Endpoint, token: str, timeout_s: float = 5.0) -> None:
    """Return once `GET /healthz` proved that Ship has `token`. Raises SandboxNotReady after `timeout_s`."""
    try:
        async with asyncio.timeout(timeout_s):
            await _ask(endpoint, token)
    except (OSError, ShipError) as error:  # TimeoutError is an OSError
        why = error or "timed out"
        raise SandboxNotReady(f"Ship does not answer at {endpoint.place}: {why}") from error


async def _ask(endpoint: Endpoint, token: str) -> None:
    reader, writer = await open_connection(endpoint, LIMIT)
    request = f"GET /healthz HTTP/1.1\r\nAuthorization: Bearer {token}\r\n"
    status, headers, _body = await exchange(reader, writer, request)
    if f"\r\n{SESSION_HEADER.lower()}: {session_proof(token)}\r\n" not in headers:
        raise SandboxNotReady("a process that is not this session's Ship answered")
    if status != 200:
        raise SandboxNotReady(f"Ship answered {status} to /healthz")
