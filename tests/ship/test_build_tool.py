"""The tool `build`: what steps of builds need beside their commands, in any image."""

import io
import json
import os
import stat
import tarfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from ship_harness import PATIENCE_S, Ended, Ship, running

from ship.tools import build

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def ship() -> Iterator[Ship]:
    """One Ship for all tests of this file: none of them harms it."""
    with running() as found:
        yield found


@pytest.fixture
def stage(tmp_path: Path) -> Path:
    made = tmp_path / "stage"
    made.mkdir()
    return made


@pytest.fixture(autouse=True)
def as_the_tool() -> Generator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def run(ship: Ship, **order: Any) -> Ended:
    body = {"id": f"tool-{os.urandom(4).hex()}", "tool": "build", "argv": [json.dumps(order)]}
    answer = ship.http.post("/execs", params={"wait": PATIENCE_S}, json=body)
    assert answer.status_code == 200, answer.text
    return Ended(answer.json())


def place(stage: Path, *sources: dict[str, Any], **wanted: Any) -> None:
    """Place what lies in the stage."""
    order: dict[str, Any] = {
        "owner": "",
        "owners": {},
        "mode": None,
        "links": [],
        "sources": sources,
        **wanted,
    }
    (stage / build.ORDER).write_text(json.dumps(order))
    build.place({"stage": str(stage)})
    assert not stage.exists()


def source(name: str, target: Path, only: str | None = None, *, below: bool = False) -> dict[str, Any]:
    return {"name": name, "target": str(target), "only": only, "below": below}


def test_an_exec_runs_it_without_the_variables_of_the_sandbox(ship: Ship) -> None:
    (ship.workspace / "f").write_text("x")
    body = {
        "id": "tool", "tool": "build", "argv": [json.dumps({"do": "remove", "path": str(ship.workspace / "f")})],
        "env": {"LD_PRELOAD": "/none.so"},
    }  # fmt: skip
    ended = Ended(ship.http.post("/execs", params={"wait": PATIENCE_S}, json=body).json())
    assert (ended.code, ended.err) == (0, "")
    assert not (ship.workspace / "f").exists()


@pytest.mark.parametrize(
    "body", [{"tool": "search", "argv": ["{}"]}, {"tool": "build"}, {"tool": 1, "argv": ["{}"]}]
)
def test_another_tool_is_refused(ship: Ship, body: dict[str, Any]) -> None:
    assert ship.http.post("/execs", json={"id": "other", **body}).status_code == 400


def test_what_is_not_there_is_told_by_its_name(ship: Ship) -> None:
    ended = run(ship, do="pack", top="/none", names=[], shown="/none")
    assert (ended.code, ended.err) == (build.NOT_THERE, "there is no file /none\n")
    ended = run(ship, do="pack", top=str(ship.workspace), names=["none.*"], shown="/x/none*")
    assert (ended.code, ended.err) == (build.NOT_THERE, "there is no file /x/none*\n")
    (ship.workspace / "broken").symlink_to("gone")
    ended = run(ship, do="pack", top=str(ship.workspace), names=["brok.*"], shown="/x/brok*")
    assert ended.err == f"there is no file {ship.workspace}/gone\n"


