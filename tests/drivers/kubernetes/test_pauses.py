"""Whether a pod is paused, and that it shall be: Ship is asked, and nobody else's answer counts."""

import hashlib
from collections.abc import Iterator
from dataclasses import replace

import pytest
from ship_harness import TOKEN, Ship, connect_tls, running

from bay.drivers.base import Endpoint, ShipSilent
from bay.drivers.kubernetes.pauses import ShipPauses
from bay.errors import DriverUnavailable

pytestmark = [pytest.mark.kubernetes, pytest.mark.anyio]


@pytest.fixture(scope="module")
def ship() -> Iterator[Ship]:
    with running(pod=True) as found:
        yield found


@pytest.fixture
def pauses() -> ShipPauses:
    made = ShipPauses()
    made.tokens = token_of
    return made


async def token_of(session_id: str) -> str | None:
    return {"sess-1": TOKEN, "sess-2": "another-token"}.get(session_id)


def endpoint_of(ship: Ship) -> Endpoint:
    if not ship.address:
        return Endpoint(socket_path=str(ship.socket_path))
    with connect_tls(ship.address) as link:
        shown = link.getpeercert(binary_form=True)
    assert shown is not None
    return Endpoint(address=ship.address, certificate=hashlib.sha256(shown).hexdigest())


async def test_ship_pauses_and_tells_so(pauses: ShipPauses, ship: Ship) -> None:
    endpoint = endpoint_of(ship)
    for _ in range(2):
        await pauses.change("sess-1", endpoint, "pause")
        assert await pauses.is_on("sess-1", endpoint)
    for _ in range(2):
        await pauses.change("sess-1", endpoint, "resume")
        assert not await pauses.is_on("sess-1", endpoint)


async def test_silence_and_a_stranger_are_no_answer(pauses: ShipPauses, ship: Ship) -> None:
    endpoint = endpoint_of(ship)
    for other in (replace(endpoint, address="127.0.0.1:1"), replace(endpoint, certificate="0" * 64)):
        with pytest.raises(ShipSilent, match="does not answer"):
            await pauses.is_on("sess-1", other)
    with pytest.raises(ShipSilent, match="is not the Ship of session sess-2"):
        await pauses.change("sess-2", endpoint, "pause")
    assert await pauses.is_on("sess-1", endpoint) is False


async def test_without_a_token_nothing_is_known(pauses: ShipPauses, ship: Ship) -> None:
    with pytest.raises(DriverUnavailable, match="no token of session sess-3"):
        await pauses.is_on("sess-3", endpoint_of(ship))


async def test_a_ship_without_pauses_runs_and_says_how_to_get_one_that_has_them(pauses: ShipPauses) -> None:
    with running() as older:
        endpoint = endpoint_of(older)
        assert await pauses.is_on("sess-1", endpoint) is False
        with pytest.raises(DriverUnavailable, match=r"an earlier Bay.*stop and start"):
            await pauses.change("sess-1", endpoint, "pause")


async def test_ship_tells_the_figures_of_its_group_also_during_a_pause(
    pauses: ShipPauses, ship: Ship
) -> None:
    endpoint = endpoint_of(ship)
    await pauses.change("sess-1", endpoint, "pause")
    try:
        found = await pauses.usage("sess-1", endpoint)
    finally:
        await pauses.change("sess-1", endpoint, "resume")
    assert found.taken_s > 0
