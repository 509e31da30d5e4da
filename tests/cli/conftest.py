"""The real `bay` executable, and a stand-in for the server it talks to."""

import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest

from bay.cli.main import main

BIN = Path(sys.executable).parent / "bay"
STANDIN = Path(__file__).parents[1] / "client" / "standin.py"
KEY = "bay_standin"


Done = subprocess.CompletedProcess[bytes]


def _text(data: bytes) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(data), encoding="utf-8", write_through=True)


def _bytes(text: io.TextIOWrapper) -> bytes:
    return cast("io.BytesIO", text.buffer).getvalue()


@dataclass(frozen=True)
class Cli:
    """Runs `bay` with an environment that names the server."""

    url: str
    settings: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def environment(self) -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("BAY_")}
        return clean | {"BAY_URL": self.url, "BAY_API_KEY": KEY} | self.settings

    def __call__(self, *arguments: str, stdin: bytes = b"", **settings: str) -> Done:
        """Run `bay` in this process, which takes a hundredth of the time of a new one."""
        out, err = _text(b""), _text(b"")
        before = dict(os.environ), sys.stdin
        os.environ.clear()
        os.environ.update(self.environment | settings)
        try:
            # A real file: what reads stdin in a thread reads the descriptor.
            with tempfile.TemporaryFile() as given, redirect_stdout(out), redirect_stderr(err):
                given.write(stdin)
                given.seek(0)
                sys.stdin = io.TextIOWrapper(given)
                code = main(list(arguments))
        finally:
            os.environ.clear()
            os.environ.update(before[0])
            sys.stdin = before[1]
        return Done(arguments, code, _bytes(out), _bytes(err))

    def process(self, *arguments: str) -> Done:
        """Run the real executable."""
        command = [str(BIN), *arguments]
        return subprocess.run(command, capture_output=True, timeout=30, check=False, env=self.environment)

    def start(self, *arguments: str) -> "subprocess.Popen[bytes]":
        """The same without waiting."""
        return subprocess.Popen(
            [str(BIN), *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=self.environment
        )


@pytest.fixture(scope="session")
def standin() -> Iterator[str]:
    """The URL of a stand-in for Bay, in a process of its own."""
    command = [sys.executable, str(STANDIN)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.stdin.close()
        process.wait(10)


@pytest.fixture
def bay(standin: str) -> Cli:
    return Cli(standin)
