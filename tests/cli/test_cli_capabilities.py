"""`bay capabilities`: what the server can do."""

import json
import os
import subprocess
import sys
from pathlib import Path

BIN = Path(sys.executable).parent / "bay"


def run(served: tuple[str, str], *arguments: str) -> str:
    env = {**os.environ, "BAY_URL": served[0], "BAY_API_KEY": served[1]}
    done = subprocess.run([BIN, *arguments], env=env, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_words_are_those_of_the_api(served: tuple[str, str]) -> None:
    told = json.loads(run(served, "capabilities", "--json"))
    heads, *lines = run(served, "capabilities").splitlines()
    assert heads.split() == ["CAPABILITY", "VALUE"]
    shown = {name: value.strip() for name, _, value in (line.partition(" ") for line in lines)}
    assert shown.keys() == told.keys()
    assert (shown["driver"], shown["pause"]) == (told["driver"], told["pause"])
    assert shown["network"] == ", ".join(told["network"])
    assert shown["resize"] == ("yes" if told["resize"] else "-")
