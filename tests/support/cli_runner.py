"""Runs the real `bay` executable, or its `main` in this process."""

import io
import os
import subprocess
import sys
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import real_bay

from bay.cli.main import main

BIN = Path(sys.executable).parent / "bay"


Done = subprocess.CompletedProcess[bytes]


class Running(subprocess.Popen[bytes]):
    """A program that a test which fails kills: `Popen` would wait for its end without a bound."""

    def __exit__(self, *error: Any) -> None:
        if error[0] is not None:
            self.kill()
        super().__exit__(*error)


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
        return clean | {"BAY_URL": self.url, "BAY_API_KEY": real_bay.KEY} | self.settings

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

    def start(self, *arguments: str) -> Running:
        """The same without waiting."""
        return Running(
            [str(BIN), *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=self.environment
        )
