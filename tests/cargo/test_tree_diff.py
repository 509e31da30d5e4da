"""Comparisons of trees that a sandbox filled, by the program that makes them."""

import os
import socket
import stat
from pathlib import Path

import pytest

from bay.cargo.tree_diff import LONGEST_PATH, TreePair, tree_changes
from bay.cargo.tree_file import MOST_BYTES, read_file
from bay.errors import BadRequest, FileMissing, PayloadTooLarge
from bay.models import FileChange

pytestmark = pytest.mark.anyio

THEN = 1_700_000_000


@pytest.fixture
def trees(tmp_path: Path) -> tuple[Path, Path]:
    """Two empty trees."""
    made = tmp_path / "before", tmp_path / "after"
    for one in made:
        one.mkdir()
    return made


def put(tree: Path, name: str, content: str = "x", time: int = THEN) -> Path:
    path = tree / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    os.utime(path, (time, time))
    return path


async def compared(trees: tuple[Path, Path], skip: int = 0, limit: int = 1000) -> list[FileChange]:
    return await tree_changes([TreePair("/workspace", *trees)], skip=skip, limit=limit)


async def words(trees: tuple[Path, Path]) -> list[str]:
    return [f"{one.change} {one.path.removeprefix('/workspace/')}" for one in await compared(trees)]


async def test_what_was_added_removed_and_changed_is_told_with_its_sizes(trees: tuple[Path, Path]) -> None:
    before, after = trees
    for tree in trees:
        put(tree, "same")
    put(before, "gone", "12345")
    put(after, "new/file", "123")
    put(before, "longer", "1")
    put(after, "longer", "12", THEN + 1)
    found = {one.path: one for one in await compared(trees)}
    assert [(path, one.change) for path, one in found.items()] == [
        ("/workspace/gone", "removed"),
        ("/workspace/longer", "changed"),
        ("/workspace/new", "added"),
        ("/workspace/new/file", "added"),
    ]
    longer = found["/workspace/longer"]
    assert longer.before
    assert longer.after
    assert (longer.before.size, longer.after.size) == (1, 2)
    assert (longer.before.mtime, longer.after.mtime) == (THEN, THEN + 1)
    assert found["/workspace/gone"].after is None
    assert found["/workspace/new"].before is None


async def test_a_time_a_mode_and_a_target_are_differences_and_the_time_of_a_directory_is_none(
    trees: tuple[Path, Path],
) -> None:
    before, after = trees
    for tree in trees:
        put(tree, "directory/same")
    put(before, "touched")
    put(after, "touched", time=THEN + 1)
    put(before, "mode")
    put(after, "mode").chmod(0o755)
    (before / "link").symlink_to("/etc/passwd")
    (after / "link").symlink_to("/etc/shadow")
    os.utime(before / "directory", (1, 1))
    assert await words(trees) == ["changed link", "changed mode", "changed touched"]


async def test_a_file_in_the_place_of_a_directory_is_of_another_type(trees: tuple[Path, Path]) -> None:
    before, after = trees
    put(before, "a/b/c")
    put(after, "a")
    assert await words(trees) == ["type_changed a", "removed a/b", "removed a/b/c"]


async def test_no_link_is_followed_out_of_a_tree(trees: tuple[Path, Path], tmp_path: Path) -> None:
    before, after = trees
    put(tmp_path, "host/secret")
    (before / "way").mkdir()
    (after / "way").symlink_to(tmp_path / "host")
    (after / "loop").symlink_to(".")
    assert await words(trees) == ["added loop", "type_changed way"]


async def test_special_files_are_compared_and_never_opened(trees: tuple[Path, Path]) -> None:
    _, after = trees
    os.mkfifo(after / "fifo")
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(after / "socket"))
    found = await compared(trees)
    assert [one.after.type for one in found if one.after] == ["fifo", "socket"]


