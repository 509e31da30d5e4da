"""`bay admin gc` on a real Bay."""

import json
import os
import subprocess
import sys
from pathlib import Path

import bay

BIN = Path(sys.executable).parent / "bay"


def run(served: tuple[str, str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    env = {**os.environ, "BAY_URL": served[0], "BAY_API_KEY": served[1]}
    return subprocess.run([BIN, *arguments], env=env, capture_output=True, text=True, timeout=60)


def test_gc_collects_what_is_frozen(served: tuple[str, str]) -> None:
    with bay.Client(*served, timeout_s=30) as client, client.sandbox() as box:
        box.pause()
        done = run(served, "admin", "gc", "idle_session", "orphan_container")
        assert (done.returncode, done.stderr) == (0, "")
        lines = [line.split() for line in done.stdout.splitlines()]
        assert lines[1:] == [["idle_session", "1", "0", "0"], ["orphan_container", "0", "0", "0"]]
        assert box.refresh().compute == "cold"


def test_gc_prints_json_and_knows_its_tasks(served: tuple[str, str]) -> None:
    done = run(served, "admin", "gc", "--json")
    assert [result["task_name"] for result in json.loads(done.stdout)["results"]] == [
        "idle_session", "expired_sandbox", "orphan_cargo", "orphan_container",
    ]  # fmt: skip
    refused = run(served, "admin", "gc", "everything")
    assert refused.returncode == 2
    assert "there is no task everything; there are idle_session" in refused.stderr
