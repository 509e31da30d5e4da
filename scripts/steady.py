"""Run tests again and again beside busy loops, and tell how often each failed.

    python -m scripts.steady [--times 25] [--loops 2] PYTEST ARGUMENT...

The arguments choose the tests, as pytest takes them: `tests/a/test_b.py::test_c`, `--part gate -n 2`. The
exit status is 0 when no test failed in any run.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

_ROOT = Path(__file__).parent.parent
_BUSY = "while True: pass"


def main() -> int:
    """Run, and tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--times", type=int, default=25, help="how often; 25 unless told")
    parser.add_argument("--loops", type=int, default=2, help="how many busy loops beside them; 2 unless told")
    options, arguments = parser.parse_known_args()
    if not arguments:
        parser.error('name the tests: make steady TESTS="tests/a/test_b.py::test_c"')
    failures: Counter[str] = Counter()
    busy = [subprocess.Popen([sys.executable, "-c", _BUSY]) for _ in range(options.loops)]
    try:
        for turn in range(1, options.times + 1):
            begun = time.monotonic()
            failed = _failed(arguments)
            failures.update(failed)
            print(
                f"{turn:>3} of {options.times}: {len(failed)} failed, {time.monotonic() - begun:.0f} s",
                flush=True,
            )
    finally:
        for one in busy:
            one.kill()
            one.wait()
    for test, times in failures.most_common():
        print(f"failed {times} of {options.times}: {test}")
    return int(bool(failures))


def _failed(arguments: list[str]) -> list[str]:
    """The tests that failed in one run, told by pytest itself, or the run when it ended without a word."""
    with tempfile.TemporaryDirectory() as folder:
        outcomes = Path(folder, "outcomes.json")
        command = [sys.executable, "-m", "pytest", "-q", "--outcomes", str(outcomes), *arguments]
        done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False)
        failed = json.loads(outcomes.read_text())["failed"] if outcomes.exists() else ["the run itself"]
    if done.returncode and not failed:
        failed = ["the run itself"]
    if failed:
        print(done.stdout[-20_000:], done.stderr[-2_000:], sep="", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
