"""The cache of sandboxes' rows, on a real database."""

import asyncio

import httpx
import pytest
from server_harness import World, create, within
from sqlalchemy import text

from bay.models import ServiceSpec
from bay.store import sandboxes, services
from bay.store.connection import StoreConnection
from bay.store.records import SandboxRecord

pytestmark = pytest.mark.anyio


_SESSIONS = (
    "INSERT INTO sessions (id, sandbox_id, generation, driver, phase, token, created_at) "
    "SELECT 'sess-' || id, id, 9, 'fake', 'starting', '', created_at FROM sandboxes"
)


async def find(bay: World, ref: str) -> SandboxRecord | None:
    return await bay.bay.rows.get(("alice", ref), lambda db: sandboxes.find(db, "alice", ref))


async def test_a_row_is_read_once_until_it_changes_itself(bay: World, alice: httpx.AsyncClient) -> None:
    one, other = [(await create(alice, name=name))["id"] for name in ("one", "other")]
    first = await find(bay, "one")
    async with bay.bay.store.write() as db:
        await sandboxes.change(db, other, last_active_at=bay.clock())
    assert await find(bay, "one") is await find(bay, one) is first
    async with bay.bay.store.write() as db:
        await sandboxes.change(db, one, idle_timeout=7)
    found = await find(bay, "one")
    assert found is not None
    assert found.idle_timeout == 7


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE sandboxes SET labels = '{}'",
        _SESSIONS,
        "INSERT INTO services (sandbox_id, name, spec) SELECT id, 'web', '{}' FROM sandboxes",
        "DELETE FROM services",
    ],
)
async def test_what_no_statement_names_is_reported_too(
    bay: World, alice: httpx.AsyncClient, statement: str
) -> None:
    made = [(await create(alice))["id"] for _ in range(2)]
    async with bay.bay.store.write() as db:
        await services.put(db, made[0], ServiceSpec(name="old", argv=("true",)))
        await services.put(db, made[1], ServiceSpec(name="old", argv=("true",)))
    before = [await find(bay, one) for one in made]
    async with bay.bay.store.write() as db:
        await db.execute(text(statement))
    assert [await find(bay, one) is same for one, same in zip(made, before, strict=True)] == [False, False]


async def test_a_name_that_was_given_on_leads_to_its_new_sandbox(
    bay: World, alice: httpx.AsyncClient
) -> None:
    assert await find(bay, "box") is None
    first = (await create(alice, name="box"))["id"]
    found = await find(bay, "box")
    assert found is not None
    assert found.id == first
    await alice.patch(f"/v1/sandboxes/{first}", json={"name": None})
    second = (await create(alice, name="box"))["id"]
    found = await find(bay, "box")
    assert found is not None
    assert found.id == second


async def test_a_result_that_a_write_overtook_is_not_kept(bay: World, alice: httpx.AsyncClient) -> None:
    made = (await create(alice))["id"]
    was_read, go_on = asyncio.Event(), asyncio.Event()

    async def slow(db: StoreConnection) -> SandboxRecord | None:
        found = await sandboxes.find(db, "alice", made)
        was_read.set()
        await go_on.wait()
        return found

    reading = asyncio.create_task(bay.bay.rows.get(("alice", made), slow))
    await within(was_read.wait())
    async with bay.bay.store.write() as db:
        await sandboxes.change(db, made, idle_timeout=7)
    go_on.set()
    await within(reading)
    found = await find(bay, made)
    assert found is not None
    assert found.idle_timeout == 7


async def test_a_miss_is_kept_only_under_a_name_that_a_sandbox_can_have(bay: World) -> None:
    """A caller may ask for 60 kB of anything, twenty thousand times."""
    reads = 0

    async def nothing(_db: StoreConnection) -> None:
        nonlocal reads
        reads += 1

    for ref, read_once in (("gone", True), ("x" * 60_000, False)):
        before = reads
        for _ in range(2):
            assert await bay.bay.rows.get(("alice", ref), nothing) is None
        assert (reads - before == 1) is read_once
