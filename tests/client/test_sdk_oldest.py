"""The client works with the oldest libraries that it says it works with, and with the oldest Python where the
machine has it; every other test has the newest.

Frameworks hold some of them back, and a client that insists on the newest cannot be installed beside one.
"""

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.version import Version

ROOT = Path(__file__).parents[2]
WAIT_S = 90

pytestmark = [pytest.mark.clients, pytest.mark.long]


@pytest.fixture(scope="module")
def python() -> Path:
    """An interpreter with those libraries and nothing else; these tests have no way to a registry."""
    found = ROOT / ".venv-oldest/bin/python"
    if not found.exists():
        pytest.skip("make .stamp-oldest makes what this needs, as `make test` does")
    return found


def test_what_is_tried_is_the_lower_end_of_each_range() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lowest = {
        name: version for name, _, version in (text.partition(">=") for text in project["dependencies"])
    }
    pinned = dict(re.findall(r"(?m)^(\S+)==(\S+)", (ROOT / "requirements/oldest.txt").read_text("utf-8")))
    assert {name: Version(pinned[name]) for name in lowest} == {
        name: Version(version) for name, version in lowest.items()
    }


def run(python: Path, served: tuple[str, str], *argv: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "BAY_URL": served[0], "BAY_API_KEY": served[1]}
    return subprocess.run([python, *argv], env=env, capture_output=True, text=True, timeout=WAIT_S)


def test_the_sdk_speaks_over_every_kind_of_connection(python: Path, served: tuple[str, str]) -> None:
    done = run(python, served, str(ROOT / "tests/client/smoke_client.py"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("all well\n")


def test_the_command_line_works(python: Path, served: tuple[str, str]) -> None:
    for argv, said in (
        (("create", "smoke"), "sandbox-"),
        (("exec", "smoke", "echo", "hi"), "hi\n"),
        (("ls",), "smoke"),
        (("exec", "--help"), "Run a command"),
        (("rm", "smoke"), ""),
    ):
        done = run(python, served, "-m", "bay", *argv)
        assert (done.returncode, said in done.stdout) == (0, True), done.stderr
