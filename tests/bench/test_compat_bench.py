"""The clients that `compat` measures: each has its program, and a program answers the acts it is told."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench import compat

pytestmark = pytest.mark.host

CLIENTS = Path(compat.__file__).parent / "clients"
STAND_IN = """
from acts import Acts, serve

made, files = [], {}
serve(
    Acts(
        create=lambda: made.append("box") or "box",
        run=lambda box: made.index(box),
        write=lambda box, data: files.update({box: data}),
        read=lambda box: files[box],
        destroy=lambda box: made.remove(box),
    )
)
"""


@pytest.mark.pure
def test_every_program_of_a_client_is_measured() -> None:
    programs = {path.name for path in CLIENTS.iterdir() if path.suffix in (".py", ".mjs")}
    measured = {file for program in compat._OTHERS.values() for file in (program.file, program.own)}
    assert measured == programs - {"__init__.py", "acts.py", "acts.mjs"}


def test_each_act_is_answered_with_its_wall_and_its_processor_time() -> None:
    acts = ["life", "open", "exec", "up", "down", "close"]
    done = subprocess.run(
        [sys.executable, "-c", STAND_IN], cwd=CLIENTS, input="\n".join(acts) + "\n", capture_output=True,
        text=True, timeout=60, check=False,
    )  # fmt: skip
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(acts), done.stderr
    assert all(wall >= 0 and processor >= 0 for wall, processor in answers)


@pytest.mark.pure
def test_a_client_that_is_missing_is_named_with_what_brings_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(compat, "_PYTHON", tmp_path / "python")
    monkeypatch.setattr(compat, "_NODE", tmp_path)
    monkeypatch.setattr(compat, "_SDK", tmp_path / "sdk")
    found = [result.to_json() for result in compat._results({}, {})]
    assert {"name": "e2b of JavaScript", "absent": "run `make .stamp-compat-node` first"} in found
    assert {"name": "bay-sandbox of TypeScript", "absent": "run `make .stamp-typescript` first"} in found
    assert {"name": "shipyard-neo-sdk", "absent": "run `make .stamp-compat` first"} in found
