"""An exec's row is written before Ship is told: it can be asked for at once, and runs once
whatever breaks.
"""

import asyncio
from collections.abc import Coroutine
from contextlib import closing
from datetime import timedelta

import httpx
import pytest
from server_harness import Json, World, assert_error, create, shell, within

from bay.errors import Conflict, ShipError
from bay.ids import new_id
from bay.models import Exec
from bay.server.execs.locator import ExecLocator
from bay.server.execs.service import Execs, NewExec
from bay.server.reconciler.sweep import Sweep
from bay.server.ship.client import ShipClient
from bay.server.ship.connection import Peer
from bay.server.web.auth import Caller

pytestmark = pytest.mark.anyio
KEY = {"Idempotency-Key": "once"}


class Unreachable(ShipClient):
    """A link that breaks before Ship hears of the exec."""

    async def run(self, *asked: object, **more: object) -> Exec:
        raise ShipError("the connection to the sandbox's runtime broke")

    async def list_execs(self, peer: Peer) -> list[Exec]:
        raise ShipError("the connection to the sandbox's runtime broke")


class Full(ShipClient):
    """A link to a Ship that has room for no more execs."""

    async def run(self, *asked: object, **more: object) -> Exec:
        raise Conflict("256 execs are running; end some first")


@pytest.fixture
async def box(alice: httpx.AsyncClient) -> str:
    return (await create(alice, wait=15))["id"]


def over(bay: World, link: ShipClient) -> Execs:
    """The service with another link."""
    it = bay.bay
    locator = ExecLocator(store=it.store, deferred=it.deferred, waker=it.waker)
    return Execs(
        store=it.store, deferred=it.deferred, waker=it.waker, locator=locator, ship=link, connections=it.connections, clock=bay.clock
    )  # fmt: skip


async def break_off(bay: World, box: str, argv: tuple[str, ...]) -> None:
    """A call with the key `once` that is broken off between the row and Ship."""
    execs = over(bay, Unreachable())
    with pytest.raises(ShipError):
        await execs.create(Caller("alice", "write", "key"), box, NewExec(argv=argv, env={}), "once", 5)


async def listed(client: httpx.AsyncClient, box: str) -> list[Json]:
    return (await client.get(f"/v1/sandboxes/{box}/execs")).json()["items"]


async def test_an_exec_is_there_while_the_call_that_waits_for_it_still_does(
    alice: httpx.AsyncClient, box: str
) -> None:
    exec_id = new_id("exec")
    body = {"id": exec_id, "command": "mkfifo go; cat go; exit 3"}
    waiting = asyncio.create_task(alice.post(f"/v1/sandboxes/{box}/execs", params={"wait": 15}, json=body))
    await shell(alice, box, "until [ -p go ]; do sleep 0.01; done")
    seen = (await alice.get(f"/v1/sandboxes/{box}/execs/{exec_id}")).json()
    assert (seen["state"], waiting.done()) == ("running", False)
    await shell(alice, box, "echo > go")
    assert (await within(waiting)).json()["exit_code"] == 3


async def test_a_call_that_broke_off_before_ship_heard_of_it_is_made_good_by_its_repeat(
    bay: World, alice: httpx.AsyncClient, box: str
) -> None:
    await break_off(bay, box, ("sh", "-c", "echo ran >> log"))
    [planned] = await listed(alice, box)
    body = {"argv": ["sh", "-c", "echo ran >> log"]}
    for _ in range(2):
        answer = await alice.post(f"/v1/sandboxes/{box}/execs", params={"wait": 10}, json=body, headers=KEY)
        assert (answer.status_code, answer.json()["id"]) == (201, planned["id"])
        assert (answer.json()["state"], answer.json()["exit_code"]) == ("exited", 0)
    assert (await shell(alice, box, "cat log"))["output"] == "ran\n"


async def test_a_repeat_that_comes_late_runs_nothing_a_second_time(
    bay: World, alice: httpx.AsyncClient, box: str
) -> None:
    await break_off(bay, box, ("touch", "ran"))
    bay.clock.advance(31)  # by now Ship could have run it and forgotten it
    body = {"argv": ["touch", "ran"]}
    answer = await alice.post(f"/v1/sandboxes/{box}/execs", params={"wait": 10}, json=body, headers=KEY)
    assert (answer.status_code, answer.json()["state"]) == (201, "lost")
    assert (await shell(alice, box, "ls"))["output"] == ""


async def test_an_exec_that_ship_never_heard_of_is_lost_after_a_while(
    bay: World, alice: httpx.AsyncClient, box: str
) -> None:
    await break_off(bay, box, ("true",))
    [planned] = await listed(alice, box)
    path = f"/v1/sandboxes/{box}/execs/{planned['id']}"
    assert (await alice.get(path)).json()["state"] == "running"
    bay.clock.advance(31)
    assert (await alice.get(path)).json()["state"] == "lost"


