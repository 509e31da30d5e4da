"""Bay's own files in the workspace: put back at each start, whole, and whatever a sandbox planted there."""

import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ship.files.built_in_skills import BUILT_IN, skills_for
from ship.files.provisions import env_text, put_back, skill_path
from ship.process.identity import Identity

pytestmark = pytest.mark.host

ME = Identity("me", os.getuid(), os.getgid(), "/", switch=False)
SKILL = BUILT_IN[0]


def put(workspace: Path, env: dict[str, str] | None = None) -> None:
    put_back(str(workspace), ME, BUILT_IN, env)


def test_a_skill_is_put_where_it_is_missing_with_front_matter(tmp_path: Path) -> None:
    put(tmp_path)
    path = Path(skill_path(str(tmp_path), SKILL))
    assert path == tmp_path / "skills" / SKILL.name / "SKILL.md"
    head = path.read_text().splitlines()[:4]
    assert head == ["---", f"name: {SKILL.name}", f"description: {SKILL.description}", "---"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_a_changed_skill_is_put_back_and_others_stay(tmp_path: Path) -> None:
    put(tmp_path)
    path = Path(skill_path(str(tmp_path), SKILL))
    own = tmp_path / "skills" / "mine" / "SKILL.md"
    own.parent.mkdir()
    own.write_text("mine")
    (path.parent / "notes.md").write_text("kept")
    path.write_text("something else")
    put(tmp_path)
    assert path.read_text() == SKILL.text
    assert own.read_text() == "mine"
    assert sorted(os.listdir(path.parent)) == ["SKILL.md", "notes.md"]


def test_a_skill_that_is_as_it_should_be_is_not_written(tmp_path: Path) -> None:
    put(tmp_path)
    path = Path(skill_path(str(tmp_path), SKILL))
    before = path.stat()
    put(tmp_path)
    assert path.stat().st_ino == before.st_ino


def link_of_all(workspace: Path, outside: Path) -> None:
    (workspace / "skills").symlink_to(outside)


def link_of_one(workspace: Path, outside: Path) -> None:
    (workspace / "skills").mkdir()
    (workspace / "skills" / SKILL.name).symlink_to(outside)


def file_for_a_directory(workspace: Path, _outside: Path) -> None:
    (workspace / "skills").write_text("a file")


def directory_for_the_file(workspace: Path, _outside: Path) -> None:
    (workspace / "skills" / SKILL.name / "SKILL.md").mkdir(parents=True)


@pytest.mark.parametrize(
    "plant",
    [link_of_all, link_of_one, file_for_a_directory, directory_for_the_file],
    ids=lambda f: f.__name__,
)
def test_a_planted_thing_leads_nowhere_and_stops_no_start(
    tmp_path: Path, plant: Callable[[Path, Path], None]
) -> None:
    workspace, outside = tmp_path / "workspace", tmp_path / "outside"
    workspace.mkdir()
    outside.mkdir()
    plant(workspace, outside)
    put(workspace)
    assert os.listdir(outside) == []
    left = [name for _, _, names in os.walk(workspace) for name in names if name.startswith(".ship-")]
    assert left == []


def test_a_link_or_a_pipe_in_the_place_of_the_file_is_replaced(tmp_path: Path) -> None:
    workspace, target = tmp_path / "workspace", tmp_path / "target"
    path = workspace / "skills" / SKILL.name / "SKILL.md"
    path.parent.mkdir(parents=True)
    target.write_text("not yours")
    path.symlink_to(target)
    put(workspace)
    assert target.read_text() == "not yours"
    assert not path.is_symlink()
    path.unlink()
    os.mkfifo(path)
    put(workspace)
    assert path.read_text() == SKILL.text


def test_the_file_of_variables_is_for_any_shell(tmp_path: Path) -> None:
    env = {"A": "plain", "B": 'it\'s $HOME `id` "x"', "C": "two\nlines", "E": ""}
    put(tmp_path, env)
    path = tmp_path / ".bay_env.sh"
    assert path.read_text() == env_text(env)
    assert path.read_text().startswith("export A=plain\nexport B=")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for shell in ("sh", "bash"):
        script = f'. {path}; printf "%s|" "$A" "$B" "$C" "$E"'
        ran = subprocess.run([shell, "-c", script], capture_output=True, text=True, timeout=30, check=True)
        assert ran.stdout == "".join(f"{value}|" for value in env.values())


def test_a_skill_comes_with_the_capability_that_it_needs() -> None:
    assert skills_for(frozenset()) == ()
    assert [skill.name for skill in skills_for(frozenset(("shell",)))] == ["bay-sandbox"]
    assert [skill.name for skill in skills_for(frozenset(("browser",)))] == ["bay-browser"]
