"""Drivers to test, each with directories and a name of its own, and nothing left of it afterwards."""

import tempfile
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from oci_bench import lent_zygote, oci, oci_by_runc, oci_root, opened, workspaces

from bay.drivers.fake import FakeDriver
from bay.testing.driver_bench import DriverBench

__all__ = [
    "lent_zygote",
    "oci",
    "oci_by_runc",
    "oci_root",
    "workspaces",
]  # fixtures are found by their names here


@pytest.fixture
async def fake(workspaces: Path) -> AsyncGenerator[DriverBench]:
    """A FakeDriver."""
    run_dir = Path(tempfile.mkdtemp(prefix="bay-f-"))
    async for bench in opened(DriverBench(FakeDriver(run_dir=run_dir), workspaces, (run_dir,), run_dir.name)):
        yield bench


@pytest.fixture(params=["fake", "oci", "oci_by_runc"])
def bench(request: pytest.FixtureRequest) -> DriverBench:
    """Each driver in turn."""
    chosen: DriverBench = request.getfixturevalue(request.param)
    return chosen
