"""Programs in sandboxes of the `oci` driver cannot do what the suite of the walls says, in any image."""

import pytest

from bay.testing.driver_bench import DriverBench
from bay.testing.walls import *  # noqa: F403 - the suite is the module's functions

pytestmark = [pytest.mark.host, pytest.mark.anyio, pytest.mark.long]


@pytest.fixture
def bench(any_image: DriverBench) -> DriverBench:
    """Of the host's own image, and of another."""
    return any_image