async def test_what_ship_refuses_leaves_no_exec_and_the_call_may_be_made_again(
    alice: httpx.AsyncClient, box: str
) -> None:
    path, body = f"/v1/sandboxes/{box}/execs", {"argv": ["pwd"], "cwd": "missing"}
    assert_error(await alice.post(path, json=body, headers=KEY), 404, "file_not_found")
    assert await listed(alice, box) == []
    await shell(alice, box, "mkdir missing")
    answer = await alice.post(path, params={"wait": 10}, json=body, headers=KEY)
    assert answer.json()["stdout"].endswith("/missing\n")


async def test_a_sandbox_with_no_room_for_another_exec_says_so_and_the_call_may_be_made_again(
    bay: World, alice: httpx.AsyncClient, box: str
) -> None:
    new = NewExec(argv=("true",), env={})
    with closing(Full()) as link, pytest.raises(Conflict, match="256 execs"):
        await over(bay, link).create(Caller("alice", "write", "key"), box, new, "once", 5)
    assert await listed(alice, box) == []
    answer = await alice.post(
        f"/v1/sandboxes/{box}/execs", params={"wait": 10}, json={"argv": ["true"]}, headers=KEY
    )
    assert (answer.status_code, answer.json()["state"]) == (201, "exited")


async def test_a_sandbox_whose_execs_cannot_be_asked_for_is_not_taken_for_idle(
    bay: World, alice: httpx.AsyncClient
) -> None:
    made = await create(alice, idle_timeout=10, wait=15)
    await alice.post(f"/v1/sandboxes/{made['id']}/execs", json={"argv": ["sleep", "1000"]})
    bay.clock.advance(11)
    queue = bay.bay.reconciler.queue
    sweep = Sweep(
        core=bay.bay.core, queue=queue, ship=Unreachable(), kernels=bay.bay.kernels, holds=bay.bay.holds,
        leases=bay.bay.leases, retention=timedelta(0), chores=[],
    )  # fmt: skip
    await sweep.sweep()
    assert (await bay.record(made["id"])).target == "running"


async def test_a_repeat_of_an_exec_that_is_over_starts_nothing_to_be_told(
    bay: World, alice: httpx.AsyncClient, box: str
) -> None:
    call = {"json": {"argv": ["true"]}, "headers": {"Idempotency-Key": "once"}, "params": {"wait": 15}}
    first = (await alice.post(f"/v1/sandboxes/{box}/execs", **call)).json()  # pyright: ignore[reportArgumentType]
    await alice.post(f"/v1/sandboxes/{box}/stop")
    again = (await alice.post(f"/v1/sandboxes/{box}/execs", **call)).json()  # pyright: ignore[reportArgumentType]
    assert (again["id"], again["state"], again["exit_code"]) == (first["id"], "exited", 0)
    assert (await alice.get(f"/v1/sandboxes/{box}")).json()["compute"] == "cold"


async def test_an_exec_whose_id_the_client_chose_is_its_own_claim(
    bay: World, alice: httpx.AsyncClient, box: str
) -> None:
    exec_id = f"exec-{1:024x}"

    async def run(key: str, **body: object) -> httpx.Response:
        return await alice.post(
            f"/v1/sandboxes/{box}/execs",
            json={"argv": ["true"], "id": exec_id, **body},
            headers={"Idempotency-Key": key},
            params={"wait": 15},
        )

    first, again = [(await run(exec_id)).json() for _ in range(2)]
    assert (first["id"], again["id"], again["state"]) == (exec_id, exec_id, "exited")
    assert_error(await run(exec_id, env={"other": "call"}), 409, "conflict")
    assert_error(await run("another-key"), 409, "conflict")
    assert await bay.sql("SELECT count(*) FROM claims") == [(0,)]
    assert await bay.sql("SELECT count(*) FROM execs") == [(1,)]
    await alice.post(f"/v1/sandboxes/{box}/stop")
    bay.clock.advance(60)
    assert (await run(exec_id)).json()["exit_code"] == 0
    assert (await alice.get(f"/v1/sandboxes/{box}")).json()["compute"] == "cold"


async def test_an_exec_with_its_own_id_leaves_the_claims_of_other_calls_alone(
    bay: World, alice: httpx.AsyncClient, box: str
) -> None:
    def create_once() -> Coroutine[None, None, httpx.Response]:
        return alice.post("/v1/sandboxes", json={}, headers=KEY)

    made = (await create_once()).json()["id"]
    refused = await alice.post(
        f"/v1/sandboxes/{box}/execs",
        json={"argv": ["true"], "id": f"exec-{2:024x}"},
        headers=KEY,
        params={"wait": 15},
    )
    assert_error(refused, 409, "conflict")
    assert (await create_once()).json()["id"] == made
    assert await bay.sql("SELECT count(*) FROM execs") == [(0,)]
