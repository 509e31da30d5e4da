"""What a sandbox finds of the host in files: nothing to write, nothing to wait for, nothing that tells of
disks or of boot.
"""

import shlex
from collections.abc import AsyncGenerator

import pytest

from bay.drivers.base import Handle
from bay.testing.driver_bench import DriverBench, run

pytestmark = [pytest.mark.host, pytest.mark.anyio]

WRITABLE = """
import os, stat
for top in ("/proc", "/sys"):
    for directory, below, files in os.walk(top):
        if directory == "/proc":
            below[:] = [name for name in below if not name.isdecimal()]
        for file in [os.path.join(directory, name) for name in files]:
            try:
                opened = os.open(file, os.O_WRONLY | os.O_NONBLOCK)
            except OSError:
                continue
            if not stat.S_ISCHR(os.fstat(opened).st_mode):  # what is masked is /dev/null
                print(file)
"""
TELLING = [
    "cmdline",
    "config.gz",
    "diskstats",
    "kallsyms",
    "kcore",
    "keys",
    "locks",
    "modules",
    "partitions",
    "pressure/cpu",
    "fs",
    "irq",
    "bus",
]


@pytest.fixture
async def inside(any_image: DriverBench) -> AsyncGenerator[Handle]:
    """A running session, of the host's own image and of another."""
    async with any_image.session() as handle:
        yield handle


@pytest.mark.parametrize("user", [None, "root"])
async def test_no_file_of_the_kernel_can_be_opened_to_write(inside: Handle, user: str | None) -> None:
    """A trigger in /proc/pressure, for one, makes a process that cannot be killed."""
    found = await run(inside, f"python3 -c {shlex.quote(WRITABLE)}", user=user)
    assert set(found.stdout.split()) - {"/proc/mounts"} == set(), found  # a link to the program's own


async def test_files_that_tell_of_the_host_are_empty(inside: Handle) -> None:
    looks = "; ".join(f"cat /proc/{name} 2>/dev/null || ls -A /proc/{name} 2>/dev/null" for name in TELLING)
    assert (await run(inside, looks, user="root")).stdout == ""
