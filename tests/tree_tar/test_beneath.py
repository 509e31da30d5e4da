"""Opening directories where the kernel follows a link although it was told not to, as gVisor's does."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tree_tar import beneath


@pytest.fixture
def top(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A directory on such a kernel: the flag is left out."""
    (tmp_path / "top/real/inner").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "top/out").symlink_to(tmp_path / "outside")
    (tmp_path / "top/in").symlink_to("real")
    monkeypatch.setattr(beneath, "OPEN_DIRECTORY", beneath.OPEN_DIRECTORY & ~os.O_NOFOLLOW)
    beneath._refuses_links.cache_clear()
    with beneath.closing(os.open(tmp_path / "top", os.O_RDONLY)) as descriptor:
        yield descriptor
    beneath._refuses_links.cache_clear()


def test_a_link_is_no_directory_there_either(top: int) -> None:
    os.close(beneath.open_directory(top, "real"))
    os.close(beneath.open_beneath(top, ("real", "inner")))
    before = len(os.listdir("/proc/self/fd"))
    for name in ("out", "in"):
        with pytest.raises(NotADirectoryError):
            beneath.open_directory(top, name)
    with pytest.raises(NotADirectoryError):
        beneath.open_beneath(top, ("in", "inner"))
    assert len(os.listdir("/proc/self/fd")) == before


SWAPPER = """
import os, sys, time
os.chdir(sys.argv[1])
end = time.monotonic() + 30
print('up', flush=True)
while time.monotonic() < end:
    os.rename('real', 'aside'); os.symlink('../outside', 'real')
    os.unlink('real'); os.rename('aside', 'real')
"""


def test_no_link_that_takes_a_directorys_place_leads_out_there(top: int, tmp_path: Path) -> None:
    outside = os.stat(tmp_path / "outside")
    command = [sys.executable, "-c", SWAPPER, str(tmp_path / "top")]
    refused = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE) as swapper:
        try:
            assert swapper.stdout
            assert swapper.stdout.readline() == b"up\n"
            for _ in range(20_000):
                try:
                    with beneath.closing(beneath.open_directory(top, "real")) as found:
                        assert not os.path.samestat(os.fstat(found), outside)
                except (NotADirectoryError, FileNotFoundError):
                    refused += 1
        finally:
            swapper.kill()
    assert refused > 0


def test_on_this_kernel_nothing_is_looked_at_twice() -> None:
    beneath._refuses_links.cache_clear()
    assert beneath._refuses_links() is True
