"""The suite that every driver passes: a test is a sentence of the contract in `bay.drivers.base`.

A test module imports it whole, and gives it a fixture `bench`:

    from bay.testing.drivers import *

    @pytest.fixture
    async def bench(tmp_path: Path) -> AsyncGenerator[DriverBench]:
        driver = MyDriver(...)
        await driver.open()
        made = DriverBench(driver, workspaces=tmp_path, kept=(...,), instance="...")
        yield made
        await made.clear()
        await driver.aclose()

Tests of an optional protocol are skipped for a driver without it.
"""

import asyncio
import contextlib
from dataclasses import replace
from pathlib import Path

import pytest

from bay.drivers.base import (
    CountsRefusals,
    Exited,
    Freezer,
    Gone,
    Handle,
    Hibernated,
    Hibernates,
    MemoryInUse,
    Metered,
    MountedVolume,
    NetworkControl,
    Paused,
    Resizable,
    Running,
    Sampled,
    SessionSpec,
    SessionUsage,
    Watchful,
)
from bay.drivers.health import check_health
from bay.errors import DriverUnavailable, SandboxNotReady
from bay.models import NetworkPolicy, NetworkRule, Resources
from bay.places import VolumeClaim
from bay.testing.driver_bench import TOKEN, Answer, DriverBench, call, endpoint_of, run
from bay.units import MIB

pytestmark = pytest.mark.anyio

_HEARD_S = 30.0


async def test_the_last_handle_of_a_start_has_an_endpoint_where_ship_answers(bench: DriverBench) -> None:
    spec = bench.spec()
    handles = [handle async for handle in bench.driver.start(spec, None)]
    assert [handle.endpoint is None for handle in handles[:-1]] == [True] * (len(handles) - 1)
    assert {handle.session_id for handle in handles} == {spec.session_id}
    assert await call(endpoint_of(handles[-1]), "GET", "/healthz") == {"status": "ok"}


async def test_a_handle_survives_json(bench: DriverBench) -> None:
    async with bench.session() as handle:
        assert Handle.from_json(handle.to_json()) == handle


async def test_a_command_runs_in_the_workspace_and_its_files_are_there_for_the_host(
    bench: DriverBench,
) -> None:
    spec = bench.spec()
    handle = await bench.start(spec)
    assert (await run(handle, "echo hello > greeting; true")).exit_code == 0
    assert await bench.read(spec, "greeting") == "hello\n"


async def test_a_place_that_the_driver_cannot_mount_is_refused_and_leaves_nothing(bench: DriverBench) -> None:
    spec = bench.spec()
    is_here = isinstance(spec.workspace, Path)
    other = VolumeClaim(name="bay-other", read_write_once_pod=False) if is_here else Path("/bay-other")
    volume = MountedVolume(path="/data", source=other, read_only=False)
    for wrong in (replace(spec, workspace=other), replace(spec, volumes=(volume,))):
        with pytest.raises(DriverUnavailable, match="bay-other"):
            await bench.start(wrong)
        assert await bench.driver.observe(bench.handle(spec.session_id)) == Gone()


async def test_a_running_session_is_observed_as_running_at_its_endpoint(bench: DriverBench) -> None:
    async with bench.session() as handle:
        assert await bench.driver.observe(handle) == Running(endpoint_of(handle))


async def test_the_session_id_alone_is_enough_to_observe(bench: DriverBench) -> None:
    async with bench.session() as handle:
        seen = await bench.driver.observe(bench.handle(handle.session_id))
        assert isinstance(seen, Running)
        assert seen.endpoint.place == endpoint_of(handle).place


async def test_a_session_that_never_was_is_gone(bench: DriverBench) -> None:
    assert await bench.driver.observe(bench.handle("sess-never")) == Gone()
    assert await bench.driver.wait(bench.handle("sess-never")) == Gone()