def test_a_directory_joins_one_that_is_there_and_a_file_replaces_one(stage: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    (target / "sub").mkdir(parents=True)
    (target / "sub" / "kept").write_text("kept")
    (tmp_path / "elsewhere").write_text("untouched")
    (target / "sub" / "new").symlink_to(tmp_path / "elsewhere")
    (stage / "0" / "sub").mkdir(parents=True)
    (stage / "0" / "sub" / "new").write_text("new")
    os.link(stage / "0" / "sub" / "new", stage / "0" / "again")
    os.utime(stage / "0" / "sub", ns=(1, 1_000_000_000))
    place(stage, source("0", target), links=[["0/link", "/any/where"]])
    assert (target / "sub" / "kept").read_text() == "kept"
    assert (target / "sub" / "new").read_text() == "new"
    assert (tmp_path / "elsewhere").read_text() == "untouched"
    assert os.path.samefile(target / "again", target / "sub" / "new")
    assert (target / "sub").stat().st_mtime_ns == 1_000_000_000
    assert os.readlink(target / "link") == "/any/where"


def test_a_file_goes_where_a_link_leads_that_its_target_names(stage: Path, tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    (stage / "0").mkdir()
    (stage / "0" / "f").write_text("new")
    place(stage, source("0", tmp_path / "link", "f"))
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_files_and_the_directories_made_for_them_have_their_owners(stage: Path, tmp_path: Path) -> None:
    (stage / "0").mkdir()
    for name in ("mine", "other"):
        (stage / "0" / name).write_text(name)
    place(
        stage, source("0", tmp_path / "a" / "b" / "c"), owner="7:8", owners={"9:10": ["0/other"]}, mode=0o640
    )
    top = tmp_path / "a"
    found = [
        (facts.st_uid, facts.st_gid, stat.S_IMODE(facts.st_mode))
        for facts in map(os.stat, (top, top / "b", top / "b/c", top / "b/c/mine", top / "b/c/other"))
    ]
    assert found == [(7, 8, 0o755), (7, 8, 0o755), (7, 8, 0o640), (7, 8, 0o640), (9, 10, 0o640)]


def test_what_stood_at_a_mount_comes_back(tmp_path: Path) -> None:
    target, kept, aside = (str(tmp_path / name) for name in ("target", "kept/cache", "kept/aside"))
    Path(target).symlink_to("/none")
    places = {"target": target, "kept": kept, "aside": aside, "owner": "", "mode": 0o700}
    build.mount(places)
    Path(target, "file").write_text("cached")
    build.unmount(places)
    assert os.readlink(target) == "/none"
    build.mount(places)
    assert Path(target, "file").read_text() == "cached"
    build.unmount(places)
    assert not Path(aside).exists()


def test_a_directory_that_cannot_be_renamed_is_moved_with_all_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other_file_system(*_places: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    here, there = tmp_path / "here", tmp_path / "there"
    (here / "deep").mkdir(parents=True)
    here.chmod(0o1750)
    os.mkfifo(here / "pipe", 0o620)
    (here / "deep" / "link").symlink_to("gone")
    (here / "set").write_text("x")
    (here / "set").chmod(0o4755)
    monkeypatch.setattr(build.os, "rename", other_file_system)
    build.aside({"target": str(here), "aside": str(there)})
    assert not here.exists()
    assert stat.S_IMODE(there.stat().st_mode) == 0o1750
    assert stat.filemode((there / "pipe").stat().st_mode) == "prw--w----"
    assert stat.S_IMODE((there / "set").stat().st_mode) == 0o4755
    assert os.readlink(there / "deep" / "link") == "gone"


def packed(ship: Ship, top: Path, *names: str) -> dict[str, tarfile.TarInfo]:
    ended = run(ship, do="pack", top=str(top), names=names, shown="")
    assert (ended.code, ended.err) == (0, "")
    with tarfile.open(fileobj=io.BytesIO(ended.out.encode())) as tar:
        return {one.name: one for one in tar}


def test_what_matches_is_packed_behind_its_links(ship: Ship, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    (tmp_path / "one" / "a.txt").write_text("a")
    (tmp_path / "two" / "b.txt").symlink_to("../one/a.txt")
    (tmp_path / "two" / "c.txt").symlink_to("../one")
    found = packed(ship, tmp_path, "[^/]*", r"[^/]*\.txt")
    assert [(name, one.type) for name, one in found.items()] == [
        ("f0/a.txt", tarfile.REGTYPE), ("f1/b.txt", tarfile.REGTYPE), ("d2", tarfile.DIRTYPE), ("d2/a.txt", tarfile.REGTYPE),
    ]  # fmt: skip


def test_a_pattern_takes_nothing_of_other_file_systems(ship: Ship) -> None:
    found = packed(ship, Path("/"), "(?:proc|dev|etc)", "(?:self|null|hostname)")
    assert list(found) == ["f0/hostname"]
    found = packed(ship, Path("/"), "(?:proc|etc)", "hostname")
    assert list(found) == ["f0/hostname"]


def test_a_link_that_a_target_names_may_lead_to_nothing_yet(stage: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("new/deep")
    (stage / "0").mkdir()
    (stage / "0" / "f").write_text("f")
    place(stage, source("0", tmp_path / "link", "f"))
    assert (tmp_path / "new" / "deep").read_text() == "f"


def test_a_file_with_holes_is_packed_with_its_zeros(ship: Ship, tmp_path: Path) -> None:
    with open(tmp_path / "holes", "wb") as file:
        file.truncate(300_000)
    found = packed(ship, tmp_path / "holes")
    assert [(name, one.size, one.pax_headers) for name, one in found.items()] == [
        (
            "f0/holes",
            300_000,
            {key: value for key, value in found["f0/holes"].pax_headers.items() if key == "mtime"},
        )
    ]


def test_names_of_users_and_groups_are_those_of_the_image() -> None:
    assert build._ids_of("") == build._ids_of("root") == (0, 0)
    assert build._ids_of("1000") == (1000, 1000)
    assert build._ids_of("daemon:root") == (1, 0)
    assert build._ids_of("5:daemon") == (5, 1)
    with pytest.raises(build.Problem, match="70000 is no owner that a sandbox has; ids go to 65535"):
        build._ids_of("70000")
    with pytest.raises(build.Problem, match="/etc/group of the image has no 'none'"):
        build._ids_of("0:none")
