"""What only the fake driver does: fail, hold, refuse, lie and lose, when told."""

import asyncio
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import cast

import pytest

from bay.drivers.base import Exited, Gone, Running, SessionSpec
from bay.drivers.fake import STEPS, FakeDriver, SessionState
from bay.errors import DriverUnavailable
from bay.linux.processes import kill_and_wait
from bay.models import NetworkPolicy, Resources
from bay.testing.driver_bench import TOKEN, DriverBench, host_fingerprint, run

pytestmark = [pytest.mark.host, pytest.mark.anyio]


def driver_of(bench: DriverBench) -> FakeDriver:
    return cast("FakeDriver", bench.driver)


@pytest.mark.parametrize("step", STEPS[:3])
async def test_a_start_told_to_fail_at_a_step_fails_there_and_can_be_destroyed(
    fake: DriverBench, step: str
) -> None:
    spec = fake.spec()
    before = host_fingerprint(fake)
    driver_of(fake).fail_at = step
    with pytest.raises(DriverUnavailable, match=f"fail at {step}"):
        await fake.start(spec)
    await fake.driver.destroy(fake.handle(spec.session_id))
    assert host_fingerprint(fake) == before


async def nothing() -> None:
    """In place of the copy of files."""


async def test_every_other_call_can_be_told_to_fail(fake: DriverBench) -> None:
    async with fake.session() as handle:
        calls = {
            "observe": lambda: fake.driver.observe(handle),
            "pause": lambda: driver_of(fake).pause(handle),
            "resume": lambda: driver_of(fake).resume(handle),
            "hibernate": lambda: driver_of(fake).hibernate(handle, TOKEN),
            "make_durable": lambda: driver_of(fake).make_durable([]),
            "save_memory": lambda: driver_of(fake).save_memory(handle, TOKEN, "ckpt-1", nothing),
            "set_network": lambda: driver_of(fake).set_network(handle, NetworkPolicy()),
            "resize": lambda: driver_of(fake).resize(handle, Resources()),
            "refused_packets": lambda: driver_of(fake).refused_packets(),
            "usage": lambda: driver_of(fake).usage(handle),
            "stop": lambda: fake.driver.stop(handle, 1),
            "destroy": lambda: fake.driver.destroy(handle),
            "list_owned": lambda: anext(fake.driver.list_owned()),
        }
        assert set(STEPS) == {"claim", "launch", "ready", *calls}
        for step, call in calls.items():
            driver_of(fake).fail_at = step
            with pytest.raises(DriverUnavailable, match=step):
                await call()
        driver_of(fake).fail_at = None


async def test_a_held_start_waits_until_it_is_let_go(fake: DriverBench) -> None:
    spec = fake.spec()
    driver = driver_of(fake)
    driver.hold_at = "launch"
    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        starting = tasks.create_task(fake.start(spec))
        await driver.held.wait()
        assert not starting.done()
        assert await driver.observe(fake.handle(spec.session_id)) == Gone()
        driver.let_go.set()
        assert isinstance(await driver.observe(await starting), Running)


async def test_refusing_is_of_every_call(fake: DriverBench) -> None:
    driver_of(fake).refuse = True
    with pytest.raises(DriverUnavailable, match="refuse"):
        await fake.driver.observe(fake.handle("sess-1"))
    driver_of(fake).refuse = False


async def test_it_lies_when_told_to(fake: DriverBench) -> None:
    async with fake.session() as handle:
        driver_of(fake).lies[handle.session_id] = Gone()
        assert await fake.driver.observe(handle) == Gone()
        del driver_of(fake).lies[handle.session_id]
        assert isinstance(await fake.driver.observe(handle), Running)


async def test_a_session_can_vanish_and_wait_notices(fake: DriverBench) -> None:
    async with fake.session() as handle, asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(fake.driver.wait(handle))
        await fake.driver.observe(handle)
        await driver_of(fake).vanish(handle.session_id)
        assert isinstance(await waiting, Gone | Exited)
        assert await fake.driver.observe(handle) == Gone()


async def test_a_crash_takes_the_commands_with_it_and_leaves_a_trace(fake: DriverBench) -> None:
    async with fake.session() as handle:
        await run(handle, "sleep 1000 & true")
        await driver_of(fake).crash(handle.session_id)
        assert await fake.driver.observe(handle) == Exited(-9)


async def test_a_second_driver_takes_over(fake: DriverBench) -> None:
    async with fake.session() as handle:
        second = FakeDriver(run_dir=fake.kept[0])
        assert isinstance(await second.observe(handle), Running)
        assert [owned.session_id async for owned in second.list_owned()] == [handle.session_id]
        await second.destroy(handle)
        assert await fake.driver.observe(handle) == Gone()


async def test_it_fails_from_its_making_on(workspaces: Path) -> None:
    driver = FakeDriver(run_dir=workspaces, fail_at="list_owned")
    with pytest.raises(DriverUnavailable):
        await anext(driver.list_owned())


async def test_a_start_that_another_driver_has_begun_anew_meanwhile_fails_and_ends_nothing(
    fake: DriverBench,
) -> None:
    spec, driver = fake.spec(), driver_of(fake)
    another = FakeDriver(run_dir=fake.kept[0])
    driver.hold_at = "launch"
    with processes_of(fake, spec) as processes:
        async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
            late = tasks.create_task(failed_start(fake, spec))
            await driver.held.wait()
            *_, handle = [step async for step in another.start(spec, None)]
            driver.let_go.set()
            assert "begun the start" in str(await late)
        assert isinstance(await another.observe(handle), Running)
        assert processes() == [handle.data["pid"]]


async def failed_start(fake: DriverBench, spec: SessionSpec) -> DriverUnavailable:
    with pytest.raises(DriverUnavailable) as failed:
        await fake.start(spec)
    return failed.value


class DyingDriver(FakeDriver):
    """A driver that is killed after a launch, before it has a record of the process."""

    def _save(self, session_id: str, state: SessionState) -> None:
        if "pid" in state:
            raise KilledHere
        super()._save(session_id, state)


class KilledHere(Exception):
    """It does nothing more."""


async def test_a_ship_that_was_launched_without_a_record_ends_before_the_next_one_starts(
    fake: DriverBench,
) -> None:
    spec = fake.spec()
    with processes_of(fake, spec) as processes:
        with pytest.raises(KilledHere):
            _ = [step async for step in DyingDriver(run_dir=fake.kept[0]).start(spec, None)]
        (lost,) = processes()
        handle = await fake.start(spec)
        assert processes() == [handle.data["pid"]] != [lost]


@contextmanager
def processes_of(fake: DriverBench, spec: SessionSpec) -> Generator[Callable[[], list[int]]]:
    """Tells which processes work in the session's directory, or did before it was removed. They end with the
    block.
    """
    directory = str(fake.kept[0] / spec.session_id)

    def find() -> list[int]:
        found: list[int] = []
        for entry in Path("/proc").iterdir():
            with suppress(OSError):
                if entry.name.isdecimal() and str((entry / "cwd").readlink()).split()[0] == directory:
                    found.append(int(entry.name))
        return found

    try:
        yield find
    finally:
        kill_and_wait(find(), 10)
