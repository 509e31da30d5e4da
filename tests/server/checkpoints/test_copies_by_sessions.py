"""Checkpoints where only sessions have the files: by the session, and at rest by the backend."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Literal

import httpx
import pytest
from server_harness import World, assert_error, clear, create, shell, world
from test_checkpoints import checkpoint, events_of, listed, restore, text, write

from bay.cargo.base import PackedFiles
from bay.cargo.directory import DirectoryCargo
from bay.drivers.fake import FakeDriver

pytestmark = pytest.mark.anyio


class SessionCargos(DirectoryCargo):
    """Directories that are copied as if only sessions had them. A copy that has begun waits for `gate`."""

    copies_by_sessions: Literal[True] = True

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.ways: list[str] = []
        self.begun = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()

    async def checkpoint(self, cargo_id: str, checkpoint_id: str) -> None:
        await self._wait("rest")
        await super().checkpoint(cargo_id, checkpoint_id)

    async def checkpoint_by_session(self, cargo_id: str, checkpoint_id: str, files: PackedFiles) -> None:
        assert callable(files.pack)
        await self._wait("session")
        await super().checkpoint(cargo_id, checkpoint_id)

    async def _wait(self, way: str) -> None:
        self.ways.append(way)
        self.begun.set()
        await self.gate.wait()

    def hold(self) -> None:
        """Have the next copy wait."""
        self.begun.clear()
        self.gate.clear()


@pytest.fixture
async def cargo(root: Path) -> SessionCargos:
    return SessionCargos(root / "cargos")


@pytest.fixture
async def bay(root: Path, cargo: SessionCargos) -> AsyncGenerator[World]:
    try:
        async with world(root, FakeDriver(run_dir=root / "run"), cargo=cargo) as running:
            yield running
    finally:
        await clear(root)


async def test_what_runs_is_copied_by_its_session_and_what_is_at_rest_is_not(
    bay: World, cargo: SessionCargos, alice: httpx.AsyncClient
) -> None:
    box = (await create(alice, wait=10))["id"]
    await write(alice, box, "one")
    first = await checkpoint(alice, box)
    session = await bay.session(box)
    assert (session.phase, cargo.ways) == ("running", ["session"])
    assert (await alice.post(f"/v1/sandboxes/{box}/pause")).status_code == 200
    await checkpoint(alice, box)
    assert (await bay.session(box)).phase == "paused"
    [fork] = (await alice.post(f"/v1/sandboxes/{box}/fork", json={})).json()["items"]
    assert cargo.ways == ["session"] * 3
    await write(alice, box, "two")
    assert (await alice.post(f"/v1/sandboxes/{box}/stop")).status_code == 200
    await checkpoint(alice, box)
    assert cargo.ways == ["session"] * 3 + ["rest"]
    assert (await restore(alice, box, first["id"])).status_code == 200
    assert (await text(alice, box), await text(alice, fork["id"])) == ("one", "one")


async def test_calls_that_come_during_a_copy_are_answered_after_it(
    bay: World, cargo: SessionCargos, alice: httpx.AsyncClient
) -> None:
    box = (await create(alice, wait=10))["id"]
    cargo.hold()
    making = asyncio.create_task(checkpoint(alice, box))
    await cargo.begun.wait()
    asked = asyncio.create_task(shell(alice, box, "echo answered"))
    done, _ = await asyncio.wait({asked}, timeout=0.3)
    assert not done
    assert (await alice.get(f"/v1/sandboxes/{box}")).json()["status"] == "ready"
    cargo.gate.set()
    assert (await asked)["output"] == "answered\n"
    assert (await making)["sandbox_id"] == box


async def test_no_session_that_writes_to_a_cargo_starts_while_that_is_copied(
    bay: World, cargo: SessionCargos, alice: httpx.AsyncClient
) -> None:
    shared = (await alice.post("/v1/cargos", json={})).json()["id"]
    one, two = [(await create(alice, cargo_id=shared))["id"] for _ in range(2)]
    for way in ("rest", "session"):
        cargo.hold()
        making = asyncio.create_task(checkpoint(alice, one))
        await cargo.begun.wait()
        assert cargo.ways[-1] == way
        asked = asyncio.create_task(shell(alice, two, "echo after"))
        await bay.settled(two, lambda row: row.target == "running")
        done, _ = await asyncio.wait({asked}, timeout=0.3)
        assert not done
        assert (await bay.record(two)).session is None
        cargo.gate.set()
        assert (await asked)["output"] == "after\n"
        await making
        error = assert_error(await alice.post(f"/v1/sandboxes/{one}/checkpoints", json={}), 409, "conflict")
        assert two in error["message"]
        await alice.post(f"/v1/sandboxes/{two}/stop")
        await shell(alice, one, "true")
    assert len(await listed(alice, one)) == 2


async def test_a_start_that_waits_for_a_copy_may_be_given_up(
    bay: World, cargo: SessionCargos, alice: httpx.AsyncClient
) -> None:
    shared = (await alice.post("/v1/cargos", json={})).json()["id"]
    one, two = [(await create(alice, cargo_id=shared))["id"] for _ in range(2)]
    cargo.hold()
    making = asyncio.create_task(checkpoint(alice, one))
    await cargo.begun.wait()
    asked = asyncio.create_task(alice.post(f"/v1/sandboxes/{two}/shell/exec", json={"command": "true"}))
    await bay.settled(two, lambda row: row.target == "running")
    assert (await alice.delete(f"/v1/sandboxes/{two}")).status_code in (200, 204)
    await bay.settled(two, lambda row: row.deleted_at is not None)
    assert (await asked).status_code in (404, 503)
    cargo.gate.set()
    await making


async def test_nothing_is_put_back_into_a_cargo_that_another_sandbox_copies(
    bay: World, cargo: SessionCargos, alice: httpx.AsyncClient
) -> None:
    shared = (await alice.post("/v1/cargos", json={})).json()["id"]
    one, two = [(await create(alice, cargo_id=shared))["id"] for _ in range(2)]
    kept = await checkpoint(alice, two)
    cargo.hold()
    making = asyncio.create_task(checkpoint(alice, one))
    await cargo.begun.wait()
    error = assert_error(await restore(alice, two, kept["id"]), 409, "conflict")
    assert one in error["message"]
    cargo.gate.set()
    await making
    assert (await restore(alice, two, kept["id"])).status_code == 200


async def test_of_sandboxes_at_rest_that_share_a_cargo_one_is_copied_at_a_time_in_the_order_asked_for(
    bay: World, cargo: SessionCargos, alice: httpx.AsyncClient
) -> None:
    shared = (await alice.post("/v1/cargos", json={})).json()["id"]
    one, two, other = [(await create(alice, cargo_id=shared))["id"] for _ in range(3)]
    cargo.hold()
    making = [asyncio.create_task(checkpoint(alice, two))]
    await cargo.begun.wait()
    for box in (other, one):
        making.append(asyncio.create_task(checkpoint(alice, box)))
        await bay.settled(box, lambda row: row.checkpoint_due is not None)
    done, _ = await asyncio.wait(making, timeout=0.3)
    assert (done, cargo.ways) == (set(), ["rest"])
    cargo.gate.set()
    made = await asyncio.gather(*making)
    times = [one["created_at"] for one in made]
    assert (times, len(cargo.ways)) == (sorted(times), 3)


async def test_a_checkpoint_that_waits_for_that_of_another_sandbox_may_be_given_up(
    bay: World, cargo: SessionCargos, alice: httpx.AsyncClient
) -> None:
    shared = (await alice.post("/v1/cargos", json={})).json()["id"]
    one, two = [(await create(alice, cargo_id=shared))["id"] for _ in range(2)]
    cargo.hold()
    making = asyncio.create_task(checkpoint(alice, one))
    await cargo.begun.wait()
    waiting = asyncio.create_task(alice.post(f"/v1/sandboxes/{two}/checkpoints", json={}))
    await bay.settled(two, lambda row: row.checkpoint_due is not None)
    assert (await alice.delete(f"/v1/sandboxes/{two}")).status_code in (200, 204)
    assert (await waiting).status_code in (404, 409, 503)
    assert cargo.ways == ["rest"]
    cargo.gate.set()
    await making


async def test_a_policy_copies_what_runs(bay: World, cargo: SessionCargos, alice: httpx.AsyncClient) -> None:
    box = (await create(alice, checkpoint_policy={"every": 60}, wait=10))["id"]
    await shell(alice, box, "true")
    bay.clock.advance(61)
    await bay.bay.sweep.sweep()
    await bay.settled(box, lambda row: row.checkpoint_due is None)
    assert cargo.ways == ["session"]
    assert "checkpointed" in await events_of(alice, box)
