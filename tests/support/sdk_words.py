"""A process that performs scenarios of `tests/clients/scenarios.toml` with one SDK, on one platform of it.

It and this exchange lines of JSON, so that one process performs many scenarios.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import real_bay

Json = dict[str, Any]
ROOT = Path(__file__).parents[2]
PROGRAMS = ROOT / "tests" / "clients" / "programs"
# The package `deno` has the program for each system in a package of its own.
DENO = next(ROOT.glob("clients/typescript/node_modules/@deno/*/deno"), "deno")
COMMANDS = {
    "python": [sys.executable, str(PROGRAMS / "python_words.py")],
    "typescript": ["node", str(PROGRAMS / "typescript_words.mjs")],
    "deno": [str(DENO), "run", "--allow-all", "--no-lock", str(PROGRAMS / "typescript_words.mjs")],
}
_LONGEST_S = 90.0
"""Below the time limit of a test, so that what the process printed is shown."""


class Words:
    """A process that knows the words of scenarios in one SDK."""

    def __init__(self, process: subprocess.Popen[str], errors: IO[str]) -> None:
        self._process = process
        self._errors = errors
        self.words: list[str] = self._answer()["words"]

    def perform(
        self,
        url: str,
        steps: Sequence[Json],
        through: str | None = None,
        begin: Callable[[], None] = lambda: None,
    ) -> list[Any]:
        """The results of the steps in a new sandbox of the Bay at `url`, asked for at the address `through`.

        `begin` is called once the sandbox is there.
        """
        asked = {"url": url, "through": through or url, "key": real_bay.KEY, "steps": steps}
        self._send(asked)
        assert self._answer() == {"ready": True}
        begin()
        self._send({})
        return self._answer()["results"]

    def _send(self, what: Json) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{json.dumps(what)}\n")
        self._process.stdin.flush()

    def _answer(self) -> Json:
        assert self._process.stdout is not None
        ending = threading.Timer(_LONGEST_S, self._process.kill)
        ending.start()
        line = self._process.stdout.readline()
        ending.cancel()
        if not line:
            self._process.wait(_LONGEST_S)
            self._errors.seek(0)
            raise AssertionError(f"the process has ended:\n{self._errors.read()}")
        return json.loads(line)


@contextmanager
def speaking(sdk: str) -> Generator[Words]:
    """The words of an SDK, until the end of the block."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BAY_")}
    with tempfile.TemporaryFile("w+") as errors, tempfile.TemporaryDirectory() as cache:
        own = kept | {"DENO_DIR": cache, "DENO_NO_UPDATE_CHECK": "1"}
        process = subprocess.Popen(
            COMMANDS[sdk], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, env=own
        )
        try:
            yield Words(process, errors)
        finally:
            process.kill()
            with suppress(BrokenPipeError):
                process.communicate(timeout=_LONGEST_S)
