"""`bay replicas`: which server of a database does what."""

import json
import os
import subprocess
import sys
from pathlib import Path

from bay.cli.commands.replicas import ranges

BIN = Path(sys.executable).parent / "bay"


def run(served: tuple[str, str], *arguments: str) -> str:
    env = {**os.environ, "BAY_URL": served[0], "BAY_API_KEY": served[1]}
    done = subprocess.run([BIN, *arguments], env=env, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_a_server_that_is_alone_has_all_the_work(served: tuple[str, str]) -> None:
    heads, line = run(served, "replicas").splitlines()
    assert heads.split() == ["ID", "URL", "VERSION", "BEAT", "SHARDS", "JOBS"]
    assert line.split()[1] == served[0]
    assert line.split()[4:] == [
        "0-15", "pool,", "webhooks,", "retention,", "usage,", "images,", "templates,", "checkpoints,", "pushes",
    ]  # fmt: skip


def test_json_is_the_answer_of_the_api(served: tuple[str, str]) -> None:
    state = json.loads(run(served, "replicas", "--json"))
    [one] = state["items"]
    assert (one["url"], one["is_self"], one["shards"]) == (served[0], True, [*range(16)])
    assert state["unheld"] == []


def test_runs_of_numbers_are_written_as_such() -> None:
    assert ranges([0, 1, 2, 3, 7, 9, 10]) == "0-3, 7, 9-10"
    assert ranges([]) == ""
