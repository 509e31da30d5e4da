"""Renames by steps, where renameat2 cannot: nothing is replaced or lost, and a failure changes nothing."""

import errno
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ship.files import renames
from tree_tar.beneath import closing

pytestmark = pytest.mark.host


@pytest.fixture
def top(tmp_path: Path) -> Iterator[int]:
    """A directory with a file, a full directory, an empty one and a link."""
    (tmp_path / "file").write_text("file")
    (tmp_path / "other").write_text("other")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/kept").write_text("kept")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


def content(directory: int | Path) -> dict[str, object]:
    """A tree, as values."""
    found: dict[str, object] = {}
    for name in sorted(os.listdir(directory)):
        path = os.path.join(f"/proc/self/fd/{directory}" if isinstance(directory, int) else directory, name)
        if os.path.islink(path):
            found[name] = os.readlink(path)
        else:
            found[name] = content(Path(path)) if os.path.isdir(path) else Path(path).read_text()
    return found


def error_of(call: object, *arguments: object) -> str:
    assert callable(call)
    with pytest.raises(OSError, match=r".") as raised:
        call(*arguments)
    return errno.errorcode[raised.value.errno or 0]


@pytest.mark.parametrize("name", ["file", "full", "empty", "link"])
def test_anything_is_given_a_new_name(top: int, name: str) -> None:
    before = content(top)
    renames.rename_to_new_by_steps(top, name, top, "new")
    moved = before.pop(name)
    assert content(top) == {**before, "new": moved}


@pytest.mark.parametrize("name", ["file", "full", "empty", "link"])
@pytest.mark.parametrize("taken", ["other", "full", "empty", "link"])
def test_what_has_the_name_already_is_never_replaced(top: int, name: str, taken: str) -> None:
    before = content(top)
    assert error_of(renames.rename_to_new_by_steps, top, name, top, taken) == "EEXIST"
    assert content(top) == before


def test_a_directory_is_not_moved_into_itself_and_nothing_is_left_there(top: int, tmp_path: Path) -> None:
    before = content(top)
    with closing(os.open(tmp_path / "full", os.O_RDONLY)) as full:
        for call, name in ((renames.rename_to_new_by_steps, "new"), (renames.exchange_by_steps, "kept")):
            assert error_of(call, top, "full", full, name) == "EINVAL"
    assert content(top) == before


@pytest.mark.parametrize("name", ["file", "full", "empty", "link"])
@pytest.mark.parametrize("other", ["other", "full", "empty"])
def test_two_files_of_any_kind_change_places(top: int, tmp_path: Path, name: str, other: str) -> None:
    if name == other:
        return
    (tmp_path / "in").mkdir()
    os.rename(tmp_path / other, tmp_path / "in" / other)
    before = content(top)
    inner = before["in"]
    assert isinstance(inner, dict)
    with closing(os.open(tmp_path / "in", os.O_RDONLY)) as inside:
        renames.exchange_by_steps(top, name, inside, other)
    assert content(top) == {**before, name: inner[other], "in": {other: before[name]}}


@pytest.mark.parametrize("name", ["file", "full"])
def test_a_failed_exchange_leaves_both_as_they_were(top: int, tmp_path: Path, name: str) -> None:
    before = content(top)
    with closing(os.open("/dev/shm", os.O_RDONLY)) as elsewhere:
        made = f"bay-test-{os.urandom(8).hex()}"
        os.mkdir(made, dir_fd=elsewhere)
        try:
            assert error_of(renames.exchange_by_steps, top, name, elsewhere, made) == "EXDEV"
            assert os.listdir(f"/dev/shm/{made}") == []
        finally:
            os.rmdir(made, dir_fd=elsewhere)
    assert error_of(renames.exchange_by_steps, top, name, top, "none") == "ENOENT"
    assert error_of(renames.exchange_by_steps, top, "none", top, name) == "ENOENT"
    assert content(top) == before


def test_of_many_that_want_one_name_one_has_it_and_the_others_keep_theirs(tmp_path: Path) -> None:
    names = [f"n{number}" for number in range(40)]
    for number, name in enumerate(names):
        if number % 2:
            (tmp_path / name).write_text(name)
        else:
            (tmp_path / name / "full").mkdir(parents=True)
    with closing(os.open(tmp_path, os.O_RDONLY)) as top, ThreadPoolExecutor(8) as threads:

        def want(name: str) -> bool:
            try:
                renames.rename_to_new_by_steps(top, name, top, "one")
            except FileExistsError:
                return False
            return True

        won = [name for name, has in zip(names, threads.map(want, names), strict=True) if has]
    assert len(won) == 1
    assert sorted(os.listdir(tmp_path)) == sorted({*names, "one"} - {*won})
