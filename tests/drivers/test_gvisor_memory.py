"""The memory of sessions in gVisor: most tests are those of containers."""

import asyncio
import base64
import contextlib
import json
import os
from pathlib import Path

import pytest
from oci_bench import OciBench
from survivor_kept import KEPT
from test_oci_hibernation import (
    SURVIVOR,
    content_of,
    goes_on,
    hibernated,
    is_closed,
    started,
    test_a_destroyed_session_takes_its_memory_with_it,
    test_a_full_disk_in_the_middle_of_a_save_loses_nothing,
    test_a_network_is_held_to_the_policy_of_the_restore_from_its_first_packet,
    test_a_restore_that_a_killed_bay_left_half_way_is_not_begun_again,
    test_a_restore_that_had_ended_when_its_bay_was_killed_goes_on_and_is_lost_when_it_died,
    test_a_session_that_runs_is_not_started_from_an_older_image_of_it,
    test_a_terminal_and_its_jobs_go_on,
    test_an_image_that_this_host_cannot_trust_is_refused_with_the_reason,
    test_files_outside_of_the_workspace_are_kept_with_the_memory,
    test_nothing_of_a_hibernated_session_is_left_but_files_that_root_alone_reads,
    woken,
)
from test_oci_memory_checkpoints import (
    SAVED,
    KilledError,
    asked,
    begun,
    clone_of,
    is_as_before,
    nothing,
    nothing_done,
    nothing_removed,
    saved,
    test_a_clone_is_saved_and_cloned_like_its_original,
    test_a_half_made_copy_goes_with_its_checkpoint,
    test_a_session_begins_with_a_checkpoints_memory_once,
    test_four_begin_at_once_and_each_goes_its_own_way,
    test_memory_and_files_are_of_one_moment,
    test_memory_is_for_sessions_of_the_same_rights,
    test_memory_that_is_altered_gone_or_of_another_host_begins_nothing,
    test_one_at_rest_stays_at_rest,
    test_one_whose_files_cannot_be_copied_goes_on,
    test_one_whose_layers_cannot_be_copied_goes_on,
    test_the_files_beside_the_workspace_count,
    test_the_memory_of_a_checkpoint_is_roots_alone_and_goes_with_it,
    without_memories,
)

from bay.drivers.base import Gone, MemoryLost, MemoryNotSaved
from bay.drivers.health import check_health
from bay.drivers.oci import runsc, savers
from bay.drivers.oci.memory_image import ImageDirectory
from bay.drivers.oci.savers import SentrySaver
from bay.drivers.quiet import RestRefused
from bay.errors import SandboxNotReady
from bay.testing.driver_bench import TOKEN, call, cgroups_of, endpoint_of, run

pytestmark = [
    pytest.mark.host,
    pytest.mark.anyio,
    pytest.mark.long,
    pytest.mark.skipif(os.getuid() != 0, reason="the oci driver needs root"),
]

# Tests and fixtures are found by their names here.
__all__ = [
    "test_a_clone_is_saved_and_cloned_like_its_original",
    "test_a_destroyed_session_takes_its_memory_with_it",
    "test_a_full_disk_in_the_middle_of_a_save_loses_nothing",
    "test_a_half_made_copy_goes_with_its_checkpoint",
    "test_a_network_is_held_to_the_policy_of_the_restore_from_its_first_packet",
    "test_a_restore_that_a_killed_bay_left_half_way_is_not_begun_again",
    "test_a_restore_that_had_ended_when_its_bay_was_killed_goes_on_and_is_lost_when_it_died",
    "test_a_session_begins_with_a_checkpoints_memory_once",
    "test_a_session_that_runs_is_not_started_from_an_older_image_of_it",
    "test_a_terminal_and_its_jobs_go_on",
    "test_an_image_that_this_host_cannot_trust_is_refused_with_the_reason",
    "test_files_outside_of_the_workspace_are_kept_with_the_memory",
    "test_four_begin_at_once_and_each_goes_its_own_way",
    "test_memory_and_files_are_of_one_moment",
    "test_memory_is_for_sessions_of_the_same_rights",
    "test_memory_that_is_altered_gone_or_of_another_host_begins_nothing",
    "test_nothing_of_a_hibernated_session_is_left_but_files_that_root_alone_reads",
    "test_one_at_rest_stays_at_rest",
    "test_one_whose_files_cannot_be_copied_goes_on",
    "test_one_whose_layers_cannot_be_copied_goes_on",
    "test_the_files_beside_the_workspace_count",
    "test_the_memory_of_a_checkpoint_is_roots_alone_and_goes_with_it",
    "without_memories",
]

