"""A crash inside never starts the program that the host's core_pattern names: it would run as the host's
root, outside.
"""

import asyncio
import os
import shutil
import subprocess
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest

from bay.testing.driver_bench import DriverBench, run

pytestmark = [
    pytest.mark.host,
    pytest.mark.anyio,
    pytest.mark.abuse,
]  # it changes a setting of the whole host for some seconds

_SETTING = Path("/proc/sys/kernel/core_pattern")
_CRASH = ["sh", "-c", "ulimit -c unlimited; kill -SEGV $$"]


@pytest.fixture
def started() -> Generator[Path]:
    """A file to which the host's handler writes one line for each crash that it is started for."""
    directory = Path(tempfile.mkdtemp(prefix="bay-core-"))
    handler, seen, before = directory / "handler", directory / "seen", _SETTING.read_text()
    handler.write_text(f"#!/bin/sh\necho $1 >> {seen}\ncat > /dev/null\n")
    handler.chmod(0o755)
    _SETTING.write_text(f"|{handler} %e.%u")
    try:
        yield seen
    finally:
        _SETTING.write_text(before)
        shutil.rmtree(directory)


@pytest.mark.skipif(os.getuid() != 0, reason="a handler of the host's is set by root")
@pytest.mark.parametrize("user", [None, "root"])
async def test_a_crash_inside_does_not_start_the_hosts_handler(
    oci: DriverBench, started: Path, user: str | None
) -> None:
    async with oci.session() as handle:
        crash = "cp /bin/sh bay-crash-in; for i in 1 2 3; do ./bay-crash-in -c 'ulimit -c 0; ulimit -S -c 0; kill -SEGV $$'; done"
        assert "Segmentation fault" in (await run(handle, crash, user=user)).stderr
    # The handler works, and would have been started for the others before.
    await asyncio.to_thread(subprocess.run, _CRASH, check=False)
    assert "bay-crash-in" not in started.read_text()
    assert "sh.0" in started.read_text().split()
