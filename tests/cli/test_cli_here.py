"""A Bay on this machine: `bay` finds it and its key, and gives the key to nobody else."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import forked_bay
import pytest

BIN = Path(sys.executable).parent / "bay"
WAIT_S = 30


def bare() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("BAY_")}


@pytest.fixture
def environment() -> Iterator[dict[str, str]]:
    """Settings of a Bay of its own, without URL and key; short paths, because sockets have them."""
    with tempfile.TemporaryDirectory(prefix="bay-", dir="/tmp") as root:
        yield bare() | {
            "XDG_CONFIG_HOME": root,
            "XDG_STATE_HOME": root,
            "BAY_DRIVER": "fake",
            "BAY_RUN_DIR": f"{root}/run",
            "BAY_DATA_DIR": f"{root}/data",
            "BAY_PROFILES": '{"python-default": {}}',  # its pool would outlive one that is killed
        }


def run(environment: dict[str, str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    done = forked_bay.run(list(arguments), environment)
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


@contextmanager
def serving(
    environment: dict[str, str], number: int = signal.SIGTERM, arguments: tuple[str, ...] = ()
) -> Generator[list[str], None, None]:
    """A Bay that answers; gives what it printed, up to the last line of it."""
    with open(os.devnull, "wb") as null:
        server = forked_bay.fork(["serve", "--port", "0", *arguments], environment, null.fileno())
    assert server.stdout is not None
    with server.stdout as lines:
        said = [lines.readline().decode().rstrip("\n")]
        try:
            while "/docs" not in said[-1]:
                said.append(lines.readline().decode().rstrip("\n"))
            yield said
        finally:
            run(environment, "rm", "--all")  # they would go on without it
            server.send_signal(number)
            server.wait(WAIT_S)


def test_root_needs_neither_url_nor_key(environment: dict[str, str]) -> None:
    with serving(environment) as said:
        url = said[0].removeprefix("Bay serves at ")
        assert run(environment, "create", "web").returncode == 0
        assert run(environment | {"BAY_URL": url + "/"}, "get", "web").returncode == 0
        assert run(environment, "run", "echo", "hi").stdout == "hi\n"
        elsewhere = run(environment | {"BAY_URL": url.replace("127.0.0.1", "localhost")}, "ls")
        assert (elsewhere.returncode, "BAY_API_KEY" in elsewhere.stderr) == (2, True)
        assert "admin.key" in elsewhere.stderr
        wrong = run(environment | {"BAY_API_KEY": "bay_wrong"}, "ls")
        assert (wrong.returncode, "BAY_API_KEY" in wrong.stderr) == (2, True)


def test_serve_prints_lines_that_a_shell_takes(environment: dict[str, str]) -> None:
    with serving(environment) as said:
        exports = "\n".join(line for line in said if line.startswith("  export "))
        script = f"{exports}\n{BIN} create web && {BIN} ls"
        done = subprocess.run(
            ["sh", "-c", script], capture_output=True, text=True, timeout=60, check=False, env=bare()
        )
        assert (done.returncode, " web " in done.stdout) == (0, True)
        secret = next(line for line in said if line.startswith("API key")).rpartition(" ")[2]
        assert sum(secret in line for line in said) == 1
        tried = said[-1].split("`")[1]
        done = subprocess.run(
            ["sh", "-c", tried], capture_output=True, text=True, timeout=60, check=False, env=environment
        )
        assert (done.stdout, done.returncode) == ("hello\n", 0)
    with serving(environment) as again:
        assert not any(secret in line for line in again)
        assert sum(line.startswith("  export ") for line in again) == 2


def test_serve_says_it_to_programs_too(environment: dict[str, str]) -> None:
    with serving(environment, arguments=("--json",)) as said:
        [line] = said
        told = json.loads(line)
        known = bare() | {"BAY_URL": told["url"], "BAY_API_KEY": told["api_key"]}
        assert run(known, "ls", "-q").returncode == 0
        assert Path(told["key_file"]).read_text().strip() == told["api_key"]
        taken = run(environment, "serve", "--port", "0", "--json")
        assert json.loads(taken.stderr)["error"]["code"] == "conflict"
    with serving(environment, arguments=("--json",)) as said:
        assert "api_key" not in json.loads(said[0])


def test_serve_with_a_given_key_names_no_file(environment: dict[str, str]) -> None:
    with serving(environment | {"BAY_API_KEY": "bay_" + "k" * 40}) as said:
        assert not any("API_KEY" in line or "kkk" in line for line in said)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_key_is_not_sent_where_a_bay_was(
    environment: dict[str, str], thief: tuple[str, list[str | None]], number: int
) -> None:
    url, seen = thief
    with serving(environment, number):
        assert run(environment, "ls").returncode == 0
    lock = Path(environment["BAY_DATA_DIR"]) / "bay.lock"
    lock.write_text(url)  # the port of the one that ended is another's now
    run(environment, "ls")
    run(environment | {"BAY_URL": url}, "ls")
    assert [key for key in seen if key] == []


def test_the_key_is_not_sent_elsewhere_while_a_bay_runs(
    environment: dict[str, str], thief: tuple[str, list[str | None]]
) -> None:
    url, seen = thief
    with serving(environment):
        run(environment | {"BAY_URL": url}, "ls")
        run(environment, "--url", url, "ls")
        lock = Path(environment["BAY_DATA_DIR"]) / "bay.lock"
        lock.chmod(0o666)  # others may have written it
        lock.write_text(url)
        run(environment, "ls")
    assert seen != []
    assert [key for key in seen if key] == []