_OF_DISK = ("workspace", "root")
_KEPT = {**KEPT, "deleted": {name: True for name in KEPT["deleted"] if name not in _OF_DISK}}
"""gVisor cannot save a program that holds a file of a disk that has been deleted."""
_SURVIVOR = f"exec python3 /workspace/survivor.py {' '.join(_OF_DISK)} > /workspace/said 2>&1"
_HOLDS_DELETED = "echo x > a; exec 3<a; rm a; echo yes > holds; sleep 600"


@pytest.fixture
def oci_criu(oci_gvisor_memory: OciBench) -> OciBench:
    """In the place of the one with CRIU."""
    return oci_gvisor_memory


async def test_all_that_a_program_holds_lives_on(oci_criu: OciBench) -> None:
    spec, handle = await started(oci_criu)
    await run(handle, "cat > /workspace/survivor.py", stdin=base64.b64encode(SURVIVOR.read_bytes()).decode())
    await call(endpoint_of(handle), "POST", "/execs", {"id": "exec-1", "command": _SURVIVOR})
    before = json.loads(await content_of(handle, "/workspace/ready"))
    for _ in range(2):  # one that was restored is saved again
        await hibernated(oci_criu, spec, handle)
        handle = await woken(oci_criu, spec, handle)
        await is_closed(oci_criu, handle)
    await run(handle, "touch go")
    found = json.loads(await content_of(handle, "/workspace/found"))
    assert found == {"value": before["value"], "connection": "open", **_KEPT}, await oci_criu.read(
        spec, "said"
    )
    ended = await call(endpoint_of(handle), "GET", "/execs/exec-1?wait=20")
    assert ended["exit_code"] == 0


async def test_a_session_goes_on_at_a_checkpoint_and_each_clone_has_an_identity_of_its_own(
    oci_criu: OciBench,
) -> None:
    spec, handle = await started(oci_criu, hostname="alpha")
    await run(handle, "cat > survivor.py", stdin=base64.b64encode(SURVIVOR.read_bytes()).decode())
    await call(endpoint_of(handle), "POST", "/execs", {"id": "exec-1", "command": _SURVIVOR})
    before = json.loads(await content_of(handle, "/workspace/ready"))
    files = await saved(oci_criu, spec, handle)
    clones = [clone_of(oci_criu, files, hostname="beta") for _ in range(2)]
    handles = await asyncio.gather(*(begun(oci_criu, clone) for clone in clones))
    for its, where in ((spec, handle), *zip(clones, handles, strict=True)):
        await run(where, "touch /workspace/go", token=its.token)
        wait = "until [ -s /workspace/found ]; do sleep 0.02; done; cat /workspace/found"
        found = json.loads((await run(where, wait, timeout_s=30, token=its.token)).stdout)
        assert found == {"value": before["value"], "connection": "open", **_KEPT}
        ended = await call(endpoint_of(where), "GET", "/execs/exec-1?wait=20", token=its.token)
        assert ended["exit_code"] == 0
        show = "touch /.ship-run/x; hostname; cat /etc/hostname"
        closed = await run(where, show, user="root", token=its.token)
        assert closed.stdout == f"{its.hostname}\n" * 2
        assert "Read-only" in closed.stderr
    assert len({one.data["id_base"] for one in (handle, *handles)}) == 3
    for where, wrong in ((handles[0], TOKEN), (handles[0], clones[1].token), (handle, clones[0].token)):
        with pytest.raises(SandboxNotReady):
            await check_health(endpoint_of(where), wrong)


async def test_a_program_that_holds_a_deleted_file_of_a_disk_is_not_saved_and_goes_on(
    oci_criu: OciBench,
) -> None:
    spec, handle = await started(oci_criu)
    await call(endpoint_of(handle), "POST", "/execs", {"id": "exec-1", "command": _HOLDS_DELETED})
    await content_of(handle, "/workspace/holds")
    with pytest.raises(MemoryNotSaved, match="has been deleted"):
        await oci_criu.driver.save_memory(handle, spec.token, SAVED, nothing)
    await is_as_before(oci_criu, spec, handle)
    with pytest.raises(MemoryNotSaved, match="has been deleted"):
        await oci_criu.driver.hibernate(handle, spec.token)
    await goes_on(oci_criu, spec, handle)


