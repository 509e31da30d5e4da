"""A Ship whose sandbox may be on a snapshot of its volume has the files on the disk when it says so."""

import os
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Generator
from pathlib import Path

import pytest
from ship_harness import PATIENCE_S, FirstShip, Ship, running

pytestmark = pytest.mark.host


@pytest.fixture
def disk() -> Generator[tuple[Path, Path]]:
    """The image of a file system of its own, and where it is mounted: uid 1000 gets there."""
    home = Path(tempfile.mkdtemp(prefix="ship-test-", dir="/tmp"))
    home.chmod(0o755)
    try:
        yield from _mounted(home)
    finally:
        shutil.rmtree(home)


def _mounted(home: Path) -> Generator[tuple[Path, Path]]:
    image, mounted = home / "image", home / "mounted"
    mounted.mkdir()
    subprocess.run(["truncate", "--size", "16M", image], check=True, timeout=30)
    subprocess.run(["mkfs.ext4", "-q", "-E", "root_owner=1000:1000", image], check=True, timeout=30)
    if subprocess.run(["mount", "-o", "loop", image, mounted], timeout=30, check=False).returncode != 0:
        pytest.skip("needs root and loop devices")
    try:
        yield image, mounted
    finally:
        subprocess.run(["umount", "--lazy", mounted], check=True, timeout=30)


def wrote(ship: Ship) -> bytes:
    """The content of a file that a program has written, and that is in the kernel's memory at first."""
    text = uuid.uuid4().hex
    assert ship.run(f"echo {text} > {text}.txt").code == 0  # ext4 writes a file that is replaced by itself
    return f"{text}\n".encode()


def test_a_pause_and_an_end_write_all_to_the_disk(disk: tuple[Path, Path]) -> None:
    image, mounted = disk
    with running(pod=True, SHIP_WORKSPACE=str(mounted), SHIP_SYNC="1") as ship:
        text = wrote(ship)
        assert ship.http.post("/pause").json() == {"paused": True}
        assert text in image.read_bytes()
        assert ship.http.post("/resume").json() == {"paused": False}
        text = wrote(ship)
        assert isinstance(ship, FirstShip)
        os.kill(ship.pid, signal.SIGTERM)
        ship.process.wait(PATIENCE_S)
        assert text in image.read_bytes()


def test_a_workspace_that_cannot_be_opened_holds_up_no_pause(disk: tuple[Path, Path]) -> None:
    _, mounted = disk
    with running(pod=True, SHIP_WORKSPACE=str(mounted), SHIP_SYNC="1") as ship:
        mounted.chmod(0)
        assert ship.http.post("/pause").json() == {"paused": True}
        assert ship.http.post("/resume").json() == {"paused": False}
