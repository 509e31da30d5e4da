"""A `bay run` that is killed leaves nothing for good: the next one removes it."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from server_harness import ships

from bay.errors import DriverUnavailable
from bay.server import embedded
from bay.server.main import lock_data_dir
from bay.server.offline import leftover_runs


@pytest.fixture
def above(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(root))
    return leftover_runs.home()


def killed_run(root: Path) -> None:
    """Run as far as a running sandbox, and kill it there."""
    program = Path(__file__).parents[2] / "support" / "dying_run.py"
    process = subprocess.Popen(
        [sys.executable, str(program), str(root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"runs\n"
    finally:
        process.kill()
        process.communicate(timeout=20)


def test_what_a_killed_run_left_is_removed_by_the_next(root: Path, above: Path) -> None:
    killed_run(root)
    (left,) = above.iterdir()
    assert ships(root)
    os.utime(left, (0, 0))
    with embedded.start(driver="fake", run_dir=root / "run"):
        assert not left.exists()
        assert ships(root) == []
    assert list(above.iterdir()) == []


def test_what_another_run_holds_or_has_just_made_is_left_alone(above: Path) -> None:
    held, young = above / "held", above / "young"
    for path in (held, young):
        path.mkdir()
    lock = lock_data_dir(held)
    os.utime(held, (0, 0))
    try:
        leftover_runs.clear(above)
    finally:
        os.close(lock)
    assert {path.name for path in above.iterdir()} == {"held", "young"}


def test_a_directory_that_others_can_write_to_is_not_used(above: Path) -> None:
    above.chmod(0o777)
    with pytest.raises(DriverUnavailable, match="only you can write"):
        leftover_runs.home()
