"""The default sandbox of a directory: `.` in the place of a name, and where the name may be left out."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from cli_runner import Cli, Done
from test_cli_words import complete


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "project"
    (path / "src").mkdir(parents=True)
    monkeypatch.chdir(path)
    return path


@pytest.fixture
def here(bay: Cli, tmp_path: Path) -> Cli:
    return replace(bay, settings={"XDG_STATE_HOME": str(tmp_path / "state")})


def good(done: Done) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


def refused(done: Done) -> str:
    assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (2, b"", 1)
    return done.stderr.decode()


def test_a_default_holds_for_the_directory_and_below(
    here: Cli, name: str, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "bay use NAME" in refused(here("use"))
    assert "no sandbox nope" in refused(here("use", "nope"))
    assert good(here("use", name)) == f"{name}\n"
    for directory in ("src", "."):
        monkeypatch.chdir(directory if directory == "src" else project)
        assert good(here("use")) == f"{name}\n"
        assert good(here("exec", ".", "echo", ".")) == ".\n"
        assert json.loads(good(here("get", "--json")))["name"] == name
    monkeypatch.chdir("..")
    for line in ("exec . true", "mcp --sandbox ."):
        assert "no default sandbox" in refused(here(*line.split()))
    assert "bay use" in refused(here("get"))


def test_the_nearest_default_decides_and_is_the_one_that_is_cleared(
    here: Cli, name: str, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = json.loads(good(here("create", "--json")))["id"]
    good(here("use", name))
    monkeypatch.chdir("src")
    assert json.loads(good(here("use", other, "--json")))["directory"] == str(project / "src")
    assert good(here("use")) == f"{other}\n"
    assert good(here("use", "--clear")) == ""
    assert good(here("use")) == f"{name}\n"
    good(here("use", "--clear"))
    assert "no default" in refused(here("use", "--clear"))
    assert "not both" in refused(here("use", name, "--clear"))


def test_a_dot_is_the_default_wherever_a_sandbox_is_named(here: Cli, name: str, project: Path) -> None:
    good(here("use", name))
    (project / "a").write_text("text")
    good(here("cp", "a", ".:b"))
    good(here("cp", ".:b", "c"))
    assert (project / "c").read_text() == "text"
    assert "/workspace/b" in good(here("files", "ls", "."))
    assert json.loads(good(here("start", ".", name, "--json")).splitlines()[0])["name"] == name
    assert f"Host bay-{name}" in good(here("ssh-config", "."))
    assert f'"{name}"' not in good(here("events", ".", "--since", "0", "--json"))
    assert "no URL of its own" in refused(here("url", "."))
    assert complete(here, "bay", "cp", ".:") == ["b"]
    good(here("rm", "."))
    assert here("get", name).returncode == 2


def test_a_name_is_left_out_only_where_nothing_else_is_needed(here: Cli, name: str, project: Path) -> None:
    good(here("use", name))
    for line in (
        "usage --over 0.1",
        "ps",
        "execs",
        "ports",
        "files ls",
        "net show",
        "checkpoint ls",
        "update --no-labels",
    ):
        good(here(*line.split()))
    assert "Usage: bay get" in good(here("get", "--help"))
    assert "name the sandboxes" in refused(here("rm"))
    for line in ("stop", "exec", "exec true", "checkpoint rm", "services put", "proxy 80"):
        assert "Missing argument" in refused(here(*line.split()))
    assert json.loads(good(here("get", name, "--json")))["name"] == name


def test_a_checkout_cannot_choose_the_sandbox(here: Cli, name: str, project: Path) -> None:
    for file in (".bay", "bay.toml", ".bay.toml", "defaults.json"):
        (project / file).write_text(
            f'[{{"directory": "{project}", "sandbox": "{name}", "url": "{here.url}"}}]'
        )
    assert "no default" in refused(here("exec", ".", "true"))


def test_a_default_of_another_server_is_not_taken(
    here: Cli, name: str, project: Path, thief: tuple[str, list[str | None]]
) -> None:
    good(here("use", name))
    there = replace(here, url=thief[0])
    for line in ("exec . true", "get", "cp .:a b"):
        assert f"at {here.url}, and this command goes to {thief[0]}" in refused(there(*line.split()))
    assert thief[1] == []
    good(replace(here, url=here.url + "/")("get"))


def test_a_table_that_others_may_change_is_not_obeyed(
    here: Cli, name: str, project: Path, tmp_path: Path
) -> None:
    good(here("use", name))
    table = tmp_path / "state" / "bay" / "defaults.json"
    assert (table.stat().st_mode & 0o777, table.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    table.chmod(0o666)
    assert "other users may write" in refused(here("get"))
    table.chmod(0o600)
    table.write_text("[{}]")
    assert "remove it" in refused(here("use"))


def test_directories_that_are_gone_are_forgotten(
    here: Cli, name: str, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("src")
    good(here("use", name))
    (project / "src").rmdir()
    assert "was removed" in refused(here("use"))
    strange = project / os.fsdecode(b"d\xff")
    strange.mkdir()
    monkeypatch.chdir(strange)
    assert "d\N{REPLACEMENT CHARACTER}" in here("use", name).stderr.decode()
    assert good(here("use")) == f"{name}\n"
    assert len(json.loads((tmp_path / "state" / "bay" / "defaults.json").read_text())) == 1
