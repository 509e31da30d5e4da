"""The same three programs through each client of another platform and through Bay's own SDK."""

import json
import os
import subprocess
import sys
from pathlib import Path

from bay.cli.commands.compat import CLIENTS
from bench.base import Bench
from bench.figures import Absent, Figure, Ratio, Result

LIVES = 10
EXECS = 200
_LONGEST_S = 1800
_ROOT = Path(__file__).parents[1]
_PROGRAMS = _ROOT / "bench" / "clients"
_THEIRS = _ROOT / ".venv-compat" / "bin" / "python"
_ACTS = {
    "life": "create, exec, destroy",
    "exec": "an exec",
    "up": "100 MiB up",
    "down": "100 MiB down",
}


def compat(bench: Bench) -> list[Result]:
    """Create → exec → destroy, 200 execs, and 100 MiB up and down; ratios to Bay's own SDK.

    Clients of other platforms make sandboxes of the ready-made profiles, which keep their whole machine.
    """
    own = _measured(bench, "own.py", sys.executable)
    if not _THEIRS.exists():
        return [*own.values(), Absent("other clients", "run `make .stamp-compat` first")]
    found: list[Result] = list(own.values())
    for program in ("sprites_py.py", "e2b_py.py"):
        theirs = _measured(bench, program, str(_THEIRS))
        for act, figure in theirs.items():
            found += [figure, Ratio(figure, own[act])]
    return found


def _measured(bench: Bench, program: str, python: str) -> dict[str, Figure]:
    """The figures of one program, by act."""
    url, key = bench.server.url, bench.server.api_key
    environment = os.environ | {
        "BAY_URL": url, "BAY_API_KEY": key, "BENCH_LIVES": str(bench.count(LIVES)),
        "BENCH_EXECS": str(bench.count(EXECS)),
    }  # fmt: skip
    for variables, _ in CLIENTS.values():
        environment |= variables(url, key)
    done = subprocess.run(
        [python, str(_PROGRAMS / program)], env=environment, stdout=subprocess.PIPE, text=True, check=True,
        timeout=_LONGEST_S,
    )  # fmt: skip
    samples: dict[str, list[float]] = json.loads(done.stdout)
    name = program.removesuffix(".py").removesuffix("_py")
    return {act: Figure(f"{words}, {name}", "ms", tuple(samples[act])) for act, words in _ACTS.items()}