async def test_pause_freezes_and_resume_makes_it_answer_again(bench: DriverBench) -> None:
    needs(bench, Freezer)
    async with bench.session() as handle:
        await freezer(bench).pause(handle)
        assert await bench.driver.observe(handle) == Paused(endpoint_of(handle))
        with pytest.raises(SandboxNotReady):
            await check_health(endpoint_of(handle), "x", timeout_s=0.2)
        await freezer(bench).resume(handle)
        assert await bench.driver.observe(handle) == Running(endpoint_of(handle))
        assert await call(endpoint_of(handle), "GET", "/healthz") == {"status": "ok"}


async def test_pause_and_resume_twice_are_as_good_as_once(bench: DriverBench) -> None:
    needs(bench, Freezer)
    async with bench.session() as handle:
        for _ in range(2):
            await freezer(bench).pause(handle)
        for _ in range(2):
            await freezer(bench).resume(handle)
        assert await call(endpoint_of(handle), "GET", "/healthz") == {"status": "ok"}


async def test_pausing_what_has_ended_or_never_was_changes_nothing(bench: DriverBench) -> None:
    needs(bench, Freezer)
    async with bench.session() as handle:
        await bench.driver.stop(handle, grace_s=0)
        for ended in (handle, bench.handle(handle.session_id), bench.handle("sess-never")):
            seen = await bench.driver.observe(ended)
            await freezer(bench).pause(ended)
            await freezer(bench).resume(ended)
            assert await bench.driver.observe(ended) == seen


async def test_the_session_id_alone_is_enough_to_pause_and_to_resume(bench: DriverBench) -> None:
    needs(bench, Freezer)
    async with bench.session() as handle:
        await freezer(bench).pause(bench.handle(handle.session_id))
        assert isinstance(await bench.driver.observe(handle), Paused)
        await freezer(bench).resume(bench.handle(handle.session_id))
        assert await call(endpoint_of(handle), "GET", "/healthz") == {"status": "ok"}


async def test_a_command_goes_on_after_a_pause_and_nothing_it_wrote_is_lost(bench: DriverBench) -> None:
    needs(bench, Freezer)
    spec = bench.spec()
    handle = await bench.start(spec)
    command = "echo before; touch begun; until [ -e go ]; do sleep 0.01; done; echo after"
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(run(handle, command))
        await run(handle, "until [ -e begun ]; do sleep 0.01; done")
        await freezer(bench).pause(handle)
        await bench.touch(spec, "go")
        assert not running.done()
        await freezer(bench).resume(handle)
    assert running.result() == Answer(0, "before\nafter\n", "")


async def test_a_first_process_that_is_killed_while_paused_is_seen_to_end_once_resumed(
    bench: DriverBench,
) -> None:
    needs(bench, Freezer)
    async with bench.session() as handle, asyncio.TaskGroup() as tasks:
        await freezer(bench).pause(handle)
        waiting = tasks.create_task(bench.driver.wait(handle))
        await bench.kill_first(handle)
        await freezer(bench).resume(handle)
        assert isinstance(await waiting, Exited)


async def test_pausing_one_session_leaves_another_alone(bench: DriverBench) -> None:
    needs(bench, Freezer)
    async with bench.session() as handle, bench.session() as other:
        await freezer(bench).pause(handle)
        assert isinstance(await bench.driver.observe(other), Running)
        assert await call(endpoint_of(other), "GET", "/healthz") == {"status": "ok"}


async def test_stop_ends_it_and_wait_tells_so(bench: DriverBench) -> None:
    async with bench.session() as handle, asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(bench.driver.wait(handle))
        await bench.driver.stop(handle, grace_s=5)
        assert isinstance(await waiting, Exited)
        assert isinstance(await bench.driver.observe(handle), Exited)


async def test_stop_ends_a_paused_session_too(bench: DriverBench) -> None:
    needs(bench, Freezer)
    async with bench.session() as handle:
        await freezer(bench).pause(handle)
        await bench.driver.stop(handle, grace_s=5)
        assert isinstance(await bench.driver.observe(handle), Exited)