async def test_what_follows_ends_with_a_save_and_comes_back_and_an_upload_is_waited_for(
    oci_criu: OciBench,
) -> None:
    spec, handle = await started(oci_criu)
    command = "echo first; until [ -e /workspace/stop ]; do sleep 0.02; done; echo second"
    await call(endpoint_of(handle), "POST", "/execs", {"id": "exec-p", "command": command})
    async with (
        asked(handle, "GET /execs/exec-p/output?since=0&follow=true") as (output, head),
        asked(handle, "PUT /fs/content?path=/workspace/large") as (uploaded, upload),
    ):
        head.write(b"\r\n")
        await output.readuntil(b"Zmlyc3QK")
        upload.write(b"Content-Length: 8\r\n\r\nhalf")
        await upload.drain()
        place = Path(endpoint_of(handle).socket_path or "")
        before = place.stat()
        with pytest.raises(MemoryNotSaved, match="under way"):
            await oci_criu.driver.save_memory(handle, spec.token, SAVED, nothing)
        assert os.path.samestat(place.stat(), before)  # it was not asked to listen anew
        saving = asyncio.create_task(oci_criu.driver.save_memory(handle, spec.token, SAVED, nothing))
        upload.write(b"half")
        assert (await uploaded.readline()).startswith(b"HTTP/1.1 20")
        await saving
        with contextlib.suppress(ConnectionResetError):
            await output.read()
    await oci_criu.touch(spec, "stop")
    ended = await call(endpoint_of(handle), "GET", "/execs/exec-p?wait=20")
    assert base64.b64decode(ended["stdout"]) == b"first\nsecond\n"
    assert await oci_criu.read(spec, "large") == "halfhalf"


@pytest.mark.parametrize("step", ["rest", "stand_still", "write"])
@pytest.mark.parametrize("after", [False, True])
async def test_a_save_that_a_killed_bay_left_under_way_is_undone(
    oci_criu: OciBench, monkeypatch: pytest.MonkeyPatch, step: str, *, after: bool
) -> None:
    spec, handle = await started(oci_criu)
    place = Path(endpoint_of(handle).socket_path or "")
    before, real = place.stat(), getattr(SentrySaver, step)

    async def ends(*given: object) -> None:
        if after:
            await real(*given)
        raise KilledError

    monkeypatch.setattr(SentrySaver, step, ends)
    monkeypatch.setattr(SentrySaver, "go_on", nothing_done)
    monkeypatch.setattr(ImageDirectory, "remove", nothing_removed)
    with pytest.raises(KilledError):
        await oci_criu.driver.save_memory(handle, spec.token, SAVED, nothing)
    monkeypatch.undo()
    await oci_criu.driver.resume(handle)  # the next Bay's
    await is_as_before(oci_criu, spec, handle)
    was_drained = step != "rest" or after
    assert os.path.samestat(place.stat(), before) is not was_drained  # it is left alone else


@pytest.mark.parametrize("does", ["exec sleep 60", "kill -9 $$", "exit 1"])
@pytest.mark.parametrize("word", ["checkpoint", "restore"])
async def test_a_runsc_that_hangs_or_crashes_loses_nothing_and_starts_nothing(
    oci_criu: OciBench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, word: str, does: str
) -> None:
    monkeypatch.setattr(runsc, "_SAVE_S", 1.0)
    program = tmp_path / "runsc"
    program.write_text(f'#!/bin/sh\ncase " $* " in *" {word} "*) {does};; esac\nexec runsc "$@"\n')
    program.chmod(0o755)
    spec, handle = await started(oci_criu)
    driver = oci_criu.driver
    driver._runsc = broken = runsc.Runsc(str(program), 2.0)
    driver._memory.savers["gvisor"] = SentrySaver(broken)
    if word == "checkpoint":
        with pytest.raises(MemoryNotSaved):
            await driver.hibernate(handle, spec.token)
        await goes_on(oci_criu, spec, handle)
        return
    await run(handle, "echo kept > /workspace/file")
    await hibernated(oci_criu, spec, handle)
    for _ in range(2):  # the memory is used once only
        with pytest.raises(MemoryLost):
            await woken(oci_criu, spec, handle)
    assert await oci_criu.read(spec, "file") == "kept\n"
    await driver.destroy(handle)
    assert cgroups_of(oci_criu) == []
    assert await driver.observe(handle) == Gone()


async def test_a_ship_of_an_older_bay_is_not_saved_and_goes_on_with_its_socket(
    oci_criu: OciBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no such route, and would end at the signal that has others listen again."""
    spec, handle = await started(oci_criu)

    async def answers_404(*_: object) -> None:
        raise RestRefused(404, "Ship answered 404 to /drain")

    def signalled(*_: object) -> None:
        pytest.fail("it was signalled")

    monkeypatch.setattr(savers, "drain", answers_404)
    monkeypatch.setattr(runsc.Runsc, "signal", signalled)
    with pytest.raises(SandboxNotReady, match="404"):
        await oci_criu.driver.hibernate(handle, spec.token)
    await goes_on(oci_criu, spec, handle)
    monkeypatch.undo()


async def test_one_that_is_frozen_has_its_new_name_from_the_next_start_on(oci_criu: OciBench) -> None:
    _, handle = await started(oci_criu, hostname="first")
    await oci_criu.driver.pause(handle)
    await oci_criu.driver.set_hostname(handle, "second")
    await oci_criu.driver.resume(handle)
    assert (await run(handle, "hostname")).stdout == "first\n"
