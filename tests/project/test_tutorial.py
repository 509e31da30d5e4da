"""The tutorial is typed, from a fresh clone to an agent's answer: each block of docs/quickstart.md, in order.

A shell types what the page says. It differs in these things alone: the address of the repository is this
checkout's; `sudo` is left out, as the page says for root; the server has a free port and directories of this
test in place of `/var/lib/bay`, and no pool; the packages that `make setup` installs are those of this
checkout; and the model is a script.
"""

import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
import scripted_model
import shared_cache

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/quickstart.md"
BLOCK = re.compile(r'(?ms)^```(sh|python title="(\S+)")\n(.*?)^```$')
SCRIPTS = ("scripts/setup-python.sh", "scripts/setup-uv.txt")
WAIT_S = 60

pytestmark = [pytest.mark.docs, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


def blocks() -> list[tuple[str, str]]:
    """The name of a file, or none for the shell, and the text of each block that a reader types."""
    return [(name, text) for _, name, text in BLOCK.findall(PAGE.read_text(encoding="utf-8"))]


@pytest.fixture
def place() -> Generator[Path]:
    with tempfile.TemporaryDirectory(prefix="bay-", dir="/tmp") as root:  # sockets have short paths
        Path(root).chmod(0o711)
        yield Path(root)


def environment(place: Path, model: str) -> dict[str, str]:
    """A shell's at the begin of the tutorial, with the settings of this test's server."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return kept | {
        "PORT": "0", "DATA_DIR": str(place / "data"), "BAY_RUN_DIR": str(place / "run"),
        "BAY_CACHE_DIR": str(shared_cache.filled()), "BAY_CARGO_BACKEND": "directory",
        "BAY_PROFILES": '{"python-default": {}}', "OPENAI_BASE_URL": model,
    }  # fmt: skip


class Reader:
    """Someone who types the blocks, each in a shell with the variables and directory of those before."""

    def __init__(self, place: Path, given: dict[str, str]) -> None:
        self.environment, self.cwd, self.place = given, place, place
        self.url = ""

    def type(self, text: str) -> str:
        """The output of a block, whose commands must all succeed."""
        state = self.place / "state"
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", f"{self.adapted(text)}\nenv -0 >{state}\npwd >>{state}"],
            env=self.environment,
            cwd=self.cwd,
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            check=False,
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        *pairs, cwd = state.read_text().split("\0")
        self.environment = dict(pair.split("=", 1) for pair in pairs)
        self.cwd = Path(cwd.strip())
        return done.stdout

    def adapted(self, text: str) -> str:
        text = text.replace("URL-OF-THIS-REPOSITORY", str(ROOT)).replace("sudo ", "")
        text = text.replace("/var/lib/bay", str(self.place / "data"))
        return text.replace("http://127.0.0.1:8700", self.url) if self.url else text

    def save(self, name: str, text: str) -> None:
        (self.cwd / name).write_text(text)

    def has_cloned(self) -> None:
        """Give the clone what `make setup` has installed in this checkout, so that it installs nothing."""
        for name in ("pyproject.toml", "requirements/server.txt", *SCRIPTS):
            os.utime(self.cwd / name, (0, 0))
        os.symlink(ROOT / ".venv", self.cwd / ".venv")
        (self.cwd / ".stamp-server").touch()

    @contextmanager
    def serving(self, text: str) -> Generator[None]:
        """The block that starts the server, in a terminal of its own."""
        [command] = self.adapted(text).splitlines()
        with (self.place / "serve").open("w") as errors:
            server = subprocess.Popen(
                ["bash", "-c", f"exec {command}"],
                env=self.environment, cwd=self.cwd, stdout=subprocess.PIPE, stderr=errors, text=True,
            )  # fmt: skip
        assert server.stdout is not None
        with server.stdout as lines:
            try:
                self.url = next(
                    found[1] for line in lines if (found := re.search(r" at (http://\S+)$", line))
                )
                yield
            finally:
                bay = Path(sys.executable).with_name("bay")
                subprocess.run([bay, "rm", "--all"], env=self.environment, timeout=WAIT_S, check=False)
                server.terminate()
                server.wait(WAIT_S)


@pytest.mark.timeout(300)
def test_the_tutorial_leads_from_a_clone_to_an_agents_answer(place: Path) -> None:
    command = "python3 -c 'print(sum(range(1, 101)))'"
    with scripted_model.serving(command) as (model, asked):
        reader = Reader(place, environment(place, model))
        typed = iter(blocks())
        reader.type(next(typed)[1])
        reader.has_cloned()
        reader.type(next(typed)[1])
        with reader.serving(next(typed)[1]):
            said = [reader.save(name, text) if name else reader.type(text) for name, text in typed]
    answers = [one.rstrip().splitlines() for one in said if one is not None]
    assert [answer[-1] for answer in answers] == ["42", "10", "It printed: 5050"]
    assert answers[-1][0] == f"$ {command}"
    assert len(asked) == 2


def test_what_a_reader_types_is_one_word_after_the_other() -> None:
    shell = [text for name, text in blocks() if not name]
    assert shell[0].startswith("git clone")
    assert all(shlex.split(line, comments=True) for text in shell for line in text.splitlines())