async def test_what_a_driver_hears_by_itself_is_what_it_observes(bench: DriverBench) -> None:
    needs(bench, Watchful)
    driver = bench.driver
    assert isinstance(driver, Watchful)
    async with bench.session() as handle:
        async with asyncio.timeout(_HEARD_S):
            while driver.running(handle) is None:  # noqa: ASYNC110 - a word that is on its way
                await asyncio.sleep(0.01)
        assert driver.running(handle) == await bench.driver.observe(handle)
        assert driver.running(bench.handle("sess-never")) is None
        await bench.driver.stop(handle, grace_s=1)
        assert isinstance(await bench.driver.wait(handle), Exited)
        assert driver.running(handle) is None


async def test_stop_of_what_is_gone_is_success(bench: DriverBench) -> None:
    async with bench.session() as handle:
        pass
    await bench.driver.stop(handle, grace_s=1)
    await bench.driver.stop(bench.handle("sess-never"), grace_s=1)


async def test_wait_sees_a_first_process_that_was_killed_from_outside(bench: DriverBench) -> None:
    async with bench.session() as handle, asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(bench.driver.wait(handle))
        await bench.kill_first(handle)
        assert isinstance(await waiting, Exited)


async def test_destroy_leaves_nothing_and_says_gone(bench: DriverBench) -> None:
    spec = bench.spec()
    before = await bench.traces()
    handle = await bench.start(spec)
    await run(handle, "mkdir -p a/b; echo x > a/b/c; (sleep 1000 &) ; rm a/b/c")
    await bench.driver.destroy(handle)
    assert await bench.driver.observe(handle) == Gone()
    assert await bench.traces() == before


async def test_destroy_takes_a_paused_session(bench: DriverBench) -> None:
    needs(bench, Freezer)
    spec = bench.spec()
    before = await bench.traces()
    handle = await bench.start(spec)
    await freezer(bench).pause(handle)
    await bench.driver.destroy(handle)
    assert await bench.traces() == before


async def test_destroy_is_idempotent_and_needs_only_the_session_id(bench: DriverBench) -> None:
    spec = bench.spec()
    before = await bench.traces()
    await bench.start(spec)
    for _ in range(2):
        await bench.driver.destroy(bench.handle(spec.session_id))
    await bench.driver.destroy(bench.handle("sess-never"))
    assert await bench.traces() == before


async def test_destroy_keeps_the_workspace(bench: DriverBench) -> None:
    spec = bench.spec()
    handle = await bench.start(spec)
    await run(handle, "echo kept > file")
    await bench.driver.destroy(handle)
    assert await bench.read(spec, "file") == "kept\n"


async def test_a_session_can_be_started_again_on_the_same_workspace(bench: DriverBench) -> None:
    spec = bench.spec()
    handle = await bench.start(spec)
    await run(handle, "echo first > file")
    await bench.driver.destroy(handle)
    assert (await run(await bench.start(spec), "cat file")).stdout == "first\n"


async def test_start_with_the_handle_of_a_running_session_goes_on_with_it(bench: DriverBench) -> None:
    spec = bench.spec()
    handle = await bench.start(spec)
    again = [found async for found in bench.driver.start(spec, handle)]
    assert again[-1].endpoint == handle.endpoint


async def test_start_with_the_handle_of_a_half_made_session_gives_one_container(bench: DriverBench) -> None:
    spec = bench.spec()
    for steps in (1, 2):
        halfway = await start_partly(bench, spec, steps)
        handle = [found async for found in bench.driver.start(spec, halfway)][-1]
        assert await bench.driver.observe(handle) == Running(endpoint_of(handle))
        assert [owned.session_id async for owned in bench.driver.list_owned()] == [spec.session_id]
        assert await bench.ships() == 1
        await bench.driver.destroy(handle)


