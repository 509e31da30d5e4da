"""First contact with a real Bay: what `bay` says of sandboxes, ports and paths, and to whoever
is not root.
"""

import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bay.server import embedded

pytestmark = pytest.mark.host

BIN = Path(sys.executable).parent / "bay"
ROOT = Path(__file__).parents[2]
NOBODY = 65534


def bare() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("BAY_")}


@dataclass(frozen=True)
class Bay:
    """A real Bay, and how to run the executable for it."""

    environment: dict[str, str]

    def __call__(self, *arguments: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
        command = [str(BIN), *arguments]
        return subprocess.run(
            command,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=self.environment,
        )


@pytest.fixture(scope="module")
def bay() -> Iterator[Bay]:
    # Not tmp_path: the paths of sockets are at most 107 bytes long.
    with (
        tempfile.TemporaryDirectory(prefix="bay-", dir="/tmp") as root,
        embedded.start(driver="fake", run_dir=Path(root)) as (url, key),
    ):
        made = Bay(bare() | {"BAY_URL": url, "BAY_API_KEY": key})
        assert made("create", "web", "--wait", "30").returncode == 0
        yield made
        made("rm", "--all")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("create --profile nope", "there is no profile nope; there is e2b or python-default or sprite"),
        ("create --image Python:3.12", "is not an image reference"),
        ("create --isolation gvisor", "gvisor is not available here; there is container"),
        ("exec --cwd sub web true", "there is no directory"),
        ("shell web", "bay shell needs a terminal"),
        ("shell web", "bay exec -i web sh"),
        ("exec -t web true", "leave -t out"),
        ("url web", "bay update web --url-port PORT"),
        ("url web 9", "bay url web 9 --expires 1h"),
        ("get wbe", "did you mean web?"),
    ],
)
def test_a_mistake_says_what_there_is_instead(bay: Bay, line: str, said: str) -> None:
    done = bay(*line.split())
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert said in done.stderr
    assert "update(" not in done.stderr
    assert "ports.link" not in done.stderr


def is_open(url: str) -> bool:
    """Whether somebody without a key is let in; the names of `localhost` lead here whatever the host's
    resolver knows.
    """
    host = url.removeprefix("http://").rstrip("/")
    with closing(socket.create_connection(("127.0.0.1", int(host.rpartition(":")[2])), 10)) as line:
        line.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        return not line.recv(64).startswith(b"HTTP/1.1 401")


def test_a_public_port_is_public_at_the_sandbox_s_own_url_too(bay: Bay) -> None:
    # The driver isolates nothing: what listens here is what the sandbox has.
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as app:
        threading.Thread(target=app.serve_forever, daemon=True).start()
        port = str(app.server_port)
        assert bay("update", "web", "--url-port", port).returncode == 0
        url = bay("url", "web").stdout.strip()
        assert not is_open(url)
        for line, wanted in (
            (("ports", "web", "--public", port), True),
            (("ports", "web", "--private", port), False),
            (("url", "web", "--public"), True),
            (("url", "web", "--public", "--private"), True),
            (("url", "web", "--private"), False),
        ):
            bay(*line)
            assert is_open(url) == wanted, line
        app.shutdown()


AS_NOBODY = (
    "import os, sys, bay.server.embedded, bay.server.offline.doctor, bay.cli.commands.exec, bay.cli.commands.serve, bay.cli.main\n"
    f"os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})\n"
    "sys.exit(bay.cli.main.main(sys.argv[1:]))"
)
"""All is loaded before root is given up: a Python may be where others cannot read it."""


@pytest.mark.parametrize(
    ("line", "said"),
    [("serve --port 0", "needs root"), ("run true", "needs root"), ("doctor", "")],
)
def test_without_root_that_is_said_alone_and_nothing_is_left(tmp_path: Path, line: str, said: str) -> None:
    tmp_path.chmod(0o777)
    environment = bare() | {"BAY_DATA_DIR": str(tmp_path / "data"), "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, *line.split()], capture_output=True, text=True, timeout=60,
        check=False, env=environment, cwd="/",
    )  # fmt: skip
    assert done.returncode == 1
    assert said in done.stderr
    assert done.stderr.count("\n") == bool(said)
    assert [row.split()[0] for row in done.stdout.splitlines()] == ([] if said else ["CHECK", "root"])
    assert list(tmp_path.iterdir()) == []


def test_what_ends_make_serve_ends_bay(tmp_path: Path) -> None:
    environment = bare() | {"BAY_DRIVER": "fake", "BAY_RUN_DIR": str(tmp_path / "run")}
    command = ["make", "-s", "--old-file=.stamp-server", "serve", "PORT=0", f"DATA_DIR={tmp_path}/data"]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as make:
        assert make.stdout is not None
        url = make.stdout.readline().rpartition(" ")[2].strip()
        make.terminate()
        make.stdout.read()  # to its end: until nothing has it open any more
        make.wait(30)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), 10)
