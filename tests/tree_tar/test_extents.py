"""Extents of files, on file systems that know holes and on those that do not."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tree_tar.beneath import closing
from tree_tar.sparse import data_extents, data_segments

MIB = 1 << 20


@pytest.fixture
def sparse(tmp_path: Path) -> Path:
    """A file of 3 MiB with data in the middle alone."""
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.seek(MIB)
        file.write(b"x" * MIB)
        file.truncate(3 * MIB)
    return path


def answering(number: int) -> Callable[[int, int, int], int]:
    def lseek(_descriptor: int, _offset: int, _whence: int) -> int:
        raise OSError(number, os.strerror(number))

    return lseek


def test_extents_are_where_the_data_is(sparse: Path) -> None:
    with closing(os.open(sparse, os.O_RDONLY)) as file:
        assert list(data_extents(file, 3 * MIB)) == [(MIB, 2 * MIB)]
        assert list(data_segments(file, 3 * MIB, 5)) == [MIB, MIB]
        assert list(data_segments(file, 3 * MIB, 0)) == []


def test_a_file_that_knows_no_holes_is_all_data(sparse: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "lseek", answering(errno.EINVAL))
    with closing(os.open(sparse, os.O_RDONLY)) as file:
        assert list(data_extents(file, 3 * MIB)) == [(0, 3 * MIB)]
        assert list(data_segments(file, 3 * MIB, 5)) == [0, 3 * MIB]
        assert list(data_segments(file, 0, 5)) == []


def test_a_disk_that_fails_is_no_hole(sparse: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "lseek", answering(errno.EIO))
    with closing(os.open(sparse, os.O_RDONLY)) as file, pytest.raises(OSError, match="Input/output"):
        data_segments(file, 3 * MIB, 5)