async def test_start_again_after_the_first_process_died_gives_a_new_one(bench: DriverBench) -> None:
    spec = bench.spec()
    handle = await bench.start(spec)
    await bench.driver.stop(handle, grace_s=0)
    again = [found async for found in bench.driver.start(spec, handle)][-1]
    assert await call(endpoint_of(again), "GET", "/healthz") == {"status": "ok"}


async def test_everything_started_is_listed_with_its_sandbox_and_nothing_after_destroy(
    bench: DriverBench,
) -> None:
    specs = [bench.spec(), bench.spec()]
    for spec in specs:
        await bench.start(spec)
    owned = [owned async for owned in bench.driver.list_owned()]
    assert {(one.session_id, one.sandbox_id) for one in owned} == {
        (s.session_id, s.sandbox_id) for s in specs
    }
    for one in owned:
        await bench.driver.destroy(one.handle)
    assert [one async for one in bench.driver.list_owned()] == []


async def test_a_start_abandoned_after_any_step_is_listed_and_can_be_destroyed(bench: DriverBench) -> None:
    for steps in (1, 2, 3):
        spec = bench.spec()
        before = await bench.traces()
        await start_partly(bench, spec, steps)
        assert [owned.session_id async for owned in bench.driver.list_owned()] == [spec.session_id]
        await bench.driver.destroy(bench.handle(spec.session_id))
        assert await bench.traces() == before


async def test_a_start_cancelled_at_any_time_can_be_destroyed(bench: DriverBench) -> None:
    for delay_s in (0.0, 0.01, 0.02, 0.04, 0.06):
        spec = bench.spec()
        before = await bench.traces()
        with contextlib.suppress(TimeoutError):  # the longest ones may be long enough
            async with asyncio.timeout(delay_s):
                await bench.start(spec)
        await bench.driver.destroy(bench.handle(spec.session_id))
        assert await bench.traces() == before


async def test_sessions_start_side_by_side(bench: DriverBench) -> None:
    specs = [bench.spec() for _ in range(6)]
    async with asyncio.TaskGroup() as tasks:
        starting = [tasks.create_task(bench.start(spec)) for spec in specs]
    endpoints = [endpoint_of(task.result()) for task in starting]
    assert len({endpoint.place for endpoint in endpoints}) == 6
    assert await bench.ships() == 6


async def test_sessions_outlive_the_driver_object(bench: DriverBench) -> None:
    async with bench.session() as handle:
        await bench.driver.aclose()
        assert await call(endpoint_of(handle), "GET", "/healthz") == {"status": "ok"}
        await bench.driver.open()


async def test_the_memory_of_what_hibernates_is_made_durable_and_nothing_changes_by_it(
    bench: DriverBench,
) -> None:
    needs(bench, Hibernates)
    if bench.isolation not in bench.driver.capabilities.memory:
        pytest.skip(f"the memory of isolation {bench.isolation} cannot be saved here")
    assert isinstance(bench.driver, Hibernates)
    async with bench.session() as running, bench.session(savable=True) as handle:
        size = await bench.driver.hibernate(handle, TOKEN)
        for _ in range(2):
            made = await bench.driver.make_durable([bench.workspaces])
            assert (handle.session_id in made, running.session_id in made) == (True, False)
        assert await bench.driver.observe(handle) == Hibernated(size)
        assert isinstance(await bench.driver.observe(running), Running)


async def test_a_session_begins_with_the_resources_of_its_spec_and_takes_others(bench: DriverBench) -> None:
    needs(bench, Resizable)
    first, second = (
        Resources(cpus=0.5, memory=256 * MIB, pids=64),
        Resources(cpus=2, memory=512 * MIB, pids=99),
    )
    async with bench.session(resources=first) as handle:
        assert await resizable(bench).resources(handle) == first
        for wanted in (second, second, first):
            await resizable(bench).resize(handle, wanted)
            assert await resizable(bench).resources(handle) == wanted
        assert await call(endpoint_of(handle), "GET", "/healthz") == {"status": "ok"}


