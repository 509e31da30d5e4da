"""Settings with which replicas could not work together."""

from pathlib import Path

import pytest
from server_harness import settings_in

from bay.drivers.fake import FakeDriver
from bay.errors import InvalidArgument
from bay.server.backends import check_replicas

pytestmark = pytest.mark.pure


def test_replicas_with_a_pool_of_bays_own_are_refused(root: Path) -> None:
    shared = {"replicas": True, "database_url": "postgresql://bay@db/bay"}
    settings = settings_in(root, cargo_backend="btrfs", **shared)
    (settings.data_dir / "pool.img").touch()
    with pytest.raises(InvalidArgument, match="which one Bay mounts"):
        check_replicas(settings, FakeDriver(run_dir=root))