async def test_names_of_any_bytes_are_told(trees: tuple[Path, Path]) -> None:
    _, after = trees
    for name in (b"two\nlines", b"\xff", "日本".encode(), b'"end"'):
        Path(os.fsdecode(bytes(after) + b"/" + name)).write_text("x")
    assert await words(trees) == ['added "end"', "added two\nlines", "added 日本", "added \ufffd"]


async def test_pages_follow_each_other_without_a_gap(trees: tuple[Path, Path]) -> None:
    _, after = trees
    for number in range(7):
        put(after, f"{number % 3}/{number}")
    whole = await compared(trees)
    parts = [await compared(trees, skip, 3) for skip in (0, 3, 6, 9)]
    assert [len(part) for part in parts] == [3, 3, 3, 1]
    assert [one for part in parts for one in part] == whole


async def test_what_is_deeper_than_any_path_is_left_out(trees: tuple[Path, Path]) -> None:
    _, after = trees
    name = "d" * 200
    here = os.open(after, os.O_RDONLY)
    for _ in range(40):
        os.mkdir(name, dir_fd=here)
        below = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    found = await compared(trees)
    assert LONGEST_PATH // 201 <= len(found) < 40


async def test_an_answer_of_long_names_is_refused_and_a_smaller_page_is_not(trees: tuple[Path, Path]) -> None:
    _, after = trees
    deep = after
    for _ in range(18):
        deep /= "n" * 200
        deep.mkdir()
    for number in range(2500):
        (deep / f"{number:0200}").touch()
    with pytest.raises(BadRequest):
        await compared(trees, limit=3000)
    assert len(await compared(trees, limit=200)) == 200


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes devices")
async def test_a_layer_hides_what_was_removed_from_the_image(trees: tuple[Path, Path]) -> None:
    before, after = trees
    os.mknod(after / "removed", stat.S_IFCHR | 0o600, os.makedev(0, 0))
    os.mknod(before / "again", stat.S_IFCHR | 0o600, os.makedev(0, 0))
    put(after, "again")
    put(after, "workspace/in-the-other-tree")
    found = await tree_changes([TreePair("/", before, after, is_layer=True)], skip=0, limit=10)
    assert [(one.path, one.change) for one in found] == [("/again", "added"), ("/removed", "removed")]
    assert found[1].before is found[1].after is None


async def test_a_tree_that_is_not_there_has_nothing(trees: tuple[Path, Path], tmp_path: Path) -> None:
    put(trees[1], "a")
    assert await words((tmp_path / "absent", trees[1])) == ["added a"]
    assert await words((tmp_path / "absent", tmp_path / "absent")) == []


def test_one_file_is_read_by_its_path_in_the_sandbox(tmp_path: Path) -> None:
    put(tmp_path, "workspace/a/b", "of the workspace")
    put(tmp_path, "machine/upper/etc/motd", "of the machine")
    assert read_file(tmp_path, "a/b") == b"of the workspace"
    assert read_file(tmp_path, "/workspace/./a/../a/b") == b"of the workspace"
    assert read_file(tmp_path, "/etc/motd") == b"of the machine"
    assert read_file(tmp_path, "../etc/motd") == b"of the machine"


def test_a_read_follows_no_link_and_leaves_no_tree(tmp_path: Path) -> None:
    top = tmp_path / "checkpoint"
    put(top, "workspace/a")
    secret = put(tmp_path, "secret")
    (top / "workspace/link").symlink_to(secret)
    (top / "workspace/way").symlink_to(tmp_path)
    for path in ("link", "way/secret", "../../secret", "../../../secret", "/", ".", "absent", "a/b"):
        with pytest.raises((FileMissing, BadRequest)):
            read_file(top, path)


def test_a_read_of_a_fifo_ends_and_a_long_file_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "workspace/long").write_bytes(b"")
    os.truncate(tmp_path / "workspace/long", MOST_BYTES + 1)
    os.mkfifo(tmp_path / "workspace/fifo")
    with pytest.raises(PayloadTooLarge):
        read_file(tmp_path, "long")
    with pytest.raises(BadRequest):
        read_file(tmp_path, "fifo")
