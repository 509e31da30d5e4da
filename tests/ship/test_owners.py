"""Owners of files: root of the sandbox gives them away, and no link leads it out of a tree."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from ship_harness import Ship, running

from ship.files.owners import Owners, change_owners
from ship.files.sandbox_paths import Everywhere

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def boxed() -> Iterator[Ship]:
    """A Ship as in a container, but for the root of its files: root and first process, its user 1000."""
    with running(first=True) as found:
        yield found


def give(ship: Ship, path: str | Path, *, acting: str | None = "root", **body: Any) -> httpx.Response:
    query = {} if acting is None else {"user": acting}
    return ship.http.post("/fs/chown", params=query, json={"path": str(path), **body})


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def ids(path: Path) -> tuple[int, int]:
    """The uid and gid of a file, a link as such."""
    found = path.lstat()
    return found.st_uid, found.st_gid


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree with a link to a file outside of it, and one to a directory."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/kept").touch()
    top = tmp_path / "top"
    (top / "d/e").mkdir(parents=True)
    (top / "d/e/f").touch()
    (top / "file").symlink_to(tmp_path / "outside/kept")
    (top / "folder").symlink_to(tmp_path / "outside")
    return top


def test_root_gives_a_file_to_a_user_and_a_group_by_name_or_number(boxed: Ship) -> None:
    file = boxed.workspace / "given"
    file.touch()
    told = give(boxed, "given", user=1000, group="daemon").json()
    assert (told["uid"], told["gid"], told["changed"], told["name"]) == (1000, 1, 1, "given")
    assert give(boxed, "given", user="daemon").json()["uid"] == 1
    assert ids(file) == (1, 1)
    assert give(boxed, "given", group="1000").status_code == 200
    assert give(boxed, "given", user="ship").status_code == 200  # the own one, whatever /etc/passwd says
    assert ids(file) == (1000, 1000)
    (boxed.workspace / "link").symlink_to("given")
    assert give(boxed, "link", user="root", group="root").json()["uid"] == 0
    assert (ids(file), ids(boxed.workspace / "link")[0]) == ((0, 0), os.geteuid())


def test_a_directory_is_given_with_all_in_it_and_nothing_behind_its_links(boxed: Ship) -> None:
    top = boxed.workspace / "tree"
    (top / "d/e").mkdir(parents=True)
    (top / "d/e/f").touch()
    outside = boxed.workspace.parent / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    (top / "file").symlink_to(outside / "kept")
    (top / "folder").symlink_to(outside)
    assert give(boxed, "tree", user=7).json()["changed"] == 1
    assert (ids(top), ids(top / "d")) == ((7, 0), (0, 0))
    assert give(boxed, "tree", user=1000, group=8, recursive=True).json()["changed"] == 6
    assert {ids(path) for path in (top, *top.rglob("*"))} == {(1000, 8)}
    assert ids(outside) == ids(outside / "kept") == (0, 0)


def test_a_link_that_takes_the_place_of_a_directory_during_the_walk_is_not_entered(tree: Path) -> None:
    steps = change_owners(Everywhere(str(tree)), str(tree), Owners(1000, 1000), recursive=True)
    next(steps)  # the names have been read, and none been looked at
    (tree / "d").rename(tree.parent / "away")
    (tree / "d").symlink_to(tree.parent / "outside")
    for _ in steps:
        pass
    assert ids(tree) == (1000, 1000)
    assert ids(tree.parent / "outside") == ids(tree.parent / "outside/kept") == (0, 0)
    assert ids(tree.parent / "away/e/f") == (0, 0)


def test_the_sandboxs_own_user_gives_nothing_away(boxed: Ship) -> None:
    boxed.put("mine", b"")
    for acting in (None, "daemon"):
        assert code(give(boxed, "mine", acting=acting, user=0)) == (403, "forbidden")
    assert ids(boxed.workspace / "mine") == (1000, 1000)
    with running(first=True, SHIP_ALLOW_ROOT="0") as rootless:
        rootless.put("mine", b"")
        assert code(give(rootless, "mine", user=0)) == (403, "forbidden")
        assert ids(rootless.workspace / "mine") == (1000, 1000)


def test_owners_that_are_none_are_refused(boxed: Ship) -> None:
    boxed.put("still", b"")
    refused: list[dict[str, Any]] = [
        {}, {"user": None}, {"user": "no-such-user"}, {"group": "no-such-group"}, {"user": -1}, {"user": 65_536},
        {"group": "65536"}, {"group": True}, {"user": 1.0}, {"user": ["root"]}, {"user": 0, "recursive": 1}, {"user": ""},
    ]  # fmt: skip
    for body in refused:
        assert code(give(boxed, "still", **body)) == (400, "validation_error"), body
    for path in ("/proc/self/status", "/proc", "/sys"):
        assert code(give(boxed, path, user=0, recursive=True)) == (400, "validation_error")
    assert code(give(boxed, "none", user=0)) == (404, "file_not_found")
    assert ids(boxed.workspace / "still") == (1000, 1000)


def test_a_tree_that_is_too_deep_is_refused(boxed: Ship) -> None:
    made = boxed.run("mkdir -p deep/$(printf 'x/%.0s' $(seq 250))")
    assert made.code == 0, made.err
    answer = give(boxed, "deep", user=0, recursive=True)
    assert code(answer) == (400, "validation_error")
    assert "deep" in answer.json()["error"]["message"]


def test_without_a_container_files_keep_their_owner(ship: Ship) -> None:
    ship.put("mine", b"")
    own = ids(ship.workspace / "mine")
    assert give(ship, "mine", user=own[0], group=own[1]).json()["changed"] == 1
    others: list[dict[str, Any]] = [{"user": own[0] + 1}, {"group": own[1] + 1}]
    for body in others:
        answer = give(ship, "mine", **body)
        assert code(answer) == (403, "forbidden")
        assert "has one user" in answer.json()["error"]["message"]
    assert ids(ship.workspace / "mine") == own
