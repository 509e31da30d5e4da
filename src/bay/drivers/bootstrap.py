"""Gives a Ship that was started without a secret its settings, over TCP.

All who may read the description of such a sandbox can read the one-time token that it was started with. So
`introduce` has the peer prove that it knows that token before anything is sent, and `bootstrap` sends the
settings, with the session's token among them, to the owner of that very certificate.
"""

import asyncio
import hmac
import json
import secrets
from collections.abc import Mapping

from bay.drivers.base import Endpoint
from bay.drivers.health import check_health
from bay.drivers.ship_call import LIMIT, exchange
from bay.drivers.ship_socket import open_connection, open_unchecked
from bay.errors import SandboxNotReady, ShipError
from ship_protocol import hello_proof

_BOOTSTRAP_S = 10.0


async def introduce(address: str, bootstrap_token: str, timeout_s: float) -> str:
    """The SHA-256 of the certificate of the Ship at IP:PORT that was started with this token, as hexadecimal
    digits. Sends no secret. Raises SandboxNotReady when no such Ship answers within `timeout_s`, as one that
    has its settings already does not: save the certificate before `bootstrap`.
    """
    try:
        async with asyncio.timeout(timeout_s):
            return await _greet(address, bootstrap_token)
    except (OSError, ShipError) as error:  # TimeoutError is an OSError
        why = error or "timed out"
        raise SandboxNotReady(f"Ship does not answer at {address}: {why}") from error


async def bootstrap(endpoint: Endpoint, bootstrap_token: str, settings: Mapping[str, str]) -> None:
    """Give Ship its settings, `SHIP_TOKEN` among them. A Ship that has that token already is as good; other
    settings are not compared. Raises SandboxNotReady when Ship does not answer in time, refuses a setting, or
    has those of somebody else.
    """
    try:
        async with asyncio.timeout(_BOOTSTRAP_S):
            status, answer = await _send(endpoint, bootstrap_token, settings)
    except (OSError, ShipError, SandboxNotReady) as error:
        # Also when the answer alone was lost.
        if await _has_settings(endpoint, settings):
            return
        raise SandboxNotReady(f"Ship at {endpoint.place} took no settings: {error or 'timed out'}") from error
    if status == 400:
        raise SandboxNotReady(f"Ship at {endpoint.place} refused its settings: {answer}")
    if status != 200 and not await _has_settings(endpoint, settings):
        raise SandboxNotReady(
            f"Ship at {endpoint.place} has the settings of somebody else, who knew its one-time token; stop "
            "and start the sandbox"
        )


async def _greet(address: str, bootstrap_token: str) -> str:
    reader, writer, certificate = await open_unchecked(address, LIMIT)
    nonce = secrets.token_hex(32)
    status, _, body = await exchange(reader, writer, f"GET /hello?nonce={nonce} HTTP/1.1\r\n")
    if status != 200:
        raise SandboxNotReady(f"the process at {address} is no Ship that waits for settings ({status})")
    if not hmac.compare_digest(_text(body, "proof"), hello_proof(bootstrap_token, nonce, certificate)):
        raise SandboxNotReady(f"the process at {address} is not the Ship that was started there")
    return certificate


async def _send(endpoint: Endpoint, bootstrap_token: str, settings: Mapping[str, str]) -> tuple[int, str]:
    reader, writer = await open_connection(endpoint, LIMIT)
    head = f"POST /bootstrap HTTP/1.1\r\nAuthorization: Bearer {bootstrap_token}\r\n"
    status, _, body = await exchange(reader, writer, head, json.dumps(dict(settings)).encode())
    return status, body.decode("utf-8", "replace")[:1000]


async def _has_settings(endpoint: Endpoint, settings: Mapping[str, str]) -> bool:
    try:
        await check_health(endpoint, settings["SHIP_TOKEN"])
    except SandboxNotReady:
        return False
    return True


def _text(body: bytes, name: str) -> str:
    try:
        found = json.loads(body)[name]
    except (ValueError, TypeError, KeyError, RecursionError):
        return ""
    return found if isinstance(found, str) and found.isascii() else ""
