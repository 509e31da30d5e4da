"""The clock that counts what has passed, whatever becomes of the wall clock."""

from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from server_harness import clear, settings_in

from bay.clock import since_boot
from bay.server.app import build_app
from bay.server.control_plane import ControlPlane
from bay.server.reconciler.boot_clock import BootClock
from bay.server.sandboxes.service import NewSandbox, Sandboxes
from bay.server.web.auth import Caller
from bay.store import sandboxes
from bay.store.records import SandboxRecord

pytestmark = pytest.mark.anyio

HOUR = timedelta(hours=1)
CALLER = Caller("alice", "write", "key-1")


class Wall:
    """A wall clock that can be set."""

    def __init__(self) -> None:
        self.ahead = timedelta(0)

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead


async def record(bay: ControlPlane, sandbox_id: str) -> SandboxRecord:
    async with bay.store.read() as db:
        found = await sandboxes.get(db, sandbox_id)
    assert found is not None
    return found


def bay_with(root: Path, wall: Wall) -> ControlPlane:
    app = build_app(settings_in(root), clock=BootClock(wall))
    return app.state.bay


@pytest.fixture
def wall() -> Wall:
    return Wall()


@pytest.fixture
async def cleared(root: Path) -> AsyncGenerator[Path]:
    yield root
    await clear(root)


@pytest.mark.parametrize("jump", [HOUR, -HOUR, 400 * 24 * HOUR])
async def test_a_jump_of_the_wall_clock_ends_nobody_and_moves_the_limits(
    cleared: Path, wall: Wall, jump: timedelta
) -> None:
    bay = bay_with(cleared, wall)
    async with bay.running():
        new = NewSandbox(profile="python-default", ttl=600, idle_timeout=300)
        made = await bay.services()[Sandboxes].create(CALLER, new, None, 20)
        before = await record(bay, made.id)
        wall.ahead = jump
        assert (await bay.services()[Sandboxes].get(CALLER, made.id)).status == "ready"
        await bay.sweep.sweep()
        after = await record(bay, made.id)
        assert after.expires_at is not None
        assert before.expires_at is not None
        assert after.idle_expires_at is not None
        assert before.idle_expires_at is not None
        assert before.last_active_at is not None
        assert after.last_active_at is not None
        assert abs(after.last_active_at - before.last_active_at - jump) < timedelta(seconds=5)
        for old, new_ in (
            (before.expires_at, after.expires_at),
            (before.idle_expires_at, after.idle_expires_at),
        ):
            assert abs(new_ - old - jump) < timedelta(seconds=5)
        assert abs(bay.clock() - wall()) < timedelta(seconds=5)
        assert (await bay.services()[Sandboxes].get(CALLER, made.id)).status == "ready"


async def test_what_time_servers_correct_by_and_by_moves_nothing(cleared: Path, wall: Wall) -> None:
    bay = bay_with(cleared, wall)
    async with bay.running():
        made = await bay.services()[Sandboxes].create(CALLER, NewSandbox(profile="rootless"), None, 0)
        before = await record(bay, made.id)
        wall.ahead = timedelta(seconds=1)
        await bay.sweep.sweep()
        assert (await record(bay, made.id)).expires_at == before.expires_at


async def test_a_jump_while_no_bay_runs_is_made_good_at_the_next_start(cleared: Path, wall: Wall) -> None:
    bay = bay_with(cleared, wall)
    async with bay.running():
        made = await bay.services()[Sandboxes].create(CALLER, NewSandbox(profile="rootless"), None, 0)
        before = (await record(bay, made.id)).expires_at
    wall.ahead = 5 * HOUR
    bay = bay_with(cleared, wall)
    async with bay.running():
        after = (await record(bay, made.id)).expires_at
    assert before is not None
    assert after is not None
    assert abs(after - before - 5 * HOUR) < timedelta(seconds=5)


def test_it_goes_on_with_the_kernel_and_not_with_the_wall(wall: Wall) -> None:
    clock = BootClock(wall)
    first = clock()
    wall.ahead = -HOUR
    assert clock() >= first
    assert abs(clock.drift() + HOUR) < timedelta(seconds=5)
    assert since_boot() > timedelta(0)
