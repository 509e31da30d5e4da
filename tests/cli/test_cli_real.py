"""The `bay` executable and the server it starts, with the `fake` driver: real Ship, no isolation."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.host

BIN = Path(sys.executable).parent / "bay"
KEY = "bay_0123456789abcdef0123456789abcdef"


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    """Settings of a Bay of its own; short paths, because sockets have them."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("BAY_")}
    with tempfile.TemporaryDirectory(prefix="bay-", dir="/tmp") as root:
        yield clean | {
            "BAY_DRIVER": "fake",
            "BAY_RUN_DIR": f"{root}/run",
            "BAY_DATA_DIR": f"{root}/data",
            "BAY_API_KEY": KEY,
        }


def run(environment: dict[str, str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [str(BIN), *arguments], capture_output=True, text=True, timeout=60, check=False, env=environment
    )


def test_run_without_a_server_brings_its_own(environment: dict[str, str]) -> None:
    done = run(environment, "run", "--", "sh", "-c", "echo alone; exit 3")
    assert (done.stdout, done.stderr, done.returncode) == ("alone\n", "", 3)


def test_run_without_a_server_ends_it_on_ctrl_c(environment: dict[str, str]) -> None:
    command = [str(BIN), "run", "--", "sh", "-c", "echo $$; exec sleep 60"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdout is not None
        pid = process.stdout.readline().strip().decode()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, b"")
    assert not Path(f"/proc/{pid}").exists()


def test_serve_says_where_it_is_serves_and_ends(environment: dict[str, str]) -> None:
    with subprocess.Popen(
        [str(BIN), "serve", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    ) as server:
        assert server.stdout is not None
        url = server.stdout.readline().rpartition(" ")[2].strip()
        known = environment | {"BAY_URL": url}
        pools = run(known, "admin", "pool", "--json").stdout
        assert [(pool["profile"], pool["size"]) for pool in map(json.loads, pools.splitlines())] == [
            ("python-default", 2)
        ]
        assert run(known, "ls", "--json").stdout == ""
        made = json.loads(run(known, "create", "--name", "web", "--wait", "30", "--json").stdout)
        assert made["status"] == "ready"
        assert run(known, "exec", "web", "--", "sh", "-c", "kill -9 $$").returncode == 137
        assert run(known, "exec", "web", "--timeout", "0.3", "--", "sleep", "60").returncode == 124
        assert run(known, "cp", str(BIN), "web:").returncode == 0
        assert run(known, "exec", "web", "--", "ls").stdout == "bay\n"
        assert run(known, "rm", "web").returncode == 0
        assert run(known, "get", "web").returncode == 2
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0


def test_serve_with_a_wrong_setting_says_which(environment: dict[str, str], tmp_path: Path) -> None:
    done = run(environment, "serve", "--config", str(tmp_path / "nope.toml"))
    assert done.returncode != 0
    assert "nope.toml" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("closed", "code"), [("<&-", 0), (">&-", 1), (">/dev/full", 1), ("2>&-", 0), ("<&- >&- 2>&-", 1)]
)
def test_closed_standard_streams_are_no_defect(environment: dict[str, str], closed: str, code: int) -> None:
    line = f'exec "{BIN}" run -- sh -c "echo out; echo err >&2" {closed}'
    buffered = {name: value for name, value in environment.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(["sh", "-c", line], capture_output=True, timeout=60, check=False, env=buffered)
    assert done.returncode == code, done.stderr
    assert b"defect" not in done.stderr
    assert done.stdout in (b"", b"out\n")
