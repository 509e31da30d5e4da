"""`bay browser` on a real Bay with the `fake` driver, and a program in the place of agent-browser."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import real_bay

import bay as sdk
from bay.server.settings import ProfileSettings

STAND_IN = """#!/bin/sh
case $1 in
  fail) echo broken >&2; exit 4 ;;
  hang) exec sleep 1000 ;;
esac
printf '%s|' "$@"
"""


@pytest.fixture(scope="module")
def real() -> Iterator[real_bay.RealBay]:
    with tempfile.TemporaryDirectory() as name:
        program = Path(name) / "agent-browser"
        program.write_text(STAND_IN)
        program.chmod(0o755)
        web = {"capabilities": ["exec", "browser"], "env": {"PATH": f"{name}:/usr/bin:/bin"}}
        profiles = {**real_bay.PROFILES, "web": ProfileSettings.model_validate(web)}
        with real_bay.running(profiles=profiles) as running:
            yield running


@pytest.fixture
def cli(real: real_bay.RealBay, bay: Any) -> Iterator[Any]:
    with sdk.Client(*real.where) as client, client.sandbox(name="web", profile="web"):
        yield type(bay)(real.url, {"BAY_API_KEY": real_bay.KEY})


def test_its_words_are_the_commands_own(cli: Any) -> None:
    done = cli("browser", "web", "find", "a b", "--json", "$HOME")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"find|a b|--json|$HOME|", b"")
    told = json.loads(cli("browser", "--json", "web", "say").stdout)
    assert (told["success"], told["output"]) == (True, "say|")


def test_it_ends_as_the_command_does(cli: Any) -> None:
    failed = cli("browser", "web", "fail")
    assert (failed.returncode, failed.stderr) == (4, b"broken\n")
    assert cli("browser", "--timeout", "1s", "web", "hang").returncode == 124