async def test_a_frozen_session_takes_other_resources(bench: DriverBench) -> None:
    needs(bench, Freezer)
    needs(bench, Resizable)
    wanted = Resources(cpus=0.25, memory=200 * MIB, pids=50)
    async with bench.session() as handle:
        await freezer(bench).pause(handle)
        await resizable(bench).resize(handle, wanted)
        assert await resizable(bench).resources(handle) == wanted
        assert await bench.driver.observe(handle) == Paused(endpoint_of(handle))
        await freezer(bench).resume(handle)


async def test_less_memory_than_is_in_use_is_refused_and_changes_nothing(bench: DriverBench) -> None:
    needs(bench, Resizable)
    first = Resources(cpus=0.5, memory=256 * MIB, pids=64)
    async with bench.session(resources=first) as handle:
        with pytest.raises(MemoryInUse, match="MiB of memory"):
            await resizable(bench).resize(handle, Resources(cpus=2, memory=256 << 10, pids=99))
        assert await resizable(bench).resources(handle) == first
        assert await call(endpoint_of(handle), "GET", "/healthz") == {"status": "ok"}


async def test_resizing_what_is_gone_is_success(bench: DriverBench) -> None:
    needs(bench, Resizable)
    async with bench.session() as handle:
        pass
    for gone in (handle, bench.handle("sess-never")):
        await resizable(bench).resize(gone, Resources())
        assert await resizable(bench).resources(gone) is None


async def test_a_session_is_measured_whether_it_works_or_is_frozen(bench: DriverBench) -> None:
    needs(bench, Freezer)
    needs(bench, Metered)
    given = Resources(cpus=1, memory=256 * MIB, pids=64)
    async with bench.session(resources=given) as handle:
        idle = await usage_of(bench, handle)
        assert idle.limits in (None, given)
        assert idle.memory_bytes is None or idle.memory_bytes > 0
        assert idle.pids is None or 0 < idle.pids < given.pids
        await run(handle, "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done")
        busy = await usage_of(bench, handle)
        assert busy.taken_s > idle.taken_s
        assert idle.cpu_usec is None or (busy.cpu_usec is not None and busy.cpu_usec > idle.cpu_usec)
        await freezer(bench).pause(handle)
        frozen = await usage_of(bench, bench.handle(handle.session_id))
        assert (frozen.pids is None) == (idle.pids is None)
        assert isinstance(await bench.driver.observe(handle), Paused)
        await freezer(bench).resume(handle)


async def test_many_sessions_are_sampled_in_one_pass_without_those_that_are_gone(bench: DriverBench) -> None:
    needs(bench, Sampled)
    async with bench.session() as first, bench.session() as second:
        before = await sampled(bench).samples([first, second, bench.handle("sess-never")])
        assert before.keys() == {first.session_id, second.session_id}
        await run(first, "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done")
        after = await sampled(bench).samples([first])
        old, new = before[first.session_id], after[first.session_id]
        assert new.taken_s > old.taken_s
        assert new.cpu_usec is None or (old.cpu_usec is not None and new.cpu_usec > old.cpu_usec)
        assert new.memory_bytes is None or new.memory_bytes > 0
    assert await sampled(bench).samples([first, second]) == {}
    assert await sampled(bench).samples([]) == {}


async def test_there_is_no_usage_of_what_is_gone(bench: DriverBench) -> None:
    needs(bench, Metered)
    async with bench.session() as handle:
        pass
    for gone in (handle, bench.handle("sess-never")):
        assert await metered(bench).usage(gone) is None


async def test_a_session_begins_with_the_policy_of_its_spec(bench: DriverBench) -> None:
    needs(bench, NetworkControl)
    for mode in bench.driver.capabilities.network:
        async with bench.session(network=NetworkPolicy(mode=mode)) as handle:
            assert (await network(bench).network_state(handle)).mode == mode


