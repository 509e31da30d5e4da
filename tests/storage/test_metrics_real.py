"""The use of a sandbox over time: real runc, real passes, and a Bay that is started again in between."""

import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from examples import host_view
from serving import KEY, serving

import bay
from bay.drivers.oci import closure, host_image
from bay.drivers.oci.cgroups import MOUNT
from bay.models import MetricsPoint

pytestmark = [pytest.mark.host, pytest.mark.long]

WAIT_S = 180
WORK = """
dd if=/dev/zero of=/workspace/block bs=1M count=4 oflag=direct conv=fsync 2>/dev/null
while :; do :; done
"""


@pytest.fixture
def folder(cache: Path) -> Generator[Path]:
    """The directory of a Bay, of which nothing is left afterwards."""
    closure.build(cache / "closures")  # before the clock of the server's start runs
    host_image.build(cache / "images")
    with tempfile.TemporaryDirectory(prefix="bay-z-", dir="/tmp") as name:
        path = Path(name)
        path.chmod(0o711)
        try:
            yield path
        finally:
            left = host_view.remove_containers(path) + host_view.unmount_below(path)
        assert left == []


@contextmanager
def served(folder: Path, cache: Path) -> Generator[bay.Client]:
    settings = {
        "BAY_DRIVER": "oci", "BAY_CARGO_BACKEND": "directory", "BAY_NETWORK": "off", "BAY_CACHE_DIR": str(cache),
    }  # fmt: skip
    with serving(folder, **settings) as server, bay.Client(server.url, KEY) as client:
        yield client
        assert server.end() == 0


def seen(box: bay.Box, condition: Callable[[list[MetricsPoint]], bool]) -> list[MetricsPoint]:
    """The points of a sandbox once they are as wanted."""
    until = time.monotonic() + WAIT_S
    while not condition(points := list(box.metrics().points)):
        assert time.monotonic() < until, points
        time.sleep(0.5)
    return points


def rates(points: list[MetricsPoint]) -> list[float]:
    return [one.cpus_used for one in points if one.cpus_used is not None]


def test_work_is_seen_and_no_restart_of_bay_makes_a_rate_fall_below_zero(folder: Path, cache: Path) -> None:
    with served(folder, cache) as client:
        box = client.sandboxes.create(name="busy", profile="python-default", wait=60, cpus=0.5)
        box.spawn(["sh", "-c", WORK])
        before = seen(box, lambda points: len(points) >= 2 and max(rates(points), default=0) > 0.2)
        counted = [one.written_bytes for one in before if one.written_bytes is not None]
        assert sum(counted) >= 4 << 20 if counted else not (MOUNT / "cgroup.controllers").exists()
        assert all((one.memory_bytes or 0) > 0 for one in before)
        assert before[-1].execs == 1
    with served(folder, cache) as client:
        box = client.sandboxes.get("busy")
        after = seen(box, lambda points: len(points) >= len(before) + 2 and points[-1].cpus_used is not None)
        assert [one.at for one in after] == sorted({one.at for one in after})
        assert after[: len(before)] == before
        assert after[len(before)].cpus_used is None  # Bay has not seen what it used before
        assert all(0 <= rate < 0.75 for rate in rates(after))
        assert all((one.written_bytes or 0) >= 0 for one in after)
        box.stop()
        stopped = list(box.metrics().points)
        box.delete()
        assert stopped[: len(after)] == after
        with pytest.raises(bay.NotFound):
            box.metrics()
