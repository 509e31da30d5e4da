"""Drivers to test, each with directories and a name of its own, and nothing left of it afterwards."""

import tempfile
from collections.abc import AsyncGenerator
from pathlib import Path

import forked_ship
import pytest
from image_roots import debian_image, empty_image, image_store, musl_image, static_image
from oci_bench import (
    any_image,
    lent_zygote,
    oci,
    oci_by_runc,
    oci_debian,
    oci_musl,
    oci_root,
    opened,
    workspaces,
)

from bay.drivers import fake as fake_driver
from bay.drivers.fake import FakeDriver
from bay.testing.driver_bench import DriverBench

# Fixtures are found by their names here.
__all__ = [
    "any_image",
    "lent_zygote",
    "oci",
    "oci_by_runc",
    "oci_debian",
    "oci_musl",
    "oci_root",
    "workspaces",
]
__all__ += ["debian_image", "empty_image", "image_store", "musl_image", "static_image"]


@pytest.fixture
async def fake(workspaces: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[DriverBench]:
    """A FakeDriver, which starts Ships as it does for its users."""
    monkeypatch.setattr(fake_driver, "start_ship", forked_ship.as_bay_does)
    run_dir = Path(tempfile.mkdtemp(prefix="bay-f-"))
    async for bench in opened(DriverBench(FakeDriver(run_dir=run_dir), workspaces, (run_dir,), run_dir.name)):
        yield bench


@pytest.fixture(params=["fake", "oci", "oci_by_runc", "oci_debian", "oci_musl"])
def bench(request: pytest.FixtureRequest) -> DriverBench:
    """Each driver in turn."""
    chosen: DriverBench = request.getfixturevalue(request.param)
    return chosen
