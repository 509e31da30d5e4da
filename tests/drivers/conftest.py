"""Drivers to test, each with directories and a name of its own, and nothing left of it afterwards."""

import tempfile
from collections.abc import AsyncGenerator
from pathlib import Path

import forked_ship
import pytest
from criu_program import criu_program
from image_roots import debian_image, empty_image, image_store, musl_image, static_image
from oci_bench import (
    any_image,
    lent_zygote,
    oci,
    oci_by_runc,
    oci_criu,
    oci_debian,
    oci_gvisor,
    oci_gvisor_memory,
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
    "criu_program",
    "lent_zygote",
    "oci",
    "oci_by_runc",
    "oci_criu",
    "oci_debian",
    "oci_gvisor",
    "oci_gvisor_memory",
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
    async for bench in opened(
        DriverBench(FakeDriver(run_dir=run_dir, memory=True), workspaces, (run_dir,), run_dir.name)
    ):
        yield bench


_AS_WITH_RUNC = (
    *(
        "pause_and_resume_twice",
        "pausing_what_has_ended",
        "enough_to_pause",
        "pausing_one_session",
        "takes_other_resources",
    ),
    *(
        "what_is_gone",
        "never_was_is_gone",
        "is_idempotent",
        "is_measured",
        "are_sampled",
        "takes_others",
        "is_listed_with",
    ),
    *("less_memory_than", "side_by_side", "survives_json", "cannot_mount"),
)
"""Parts of the names of tests of what the driver does by control groups and directories alone."""


_REAL = ("oci", "oci_by_runc", "oci_debian", "oci_musl", "oci_gvisor")


@pytest.fixture(params=["fake", *(pytest.param(name, marks=pytest.mark.host) for name in _REAL)])
def bench(request: pytest.FixtureRequest) -> DriverBench:
    """Each driver in turn."""
    if request.param == "oci_gvisor" and any(part in request.node.name for part in _AS_WITH_RUNC):
        pytest.skip("the same code as with runc")
    chosen: DriverBench = request.getfixturevalue(request.param)
    return chosen
