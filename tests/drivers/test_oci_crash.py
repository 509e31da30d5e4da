"""Bay is killed at any moment, or parts of the host are lost: what remains is found, and one destroy leaves nothing."""

import asyncio
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
from driver_harness import Bench, host_fingerprint

from bay.drivers.base import Gone, Running, SessionSpec
from bay.drivers.oci import OciDriver
from bay.errors import DriverUnavailable

pytestmark = pytest.mark.anyio

PROGRAM = Path(__file__).with_name("crashing_bay.py")


@pytest.mark.parametrize("step", ["claimed", "launched", "ready"])
async def test_bay_killed_after_a_step_leaves_what_one_destroy_removes(oci: Bench, step: str) -> None:
    spec = oci.spec()
    before = host_fingerprint(oci)
    await killed(oci, spec, step, 0)
    assert [owned.session_id async for owned in oci.driver.list_owned()] == [spec.session_id]
    await oci.driver.destroy(oci.handle(spec.session_id))
    assert host_fingerprint(oci) == before


@pytest.mark.parametrize("delay_ms", [0, 3, 6, 10, 15, 20, 25, 30, 40, 60])
async def test_bay_killed_while_it_launches_leaves_what_one_destroy_removes(
    oci: Bench, delay_ms: int
) -> None:
    spec = oci.spec()
    before = host_fingerprint(oci)
    await killed(oci, spec, "never", delay_ms / 1000)
    assert [owned.session_id async for owned in oci.driver.list_owned()] == [spec.session_id]
    await oci.driver.destroy(oci.handle(spec.session_id))
    assert await oci.driver.observe(oci.handle(spec.session_id)) == Gone()
    assert host_fingerprint(oci) == before


async def test_a_session_outlives_its_bay_and_the_next_one_goes_on_with_it(oci: Bench) -> None:
    spec = oci.spec()
    await killed(oci, spec, "ready", 0)
    seen = await oci.driver.observe(oci.handle(spec.session_id))
    assert isinstance(seen, Running)
    assert Path(seen.endpoint.socket_path).is_socket()


@pytest.mark.parametrize("lost", ["data", "run", "runc", "claim"])
async def test_a_session_with_a_part_lost_is_still_listed_and_removed(oci: Bench, lost: str) -> None:
    spec = oci.spec()
    before = host_fingerprint(oci)
    handle = await oci.start(spec)
    root, run_dir, ids = oci.kept
    for path in {
        "data": [root / "sessions" / spec.session_id],
        "run": [run_dir / "sessions" / spec.session_id],
        "runc": [run_dir / "runc" / spec.session_id],
        "claim": [path for path in ids.glob("[0-9]*") if spec.session_id in path.read_text()],
    }[lost]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert [owned.session_id async for owned in oci.driver.list_owned()] == [spec.session_id]
    await oci.driver.destroy(oci.handle(handle.session_id))
    assert host_fingerprint(oci) == before


async def test_after_a_reboot_the_remains_on_disk_are_listed_and_removed(oci: Bench) -> None:
    spec = oci.spec()
    before = host_fingerprint(oci)
    handle = await oci.start(spec)
    await oci.driver.stop(handle, grace_s=0)
    root, run_dir, ids = oci.kept
    for directory in (run_dir, ids):  # as after a reboot, /run is empty
        shutil.rmtree(directory)
    await oci.driver.open()
    owned = [owned async for owned in oci.driver.list_owned()]
    assert [(one.session_id, one.sandbox_id) for one in owned] == [(spec.session_id, spec.sandbox_id)]
    await oci.driver.destroy(owned[0].handle)
    assert host_fingerprint(oci) == before
    assert os.listdir(root / "sessions") == []


async def test_a_number_used_again_is_not_taken_for_the_first_process(oci: Bench) -> None:
    spec = oci.spec()
    handle = await oci.start(spec)
    await oci.driver.stop(handle, grace_s=0)
    mine = {**handle.data, "pid": os.getpid()}
    stranger = type(handle)(driver="oci", session_id=spec.session_id, data=mine)
    await oci.driver.stop(stranger, grace_s=0)
    await oci.driver.destroy(stranger)  # and this process is still here


async def test_a_runc_that_fails_says_why_and_leaves_nothing(oci: Bench, workspaces: Path) -> None:
    spec = oci.spec()
    before = host_fingerprint(oci)
    root, run_dir, ids = oci.kept
    failing = workspaces / "runc"
    failing.write_text(
        '#!/bin/sh\ncase "$*" in *--version*) exec runc --version;; esac\necho no >&2; exit 1\n'
    )
    failing.chmod(0o755)
    driver = OciDriver(root=root, run_dir=run_dir, ids_dir=ids, runc=str(failing))
    await driver.open()
    with pytest.raises(DriverUnavailable, match="could not start the container"):
        [handle async for handle in driver.start(spec, None)]
    await driver.destroy(oci.handle(spec.session_id))
    failing.unlink()
    assert host_fingerprint(oci) == before


async def test_a_host_without_runc_is_told_what_to_install(oci: Bench) -> None:
    root, run_dir, ids = oci.kept
    driver = OciDriver(root=root, run_dir=run_dir, ids_dir=ids, runc="/nowhere/runc")
    with pytest.raises(DriverUnavailable, match="install runc"):
        await driver.open()


async def killed(bench: Bench, spec: SessionSpec, stop_at: str, delay_s: float) -> None:
    """Run a Bay until it is at `stop_at`, or until `delay_s` after it began to start, and kill it."""
    arguments = [*map(str, bench.kept), str(spec.workspace), spec.session_id, stop_at]
    bay = await asyncio.create_subprocess_exec(
        sys.executable, str(PROGRAM), *arguments, stdout=asyncio.subprocess.PIPE
    )
    assert bay.stdout is not None
    try:
        async with asyncio.timeout(30):
            while (line := await bay.stdout.readline()) != f"{stop_at}\n".encode():
                if stop_at == "never" and line == b"claimed\n":
                    break
                assert line, "it ended before it was killed"
        if delay_s:
            # The moment is the subject here: between two steps there is no event to wait for.
            await asyncio.wait([asyncio.ensure_future(bay.wait())], timeout=delay_s)
    finally:
        if bay.returncode is None:
            bay.send_signal(signal.SIGKILL)
        await bay.wait()
