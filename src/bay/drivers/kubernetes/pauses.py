"""Pauses of pods: Ship stops the programs, and is asked whether it has. No API of the cluster has a freezer.

Ship is the only one that knows, and keeps it as long as the pod lives; a note on the pod would be wrong after
each failure between the two. So a pause and a wake cost one call to Ship, and nothing of the API server.
"""

import asyncio
import json
import time
from typing import Literal

from bay.drivers.base import Endpoint, SessionTokens, SessionUsage, ShipSilent
from bay.drivers.kubernetes.kube import Json, as_dict
from bay.drivers.ship_call import LIMIT, exchange
from bay.drivers.ship_socket import open_connection
from bay.errors import DriverUnavailable, SandboxNotReady, ShipError
from ship_protocol import SESSION_HEADER, session_proof
from ship_protocol.usage import GroupUsage

_ASK_S = 2.0
_STOP_S = 45.0
"""Longer than Ship tries to stop programs, and to write their files to the disk."""


async def _no_tokens(_session_id: str) -> str | None:
    return None


class ShipPauses:
    """The pauses of sessions, by their Ships. `tokens` is set before the first."""

    def __init__(self) -> None:
        self.tokens: SessionTokens = _no_tokens

    async def is_on(self, session_id: str, endpoint: Endpoint) -> bool:
        """Whether its programs stand still. Raises ShipSilent, and DriverUnavailable."""
        status, found = await self._call(session_id, endpoint, "GET", "pause", _ASK_S)
        return status == 200 and found.get("paused") is True  # 404: one of an earlier Bay, which never pauses

    async def change(self, session_id: str, endpoint: Endpoint, step: Literal["pause", "resume"]) -> None:
        """Stop the programs, or let them go on. Raises ShipSilent, and DriverUnavailable if Ship refuses."""
        limit_s = _STOP_S if step == "pause" else _ASK_S
        status, found = await self._call(session_id, endpoint, "POST", step, limit_s)
        if status == 404:
            raise DriverUnavailable(
                f"session {session_id} was started by an earlier Bay, whose Ship cannot pause; stop and start it"
            )
        if status != 200:
            raise DriverUnavailable(f"Ship did not {step} session {session_id}: {_message(found)}")

    async def usage(self, session_id: str, endpoint: Endpoint) -> SessionUsage:
        """The figures of its control group, as Ship sees them. Raises ShipSilent, and DriverUnavailable."""
        taken_s = time.monotonic()
        _, found = await self._call(session_id, endpoint, "GET", "usage", _ASK_S)
        figures = {name: value for name in GroupUsage._fields if type(value := found.get(name)) is int}
        return SessionUsage(taken_s=taken_s, **GroupUsage(**figures)._asdict())

    async def _call(
        self, session_id: str, endpoint: Endpoint, method: str, path: str, limit_s: float
    ) -> tuple[int, Json]:
        token = await self.tokens(session_id)
        if token is None:
            raise DriverUnavailable(f"Bay has no token of session {session_id}, so its Ship tells nothing")
        try:
            async with asyncio.timeout(limit_s):
                reader, writer = await open_connection(endpoint, LIMIT)
                head = f"{method} /{path} HTTP/1.1\r\nAuthorization: Bearer {token}\r\n"
                status, headers, body = await exchange(reader, writer, head)
        except (OSError, ShipError, SandboxNotReady) as error:  # TimeoutError is an OSError
            raise ShipSilent(
                f"Ship of session {session_id} does not answer at {endpoint.place}: {error or 'timed out'}"
            ) from error
        if f"\r\n{SESSION_HEADER.lower()}: {session_proof(token)}\r\n" not in headers:
            raise ShipSilent(f"the process at {endpoint.place} is not the Ship of session {session_id}")
        return status, _object(body)


def _object(body: bytes) -> Json:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return as_dict(found)


def _message(found: Json) -> str:
    return str(as_dict(found.get("error")).get("message") or "it gave no reason")[:500]
