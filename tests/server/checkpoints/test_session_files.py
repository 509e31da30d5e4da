"""The copy of a session's files, by a Ship that says whatever it likes."""

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from bay.errors import BadRequest, ShipError
from bay.server.ship.carriers import SessionFiles, read_trailer
from bay.server.ship.connection import Peer
from ship_protocol import CHECKPOINT_TRAILER

pytestmark = [pytest.mark.anyio, pytest.mark.pure]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class DrippingShip:
    """Gives a little each 200 seconds, for ever."""

    now = 0.0

    def clock(self) -> float:
        return self.now

    async def require(self, *_: object) -> None:
        """It has every feature."""

    @asynccontextmanager
    async def open(self, *_: object, **__: object) -> AsyncGenerator[tuple["DrippingShip", None]]:
        yield self, None

    async def body(self, _silence_s: float) -> AsyncGenerator[bytes]:
        while self.now < 1e6:
            self.now += 200
            yield b"x"


async def test_a_copy_that_never_ends_is_given_up() -> None:
    ship = DrippingShip()
    files = SessionFiles(cast(Any, ship), cast(Peer, cast(Any, Named())), ship.clock)
    with pytest.raises(ShipError, match="not copied within 3900 s"):
        async for _ in files.pack({}):
            pass
    assert ship.now < 5000


class Named:
    """As much of a peer as is logged."""

    session_id = "sess-1"


def test_a_reason_that_no_utf_8_can_carry_is_told_as_far_as_it_can() -> None:
    trailer = json.dumps({"error": "half \ud800"}).encode().ljust(CHECKPOINT_TRAILER, b"\0")
    with pytest.raises(BadRequest) as told:
        read_trailer(trailer)
    assert told.value.message.encode().endswith(b"half ?")
