"""Sessions at their limits are saved with their memory: many files, many processes, too little memory."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from oci_bench import OciBench

from bay.drivers.base import Handle, Hibernated, MemoryLost, SessionSpec
from bay.drivers.health import check_health
from bay.drivers.oci import cgroups
from bay.linux.threads import in_new_thread
from bay.models import Resources
from bay.places import directory_of
from bay.testing.driver_bench import call, cgroups_of, endpoint_of, run

pytestmark = [pytest.mark.host, pytest.mark.anyio]

_FILES = """
import os, resource, signal
resource.setrlimit(resource.RLIMIT_NOFILE, (6000, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
os.mkdir('many')
files = [open(f'many/{number}', 'w+') for number in range(5000)]
for number, file in enumerate(files):
    file.write(f'{number} ')
    file.flush()
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
open('ready', 'w').write(str(os.getpid()))
signal.sigwait([signal.SIGUSR1])
for file in files:
    file.write('after')
    file.flush()
open('over', 'w').write('yes')
"""
_FORKS = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass\n"
_LARGE = "import time\nheld = bytearray(200 << 20)\nopen('ready', 'w').write('yes')\ntime.sleep(600)\n"
_FILLING = """
import itertools, os, time
held = []
for number in itertools.count():
    while not os.path.exists(f'go-{number}'):
        time.sleep(0.001)
    held.append(b'x' * (1 << 20))
    open(f'held-{number}', 'w').close()
"""


async def begun(bench: OciBench, program: str, **changes: Any) -> tuple[SessionSpec, Handle]:
    spec = bench.spec(savable=True, **changes)
    handle = await bench.start(spec)
    order = {"id": "exec-1", "argv": ["python3", "-c", program]}
    await call(endpoint_of(handle), "POST", "/execs", order)
    return spec, handle


async def woken(bench: OciBench, spec: SessionSpec, handle: Handle) -> Handle:
    async with asyncio.timeout(60):
        return [one async for one in bench.driver.start(spec, handle)][-1]


async def is_there(handle: Handle, file: str) -> None:
    waits = f"until [ -s {file} ]; do sleep 0.02; done"
    assert (await run(handle, waits, timeout_s=60)).exit_code == 0


async def is_written(bench: OciBench, spec: SessionSpec, file: str) -> bool:
    return await in_new_thread(lambda: (directory_of(spec.workspace) / file).exists())


async def test_five_thousand_open_files_go_on_where_they_stood(oci_criu: OciBench) -> None:
    spec, handle = await begun(oci_criu, _FILES)
    await is_there(handle, "ready")
    await oci_criu.driver.hibernate(handle, spec.token)
    handle = await woken(oci_criu, spec, handle)
    assert (await run(handle, "kill -USR1 $(cat ready)")).exit_code == 0
    await is_there(handle, "over")
    texts = await run(handle, "for n in 0 2500 4999; do cat many/$n; echo; done; cat many/* | wc -c")
    assert texts.stdout == "0 after\n2500 after\n4999 after\n48890\n"


async def test_a_session_that_forks_without_end_is_saved_and_ends_with_all_its_processes(
    oci_criu: OciBench,
) -> None:
    spec, handle = await begun(oci_criu, _FORKS, resources=Resources(pids=60))
    cgroup = oci_criu.driver._cgroup_of(spec.session_id)

    async def are_as_many_as_may_be() -> None:
        while len(await in_new_thread(lambda: cgroups.processes(cgroup))) < 50:
            pass

    await asyncio.wait_for(are_as_many_as_may_be(), 30)
    size = await oci_criu.driver.hibernate(handle, spec.token)
    assert await oci_criu.driver.observe(handle) == Hibernated(size)
    handle = await woken(oci_criu, spec, handle)
    await check_health(endpoint_of(handle), spec.token)
    assert await oci_criu.driver.resources(handle) == spec.resources
    await asyncio.wait_for(are_as_many_as_may_be(), 30)
    await oci_criu.driver.destroy(handle)
    assert cgroups_of(oci_criu) == []


async def test_memory_up_to_the_limit_goes_on(oci_criu: OciBench) -> None:
    spec, handle = await begun(oci_criu, _FILLING, resources=Resources(memory=128 << 20))
    async with asyncio.timeout(60):
        for number in range(128):
            usage = await oci_criu.driver.usage(handle)
            assert usage is not None
            assert usage.memory_bytes is not None
            if usage.memory_bytes > 125 << 20:
                break
            await oci_criu.touch(spec, f"go-{number}")
            while not await is_written(oci_criu, spec, f"held-{number}"):
                pass
    await oci_criu.driver.hibernate(handle, spec.token)
    handle = await woken(oci_criu, spec, handle)
    await check_health(endpoint_of(handle), spec.token)
    assert await oci_criu.driver.resources(handle) == spec.resources


@pytest.mark.parametrize(
    ("mebibytes", "words"),
    [(180, "leaves no way to give it"), (150, "too little memory"), (100, "too little memory")],
)
async def test_memory_that_does_not_fit_any_more_is_lost_and_the_files_are_there(
    oci_criu: OciBench, mebibytes: int, words: str
) -> None:
    spec, handle = await begun(oci_criu, _LARGE)
    await is_there(handle, "ready")
    await oci_criu.driver.hibernate(handle, spec.token)
    less = replace(spec, resources=Resources(memory=mebibytes << 20))
    with pytest.raises(MemoryLost, match=words):
        await woken(oci_criu, less, handle)
    assert await oci_criu.read(spec, "ready") == "yes"
    await oci_criu.driver.destroy(handle)
    assert cgroups_of(oci_criu) == []
