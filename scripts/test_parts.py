"""Run the tests of some parts, each failure once more by itself, and end with one table.

    python -m scripts.test_parts PART [PYTEST ARGUMENT...]

PART: gate, host, postgres, kubernetes, clients, docs, or `all` of them one after the other. A test that fails
and then passes by itself is `unsteady`: it is named, and does not fail the run. In the gate each test runs
once. The exit status is 1 when a test failed twice, or the run of a part did not end.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

_ROOT = Path(__file__).parent.parent
_TOGETHER = ("--dist", "loadfile", "--no-loadscope-reorder", "--max-worker-restart", "0")
_IN_CLUSTER = ("scripts/kubernetes/with-cluster",)

_ON_POSTGRES = (
    "database.py events keys maintenance skills cargos execs/test_history.py sandboxes/test_volumes.py "
    "sandboxes/test_api_sandboxes.py sessions/test_quotas.py"
)
"""The tests of the server whose queries differ most; those of the store run on both databases anyway."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of pytest. `prefix`: the command that it runs under. `settings`: more of its environment."""

    arguments: tuple[str, ...]
    prefix: tuple[str, ...] = ()
    settings: dict[str, str] = field(default_factory=dict[str, str])

    def command(self, *arguments: str) -> list[str]:
        return [*self.prefix, sys.executable, "-m", "pytest", *arguments]

    def run(self, *arguments: str) -> int:
        environment = {**os.environ, **self.settings}
        return subprocess.run(self.command(*arguments), cwd=_ROOT, env=environment, check=False).returncode


@dataclass(slots=True)
class Result:
    """What came of a part. `broken`: runs that ended without a word about their tests."""

    part: str
    passed: int = 0
    skipped: int = 0
    failed: list[str] = field(default_factory=list[str])
    unsteady: list[str] = field(default_factory=list[str])
    broken: int = 0
    seconds: float = 0.0


def _runs(part: str) -> list[Run]:
    workers = os.environ.get("WORKERS", "2")
    own = Run(("-n", workers, *_TOGETHER, "--part", part))
    if part == "gate":
        return [Run((*own.arguments, "--timeout", "60"))]
    if part == "postgres":
        served = [
            f"tests/server/{'test_' if name == 'database.py' else ''}{name}" for name in _ON_POSTGRES.split()
        ]
        return [own, Run(("-n", workers, *_TOGETHER, *served), settings={"BAY_TEST_DATABASE": "postgresql"})]
    if part == "kubernetes":  # these wait for pods most of the time
        inside = ("-n", "4", "--dist", "load", "--timeout", "300", "tests/kubernetes")
        return [own, Run(inside, _IN_CLUSTER)]
    return [own]


def run_part(part: str, arguments: list[str]) -> Result:
    """Run a part, with more arguments for pytest, and what failed once more."""
    result = Result(part)
    begun = time.monotonic()
    for run in _runs(part):
        with tempfile.TemporaryDirectory() as folder:
            outcomes = Path(folder, "outcomes.json")
            run.run(*run.arguments, "--outcomes", str(outcomes), *arguments)
            if not outcomes.exists():
                result.broken += 1
                continue
            told = json.loads(outcomes.read_text())
        result.passed += told["passed"]
        result.skipped += told["skipped"]
        for test in told["failed"]:
            again = part != "gate" and run.run("-q", test) == 0
            (result.unsteady if again else result.failed).append(test)
    result.seconds = time.monotonic() - begun
    return result


def main(part: str, arguments: list[str]) -> int:
    """Run and tell."""
    names = ["gate", "host", "postgres", "kubernetes", "clients", "docs"] if part == "all" else [part]
    results = [run_part(name, arguments) for name in names]
    print(f"\n{'part':<12}{'passed':>8}{'skipped':>8}{'failed':>8}{'unsteady':>10}{'seconds':>9}")
    for one in results:
        failed = f"{len(one.failed)}{'+' if one.broken else ''}"
        print(
            f"{one.part:<12}{one.passed:>8}{one.skipped:>8}{failed:>8}{len(one.unsteady):>10}{one.seconds:>9.0f}"
        )
    for one in results:
        for test in one.failed:
            print(f"failed    {test}")
        for test in one.unsteady:
            print(f"unsteady  {test}")
        if one.broken:
            print(f"broken    {one.part}: {one.broken} of its runs ended before their tests did")
    return int(any(one.failed or one.broken for one in results))


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1], sys.argv[2:]))
