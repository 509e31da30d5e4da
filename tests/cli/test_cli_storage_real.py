"""`bay cp`, checkpoints, forks and cargos of the executable, against a server it starts, with the `fake`
driver.
"""

import json
import os
import signal
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import forked_bay
import pytest

pytestmark = pytest.mark.host

KEY = "bay_0123456789abcdef0123456789abcdef"


@contextmanager
def serving(environment: dict[str, str]) -> Generator[str, None, None]:
    with open(os.devnull, "wb") as null:
        server = forked_bay.fork(["serve", "--port", "0"], environment, null.fileno())
    assert server.stdout is not None
    with server.stdout as said:
        try:
            yield said.readline().decode().rpartition(" ")[2].strip()
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(30)


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    """The environment in which `bay` finds a server; short paths, because sockets have them."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("BAY_")}
    with tempfile.TemporaryDirectory(prefix="bay-", dir="/tmp") as root:
        places = {"BAY_DRIVER": "fake", "BAY_RUN_DIR": f"{root}/run", "BAY_DATA_DIR": f"{root}/data"}
        own = clean | places | {"BAY_API_KEY": KEY}
        with serving(own) as url:
            yield own | {"BAY_URL": url}


class Bay:
    """Runs `bay`, which must do what it is told."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = environment

    def __call__(self, *arguments: str, stdin: bytes = b"", code: int = 0) -> bytes:
        done = forked_bay.run(list(arguments), self._environment, stdin)
        assert done.returncode == code, done.stderr
        return done.stdout


@pytest.fixture
def bay(environment: dict[str, str]) -> Bay:
    return Bay(environment)


def test_files_go_in_and_out(bay: Bay, tmp_path: Path) -> None:
    source = tmp_path / "src"
    (source / "empty").mkdir(parents=True)
    (source / "run").write_text("#!/bin/sh\necho ran\n")
    (source / "run").chmod(0o755)
    (source / "link").symlink_to("run")
    bay("create", "--name", "files", "--wait", "30")
    bay("cp", str(source), "files:")
    assert bay("exec", "files", "--", "src/link") == b"ran\n"
    bay("cp", "files:src", str(tmp_path / "back"))
    assert sorted(path.name for path in (tmp_path / "back").iterdir()) == ["empty", "link", "run"]
    assert (tmp_path / "back" / "run").stat().st_mode & 0o777 == 0o755
    bay("cp", "-", "files:piped", stdin=b"\x00\xff" * 300_000)
    assert bay("cp", "files:piped", "-") == b"\x00\xff" * 300_000
    assert len(bay("files", "ls", "files", "src").splitlines()) == 4
    assert bay("files", "find", "files", "**/run").count(b"\n") == 1
    assert b":2:echo ran" in bay("files", "search", "files", "echo", "--glob", "run")
    bay("files", "search", "files", "nowhere", code=1)
    bay("rm", "files")


def test_checkpoints_are_made_restored_and_carried_away(bay: Bay, tmp_path: Path) -> None:
    bay("create", "--name", "origin", "--wait", "30")
    bay("cp", "-", "origin:f", stdin=b"one")
    first = bay("checkpoint", "create", "origin", "--name", "first").decode().strip()
    bay("cp", "-", "origin:f", stdin=b"two")
    bay("checkpoint", "create", "origin", "--name", "second")
    bay("checkpoint", "restore", "origin", "first")
    assert bay("cp", "origin:f", "-") == b"one"
    marks = [line.split()[0] for line in bay("checkpoint", "ls", "origin").decode().splitlines()]
    assert marks == ["NOW", "*", "-"]
    bay("checkpoint", "export", "origin", "second", str(tmp_path / "kept"))
    piped = bay("checkpoint", "export", "origin", "second", "-")
    bay("fork", "origin", "--count", "2", "--name", "fork", "--checkpoint", first)
    bay("checkpoint", "import", "fork-1", str(tmp_path / "kept"), "--name", "imported")
    bay("checkpoint", "import", "fork-2", "-", "--name", "imported", stdin=piped)
    for fork in ("fork-1", "fork-2"):
        assert bay("cp", f"{fork}:f", "-") == b"one"
        bay("checkpoint", "restore", fork, "imported")
        assert bay("cp", f"{fork}:f", "-") == b"two"
    bay("create", "--name", "new", "--from-checkpoint", first, "--wait", "30")
    assert bay("cp", "new:f", "-") == b"one"
    bay("checkpoint", "import", "new", "-", stdin=piped[:-5], code=2)
    bay("checkpoint", "rm", "origin", "first", "second")
    assert bay("checkpoint", "ls", "origin", "-q") == b""
    bay("rm", "origin", "fork-1", "fork-2", "new")


def test_cargos_are_made_moved_and_removed(bay: Bay) -> None:
    cargo = bay("cargo", "create", "--size-limit-mb", "64").decode().strip()
    bay("create", "--name", "one", "--cargo", cargo, "--wait", "30")
    bay("cp", "-", "one:f", stdin=b"kept")
    bay("create", "--name", "two")
    bay("stop", "one", "two")
    bay("cargo", "rm", cargo, code=2)
    moved = json.loads(bay("cargo", "move", cargo, "two", "--json"))
    assert len(moved["sandbox_ids"]) >= 1
    assert bay("cp", "two:f", "-") == b"kept"
    bay("rm", "one", "two")
    for one in bay("cargo", "ls", "-q").decode().split():
        bay("cargo", "rm", one)