async def test_another_policy_holds_once_it_is_set_and_the_same_again_is_no_error(bench: DriverBench) -> None:
    needs(bench, NetworkControl)
    rule = NetworkRule(action="allow", cidr="9.9.9.9/32", ports=(443, "8000-8100"))
    async with bench.session(network=NetworkPolicy(mode="none")) as handle:
        for policy in (
            NetworkPolicy(mode="allowlist", rules=(rule,)),
            NetworkPolicy(),
            NetworkPolicy(mode="none"),
        ):
            for _ in range(2):
                await network(bench).set_network(handle, policy)
                assert (await network(bench).network_state(handle)).mode == policy.mode


async def test_a_frozen_session_takes_another_policy(bench: DriverBench) -> None:
    needs(bench, Freezer)
    needs(bench, NetworkControl)
    async with bench.session() as handle:
        await freezer(bench).pause(handle)
        await network(bench).set_network(handle, NetworkPolicy(mode="allowlist"))
        assert (await network(bench).network_state(handle)).mode == "allowlist"
        await freezer(bench).resume(handle)


async def test_a_session_with_a_network_leaves_nothing_of_it_when_it_is_destroyed(bench: DriverBench) -> None:
    needs(bench, NetworkControl)
    spec = bench.spec(network=NetworkPolicy(mode="allowlist"))
    before = await bench.traces()
    handle = await bench.start(spec)
    await network(bench).set_network(handle, NetworkPolicy())
    await bench.driver.destroy(handle)
    assert await bench.traces() == before


async def test_refused_packets_count_by_few_reasons_and_none_of_their_sums_falls(bench: DriverBench) -> None:
    needs(bench, CountsRefusals)
    before = await refusals(bench).refused_packets()
    assert before.keys() <= {"rule", "default", "reserved", "flood", "protocol"}
    async with bench.session(network=NetworkPolicy(mode="allowlist")):
        pass
    after = await refusals(bench).refused_packets()
    assert after.keys() == before.keys()
    assert all(after[reason] >= packets for reason, packets in before.items())


def needs(bench: DriverBench, protocol: type) -> None:
    """Skip a test of an optional protocol that the driver has not, before anything begins."""
    if not isinstance(bench.driver, protocol):
        pytest.skip(f"driver {bench.driver.name} is no {protocol.__name__}")
    if protocol in (NetworkControl, CountsRefusals) and not bench.has_network:
        pytest.skip(f"isolation {bench.isolation} has no network")


def freezer(bench: DriverBench) -> Freezer:
    """The driver, for tests that need it as a `Freezer`."""
    assert isinstance(bench.driver, Freezer)
    return bench.driver


def resizable(bench: DriverBench) -> Resizable:
    """The driver, for tests that need it as a `Resizable`."""
    assert isinstance(bench.driver, Resizable)
    return bench.driver


def metered(bench: DriverBench) -> Metered:
    """The driver, for tests that need it as a `Metered`."""
    assert isinstance(bench.driver, Metered)
    return bench.driver


def sampled(bench: DriverBench) -> Sampled:
    """The driver, for tests that need it as a `Sampled`."""
    assert isinstance(bench.driver, Sampled)
    return bench.driver


async def usage_of(bench: DriverBench, handle: Handle) -> SessionUsage:
    """The usage of a session that is there."""
    found = await metered(bench).usage(handle)
    assert found is not None
    return found


def network(bench: DriverBench) -> NetworkControl:
    """The driver, for tests that need it as a `NetworkControl`."""
    assert isinstance(bench.driver, NetworkControl)
    return bench.driver


def refusals(bench: DriverBench) -> CountsRefusals:
    """The driver, for tests that need it as a `CountsRefusals`."""
    assert isinstance(bench.driver, CountsRefusals)
    return bench.driver


async def start_partly(bench: DriverBench, spec: SessionSpec, steps: int) -> Handle:
    """Take `steps` handles from a start and drop it there."""
    starting = bench.driver.start(spec, None)
    handle = bench.handle(spec.session_id)
    for _ in range(steps):
        handle = await anext(starting)
    await starting.aclose()
    return handle
