"""Services between Bay and a Ship: an honest one, and ones that lie."""

import json
from contextlib import aclosing
from typing import Any

import pytest
from lying_ship import Lie, for_ever, head, saying, whole
from server_harness import Json, within

from bay.errors import Conflict, ShipError
from bay.models import ServiceHealth, ServiceSpec
from bay.server.managed_services.ship_client import ServiceClient, ServiceStatus, states_of
from bay.server.ship.client import ShipClient

pytestmark = [pytest.mark.anyio, pytest.mark.pure]

STATUS: Json = {
    "name": "web", "state": "running", "pid": 7, "restarts": 0, "exit_code": None, "signal": None, "healthy": None,
    "message": None, "started_at": "2030-01-01T00:00:00Z", "next_start_at": None, "output_bytes": 3, "first_offset": 0,
}  # fmt: skip
SPEC = ServiceSpec(name="web", argv=("true",), http_port=8000, health=ServiceHealth(port=8000))


@pytest.fixture
def services(link: ShipClient) -> ServiceClient:
    return ServiceClient(link)


def line(*items: Json, **more: Any) -> bytes:
    return json.dumps({"type": "services", "items": items, **more}).encode() + b"\n"


async def test_what_an_honest_ship_says_is_understood(lie: Lie, services: ServiceClient) -> None:
    liar = await lie(saying(whole({"items": [STATUS]})))
    found = await within(services.put(liar.peer(), {"A": "1"}, [SPEC]))
    assert found == {"web": ServiceStatus.model_validate(STATUS)}
    service = found["web"].to_service(SPEC)
    assert (service.argv, service.http_port, service.state, service.pid) == (("true",), 8000, "running", 7)


@pytest.mark.parametrize(
    "items",
    [
        None, {}, [None], [{}], [{**STATUS, "name": "x" * 64}], [{**STATUS, "state": "fine"}], [{**STATUS, "pid": "seven"}],
        [{**STATUS, "restarts": -1}], [{**STATUS, "output_bytes": 1 << 64}], [{**STATUS, "message": "m" * 5000}],
        [{**STATUS, "started_at": "soon"}], [{**STATUS, "started_at": "9999-12-31T23:59:59Z"}], [STATUS] * 65,
    ],
)  # fmt: skip
async def test_what_is_no_list_of_services_is_the_runtimes_fault(
    lie: Lie, services: ServiceClient, items: object
) -> None:
    liar = await lie(saying(whole(json.dumps({"items": items}).encode())))
    with pytest.raises(ShipError):
        await within(services.list(liar.peer()))


async def test_an_answer_without_end_is_given_up(lie: Lie, services: ServiceClient) -> None:
    liar = await lie(for_ever(head("200 OK", 1 << 40), b" " * 65536))
    with pytest.raises(ShipError, match="more than"):
        await within(services.put(liar.peer(), {}, [SPEC]))


async def test_a_refusal_is_told_as_it_is(lie: Lie, services: ServiceClient) -> None:
    error = {"code": "conflict", "message": "service web is not enabled; start it instead"}
    liar = await lie(saying(whole({"error": error}, "409 Conflict")))
    with pytest.raises(Conflict, match="not enabled"):
        await within(services.restart(liar.peer(), "web"))


async def test_the_feed_gives_each_line_until_the_connection_breaks(lie: Lie, link: ShipClient) -> None:
    sick = {**STATUS, "healthy": False}
    said = line(STATUS) + line(sick)
    liar = await lie(saying(head("200 OK", len(said) + 1) + said, close=True))
    async with aclosing(link.feed(liar.peer())) as told:
        heard = [states_of((await within(anext(told)))[1])["web"].healthy for _ in range(2)]
        assert heard == [None, False]
        with pytest.raises(ShipError):
            await within(anext(told))


@pytest.mark.parametrize(
    "said", [b"x\n", b"[]\n", line(STATUS, type="news"), line({**STATUS, "state": "odd"}), b"x" * (2 << 20)]
)
async def test_a_line_of_the_feed_that_is_none_is_the_runtimes_fault(
    lie: Lie, link: ShipClient, said: bytes
) -> None:
    liar = await lie(saying(head("200 OK", len(said)) + said))
    async with aclosing(link.feed(liar.peer())) as told:
        with pytest.raises(ShipError):
            states_of((await within(anext(told)))[1])
