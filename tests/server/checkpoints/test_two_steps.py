"""Checkpoints by a backend that fixes their moment first, and has the copy whole later."""

from collections.abc import AsyncGenerator
from pathlib import Path

import httpx
import pytest
from server_harness import World, assert_error, clear, create, shell, world

from bay.cargo.directory import DirectoryCargo
from bay.drivers.base import Handle, Observed, Paused, Running
from bay.errors import DriverUnavailable
from bay.models import CheckpointKind

pytestmark = pytest.mark.anyio


class SlowCopies(DirectoryCargo):
    """Notes how the driver sees the session at each step."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.world: World | None = None
        self.box = ""
        self.seen: list[tuple[str, type[Observed]]] = []
        self.fails = False

    async def _look(self, step: str) -> None:
        assert self.world is not None
        handle = Handle.from_json((await self.world.session(self.box)).handle or {})
        self.seen.append((step, type(await self.world.driver.observe(handle))))

    async def checkpoint(self, cargo_id: str, checkpoint_id: str) -> None:
        await self._look("checkpoint")
        await super().checkpoint(cargo_id, checkpoint_id)

    async def complete(self, checkpoint_id: str) -> None:
        assert checkpoint_id in await self.list_checkpoints()
        await self._look("complete")
        if self.fails:
            raise DriverUnavailable("the cloud copies nothing today")


class KindsOfFolders(DirectoryCargo):
    """Sees the checkpoints of the kinds that it is told to: all that it has are archives."""

    seen_kinds: frozenset[CheckpointKind] = frozenset(("archive", "snapshot"))

    async def list_checkpoints(self) -> set[str]:
        return await super().list_checkpoints() if "archive" in self.seen_kinds else set()


@pytest.fixture
async def bay(root: Path) -> AsyncGenerator[World]:
    try:
        cargo = SlowCopies(root / "data" / "cargo")
        async with world(root, cargo=cargo) as running:
            cargo.world = running
            yield running
    finally:
        await clear(root)


async def test_programs_stand_still_for_the_moment_and_not_for_the_copy(
    bay: World, alice: httpx.AsyncClient
) -> None:
    cargo = bay.bay.cargo
    assert isinstance(cargo, SlowCopies)
    box = cargo.box = (await create(alice, wait=10))["id"]
    made = await alice.post(f"/v1/sandboxes/{box}/checkpoints", json={})
    assert made.status_code == 201, made.text
    assert cargo.seen == [("checkpoint", Paused), ("complete", Running)]


async def test_a_copy_that_never_becomes_whole_is_no_checkpoint(bay: World, alice: httpx.AsyncClient) -> None:
    cargo = bay.bay.cargo
    assert isinstance(cargo, SlowCopies)
    box = cargo.box = (await create(alice, wait=10))["id"]
    cargo.fails = True
    answer = await alice.post(f"/v1/sandboxes/{box}/checkpoints", json={"name": "one"})
    error = assert_error(answer, answer.status_code, "driver_unavailable")
    assert "the cloud copies nothing today" in error["message"]
    listed = await alice.get(f"/v1/sandboxes/{box}/checkpoints")
    assert listed.json()["items"] == []
    assert (await shell(alice, box, "echo on"))["output"] == "on\n"


async def test_checkpoints_of_a_kind_that_the_settings_leave_out_are_there_again_with_them(
    root: Path,
) -> None:
    cargo = KindsOfFolders(root / "data" / "cargo")
    async with world(root, cargo=cargo) as bay:
        alice = await bay.client()
        box = (await create(alice, wait=10))["id"]
        path = f"/v1/sandboxes/{box}/checkpoints"
        made = [(await alice.post(path, json={})).json()["id"] for _ in range(2)]
        both, one_kind = cargo.seen_kinds, frozenset[CheckpointKind](("snapshot",))
        for seen in (both, one_kind, one_kind, both):
            cargo.seen_kinds = seen
            await bay.bay.discards.take_over()
            assert sorted(one["id"] for one in (await alice.get(path)).json()["items"]) == sorted(made)
        assert (await alice.post(f"{path}/{made[0]}/restore")).is_success
        await cargo.remove_checkpoint(made[1])
        await bay.bay.discards.take_over()
        assert [one["id"] for one in (await alice.get(path)).json()["items"]] == made[:1]
    await clear(root)
