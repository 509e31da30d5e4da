"""`bay proxy`, `bay ssh-proxy` and a stock ssh client through a real Bay and a real Ship, to programs on the
loopback device they share.
"""

import os
import pwd
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import tunnel_standin
from tunnel_standin import running

import bay
from bay.server import embedded

pytestmark = pytest.mark.host

BIN = Path(sys.executable).parent / "bay"
MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class Sandbox:
    """One sandbox of a real Bay, and how to run the executable for it."""

    id: str
    environment: dict[str, str]

    def run(self, *arguments: str, stdin: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
        command = [str(BIN), *arguments]
        return subprocess.run(
            command, input=stdin, capture_output=True, timeout=60, check=False, env=self.environment
        )

    @contextmanager
    def proxy(self, port: int) -> Generator[int]:
        """A `bay proxy` to that port; where it listens."""
        command = [str(BIN), "proxy", f"0:{port}", self.id]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=self.environment
        ) as process:
            assert process.stdout is not None
            assert select.select([process.stdout], [], [], 20)[0]
            yield int(process.stdout.readline().split()[0].rpartition(b":")[2])
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 130


@pytest.fixture(scope="module")
def box() -> Iterator[Sandbox]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("BAY_")}
    # Not tmp_path: the paths of sockets are at most 107 bytes long.
    with (
        tempfile.TemporaryDirectory(prefix="bay-", dir="/tmp") as root,
        embedded.start(driver="fake", run_dir=Path(root)) as (url, key),
        bay.Client(url, key, timeout_s=30) as client,
        client.sandbox() as made,
    ):
        yield Sandbox(made.id, clean | {"BAY_URL": url, "BAY_API_KEY": key})


def all_of(client: socket.socket) -> bytes:
    return b"".join(iter(lambda: client.recv(1 << 16), b""))


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=20)


def test_bytes_and_the_end_of_each_direction_come_through(box: Sandbox) -> None:
    with running(tunnel_standin.count) as app, box.proxy(app.server_address[1]) as port:
        for _ in range(3):
            with connect(port) as client:
                client.sendall(bytes(MEBIBYTE))
                client.shutdown(socket.SHUT_WR)
                assert all_of(client) == b"%d bytes\n" % MEBIBYTE
    with (
        running(tunnel_standin.greet) as app,
        box.proxy(app.server_address[1]) as port,
        connect(port) as client,
    ):
        assert all_of(client) == b"hello\n"
        client.sendall(b"thanks")


def test_a_reset_by_the_program_is_one_for_the_client(box: Sandbox) -> None:
    with (
        running(tunnel_standin.drop) as app,
        box.proxy(app.server_address[1]) as port,
        connect(port) as client,
    ):
        client.sendall(b"x")
        with pytest.raises(ConnectionResetError):
            client.recv(1)


def test_many_bytes_come_whole_to_a_client_that_began_late(box: Sandbox) -> None:
    source = tunnel_standin.Source(50 * MEBIBYTE)
    with running(source) as app, box.proxy(app.server_address[1]) as port, connect(port) as client:
        client.shutdown(socket.SHUT_WR)
        assert len(all_of(client)) == source.size


def test_ssh_proxy_is_stdin_and_stdout_with_their_ends(box: Sandbox) -> None:
    data = bytes(range(256)) * 4096
    with running(tunnel_standin.echo) as app:
        done = box.run("ssh-proxy", box.id, "--port", str(app.server_address[1]), stdin=data)
    assert (done.returncode, done.stdout, done.stderr) == (0, data, b"")


def test_ssh_proxy_to_a_closed_port_is_one_line_and_1(box: Sandbox) -> None:
    done = box.run("ssh-proxy", box.id, "--port", "1")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"error: nothing in the sandbox listens on port 1")
    assert done.stderr.count(b"\n") == 1


@pytest.fixture
def keys() -> Iterator[Path]:
    """Keys of a user and of a host.

    In the home directory: Dropbear takes none from below one that others may write to.
    """
    with tempfile.TemporaryDirectory(prefix=".bay-ssh-", dir=pwd.getpwuid(os.getuid()).pw_dir) as path:
        for name in ("host", "key"):
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f"{path}/{name}"]
            subprocess.run(command, check=True, timeout=30)
        convert = ["dropbearconvert", "openssh", "dropbear", f"{path}/host", f"{path}/dropbear"]
        subprocess.run(convert, check=True, capture_output=True, timeout=30)
        shutil.copy(f"{path}/key.pub", f"{path}/authorized_keys")
        yield Path(path)


def test_a_stock_ssh_client_gets_in_by_what_ssh_config_prints(
    box: Sandbox, keys: Path, tmp_path: Path
) -> None:
    def serve(client: socket.socket) -> None:
        command = ["/usr/sbin/dropbear", "-i", "-E", "-s", "-r", str(keys / "dropbear"), "-D", str(keys)]
        subprocess.run(command, stdin=client.fileno(), stdout=client.fileno(), check=False, timeout=60)

    user = pwd.getpwuid(os.getuid()).pw_name
    config = tmp_path / "config"
    data = os.urandom(2 * MEBIBYTE)
    with running(serve) as app:
        port = str(app.server_address[1])
        config.write_bytes(box.run("ssh-config", box.id, "--user", user, "--port", port).stdout)
        options = [
            f"IdentityFile={keys / 'key'}",
            f"UserKnownHostsFile={tmp_path / 'known'}",
            "BatchMode=yes",
        ]
        flags = [word for option in options for word in ("-o", option)]
        host = next(line.split()[1] for line in config.read_text().splitlines() if line.startswith("Host "))
        done = subprocess.run(
            ["ssh", "-F", str(config), *flags, host, "cat; exit 7"],
            input=data, capture_output=True, timeout=60, check=False, env=box.environment,
        )  # fmt: skip
    assert (done.returncode, done.stdout) == (7, data), done.stderr
