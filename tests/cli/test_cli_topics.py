"""`bay help TOPIC`: the pages of the documentation, in a checkout and in an installed wheel."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from cli_runner import Cli

from bay.cli.topics import page, topics
from bay.errors import InvalidArgument

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent / "bay"
NOWHERE = Cli("http://127.0.0.1:1")


def test_every_page_is_a_topic() -> None:
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")} - {"README"}
    listed = [json.loads(line)["topic"] for line in NOWHERE("help", "topics", "--json").stdout.splitlines()]
    assert set(listed) >= pages
    assert not any(name.startswith("0") for name in listed)
    done = NOWHERE("help", "network")
    assert done.stdout.decode() == (ROOT / "docs" / "network.md").read_text()


def test_a_command_comes_before_the_page_of_its_name() -> None:
    assert NOWHERE("help", "events").stdout.startswith(b"Usage: bay events")
    assert NOWHERE("help", "events.md").stdout.decode() == (ROOT / "docs" / "events.md").read_text()
    assert json.loads(NOWHERE("help", "ls", "--json").stdout)["text"].startswith("Usage: bay ls")


def test_pages_below_a_folder_are_found_and_none_is_said(tmp_path: Path) -> None:
    (tmp_path / "guides").mkdir()
    (tmp_path / "guides" / "agents.md").write_text("# Agents\n")
    (tmp_path / "design").mkdir()
    (tmp_path / "design" / "0001-x.md").write_text("# X\n")
    assert list(topics(tmp_path)) == ["agents"]
    with pytest.raises(InvalidArgument, match="did you mean `bay help agents`"):
        page("agent", tmp_path)
    with pytest.raises(InvalidArgument, match="has no pages"):
        page("agents", tmp_path / "none")


def test_a_page_on_a_terminal_goes_through_the_pager() -> None:
    here, there = os.openpty()
    try:
        done = subprocess.run(
            [str(BIN), "help", "packages"], stdin=there, stdout=there, timeout=60, check=False,
            env={"PATH": "/usr/bin:/bin", "PAGER": "tr a-z A-Z | head -c 2000", "TERM": "xterm", "COLUMNS": "70"},
        )  # fmt: skip
        os.close(there)
        shown = os.read(here, 65536).decode()
    finally:
        os.close(here)
    assert done.returncode == 0
    assert "PACKAGES" in shown
    assert max(map(len, shown.splitlines())) <= 70


def test_the_wheel_has_the_pages(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, capture_output=True, timeout=120, check=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        names = wheel.namelist()
    assert "bay/docs/network.md" in names
    pages = [name for name in names if name.startswith("bay/docs/")]
    assert [name for name in pages if "/design/" in name or not name.endswith(".md")] == []
