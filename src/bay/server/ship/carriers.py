"""The files of a volume claim by the Ship of a carrier, or a session's: see `bay.cargo.claim_checkpoints`."""

import json
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from typing import Any, Protocol, cast

import structlog

from bay.drivers.base import Endpoint
from bay.errors import BadRequest, ShipError
from bay.places import VolumeClaim
from bay.server.ship.answers import collect
from bay.server.ship.client import ShipClient
from bay.server.ship.connection import Peer
from ship_protocol import CHECKPOINT_TRAILER, Feature

log = structlog.get_logger("bay.checkpoints")

_SILENCE_S = 300.0
"""For a Ship that neither gives nor takes."""
_WORK_S = 3600.0
"""For what Ship does once it has all: it writes to the disk, and removes the former files."""
_COPY_S = 3900.0
"""For a whole copy: longer than Ship packs. One that gives a little for ever would hold up other copies."""
_SMALL = 1 << 16
_PATH, _SESSION_PATH = "/fs/checkpoint", "/checkpoint"


class ReachableCarrier(Protocol):
    """A carrier that runs: where its Ship answers."""

    @property
    def session_id(self) -> str: ...

    @property
    def endpoint(self) -> Endpoint: ...

    @property
    def token(self) -> str: ...


class CarrierSource(Protocol):
    """The driver's carriers."""

    def open(self, cargo_id: str, claim: VolumeClaim) -> AbstractAsyncContextManager[ReachableCarrier]: ...

    async def clear(self, cargo_id: str) -> None: ...


class ShipCarriers:
    """The carriers of `pods`, and what their Ships do."""

    def __init__(self, pods: CarrierSource) -> None:
        self._pods = pods

    @asynccontextmanager
    async def open(self, cargo_id: str, claim: VolumeClaim) -> AsyncGenerator["ShipCarrier"]:
        """A carrier of that claim, which has ended when this is left."""
        async with self._pods.open(cargo_id, claim) as one:
            ship = ShipClient()
            try:
                peer = Peer(session_id=one.session_id, endpoint=one.endpoint, token=one.token)
                yield ShipCarrier(ship, peer)
            finally:
                ship.close()

    async def clear(self, cargo_id: str) -> None:
        """See to it that no carrier of another Bay has the cargo."""
        await self._pods.clear(cargo_id)


class ShipCarrier:
    """Packs and unpacks the workspace of its claim."""

    def __init__(self, ship: ShipClient, peer: Peer) -> None:
        self._ship = ship
        self._peer = peer

    def pack(self, counts: dict[str, int]) -> AsyncGenerator[bytes]:
        """The members of a tar, as they come; then `counts` is complete. Raises BadRequest, ShipError."""
        return _members(self._ship, self._peer, _PATH, {"path": "."}, counts, time.monotonic)

    async def put_back(self, tar: AsyncGenerator[bytes], *, most_bytes: int, room_bytes: int) -> None:
        """Have what the tar has in the place of the workspace. Raises StorageFull, BadRequest, ShipError."""
        query = {"path": ".", "most_mb": _mb(most_bytes), "room_mb": _mb(room_bytes)}
        async with self._ship.open(
            self._peer, "PUT", _PATH, query, tar, "application/octet-stream", deadline_s=_WORK_S, while_moving=True
        ) as (wire, _):  # fmt: skip
            await collect(wire.body(), _SMALL)


@asynccontextmanager
async def session_files(peer: Peer) -> AsyncGenerator["SessionFiles"]:
    """The workspace of a session."""
    ship = ShipClient()  # of its own: nobody waits for these calls as for those of the sandbox's user
    try:
        yield SessionFiles(ship, peer)
    finally:
        ship.close()


class SessionFiles:
    """Packs the workspace of a session, whose programs stand still meanwhile. `clock` is in seconds."""

    def __init__(self, ship: ShipClient, peer: Peer, clock: Callable[[], float] = time.monotonic) -> None:
        self._ship = ship
        self._peer = peer
        self._clock = clock

    async def pack(self, counts: dict[str, int]) -> AsyncGenerator[bytes]:
        """The members of a tar, as they come; then `counts` is complete. Programs go on when it ends, however
        it does. Raises BadRequest, Conflict, ShipError, and CapabilityNotSupported for an earlier Bay's Ship.
        """
        await self._ship.require(self._peer, Feature.COPIES)
        began = self._clock()
        given = _members(self._ship, self._peer, _SESSION_PATH, {}, counts, self._clock)
        try:
            async with aclosing(given) as members:
                async for chunk in members:
                    yield chunk
        finally:
            still_s = round(self._clock() - began, 3)
            log.info("session.stood_still", id=self._peer.session_id, seconds=still_s)


async def _members(
    ship: ShipClient,
    peer: Peer,
    path: str,
    query: dict[str, object],
    counts: dict[str, int],
    clock: Callable[[], float],
) -> AsyncGenerator[bytes]:
    held = b""
    began = clock()
    async with ship.open(peer, "GET", path, query, deadline_s=_SILENCE_S) as (wire, _):
        async for chunk in wire.body(_SILENCE_S):
            if clock() - began > _COPY_S:
                raise ShipError(
                    f"the files were not copied within {_COPY_S:g} s; have fewer, or smaller ones"
                )
            held += chunk
            if len(held) > CHECKPOINT_TRAILER:
                yield held[:-CHECKPOINT_TRAILER]
                held = held[-CHECKPOINT_TRAILER:]
    counts |= read_trailer(held)


def read_trailer(trailer: bytes) -> dict[str, int]:
    """The numbers behind a tar. Raises BadRequest with the reason where there are none."""
    try:
        found: Any = json.loads(trailer.rstrip(b"\0"))
    except (ValueError, RecursionError):
        found = None
    said = cast("dict[str, Any]", found) if isinstance(found, dict) else {}
    if isinstance(why := said.get("error"), str):
        told = why[:1000].encode("utf-8", "replace").decode()  # without halves of surrogate pairs
        raise BadRequest(f"these files cannot be archived: {told}")
    counts = {name: said.get(name) for name in ("entries", "bytes")}
    if not all(type(one) is int and 0 <= one < 1 << 53 for one in counts.values()):
        raise ShipError("the carrier did not say that its archive is whole")
    return cast("dict[str, int]", counts)


def _mb(size: int) -> int:
    return max(1, -(-size // (1 << 20)))
