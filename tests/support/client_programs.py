"""Programs of other people's clients, each a process of its own, against a Bay on runc without configuration.

The clients are unmodified: Python's in `.venv-compat`, JavaScript's below `tests/compat/node`.
"""

import os
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import image_bay
import shared_cache

ROOT = Path(__file__).parents[2]
PROGRAMS = ROOT / "tests" / "compat" / "programs"
NODE = ROOT / "tests" / "compat" / "node"
PYTHON = ROOT / ".venv-compat" / "bin" / "python"
_RUNNER = Path(__file__).with_name("client_program.py")
WEBSOCKETS = "--experimental-websocket"
"""For NODE_OPTIONS: Node 20 has the class, which newer ones have without being asked."""
_LONGEST_S = 100.0
"""Below the time limit of a test, so that what the program printed is shown."""


@dataclass(frozen=True, slots=True)
class ClientHost:
    """A Bay that serves at `url`, and programs that use it with `key`, an administrator's."""

    url: str
    key: str
    bay: image_bay.Bay

    def run(self, program: str, *arguments: str, **environment: str) -> str:
        """The output of a program, such as `e2b_life.py` or `e2b_life.mjs`, which must end with 0."""
        return self.execute(*command_of(program), *arguments, **environment)

    def execute(self, *command: str, **environment: str) -> str:
        """The output of a command, which must end with 0. Its environment has BAY_URL and BAY_API_KEY, and
        what is given; settings of this run of tests are not in it.
        """
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
        given = kept | {"BAY_URL": self.url, "BAY_API_KEY": self.key} | environment
        done = subprocess.run(
            command, env=given, capture_output=True, text=True, timeout=_LONGEST_S, check=False
        )
        assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout


def command_of(program: str) -> tuple[str, ...]:
    """The command that runs a program of a client."""
    if program.endswith(".mjs"):
        return "node", str(NODE / program)
    return str(PYTHON), str(_RUNNER), str(PROGRAMS / program)


@contextmanager
def environment(**settings: str) -> Generator[dict[str, str]]:
    """The environment of a Bay on runc with directories of its own, and the settings that are given."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("BAY_")}
    with tempfile.TemporaryDirectory(prefix="bay-", dir="/tmp") as root:
        Path(root).chmod(0o711)  # sessions pass through it
        yield clean | {
            "BAY_RUN_DIR": f"{root}/run", "BAY_DATA_DIR": f"{root}/data", "BAY_API_KEY": image_bay.KEY,
            "BAY_CARGO_BACKEND": "directory", "BAY_CACHE_DIR": str(shared_cache.filled()), **settings,
        }  # fmt: skip


@contextmanager
def client_host(**settings: str) -> Generator[ClientHost]:
    """A Bay on runc, with the settings that are given; every sandbox is removed at the end."""
    with environment(**settings) as own, serving(own) as host:
        yield host


@contextmanager
def serving(own: dict[str, str]) -> Generator[ClientHost]:
    """A Bay with that environment; every sandbox is removed at the end."""
    with image_bay.serving(own) as url:
        bay = image_bay.Bay(own | {"BAY_URL": url})
        try:
            yield ClientHost(url, image_bay.KEY, bay)
        finally:
            bay("rm", "--all")
