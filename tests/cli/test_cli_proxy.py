"""`bay proxy` and `bay ssh-proxy`: real sockets through the real executable, to real programs behind a
stand-in's tunnels.
"""

import hashlib
import os
import pwd
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import canned
import pytest
import tunnel_standin
from real_bay import KEY
from tunnel_standin import running

BIN = Path(sys.executable).parent / "bay"
NAME = "box"
MEBIBYTE = 1 << 20


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[str, tunnel_standin.World]]:
    with tunnel_standin.standing_in() as served:
        yield served


@pytest.fixture
def world(served: tuple[str, tunnel_standin.World]) -> tunnel_standin.World:
    served[1].ended.clear()
    return served[1]


def environment(url: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("BAY_")}
    return clean | {"BAY_URL": url, "BAY_API_KEY": KEY}


def start(url: str, *arguments: str) -> "subprocess.Popen[bytes]":
    """The real executable. Its pipes are not buffered here, so that `select` sees all there is."""
    command, pipe = [str(BIN), *arguments], subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0, env=environment(url))


class Proxy:
    """A `bay proxy` that runs; `ports` are those it listens on."""

    def __init__(self, url: str, *arguments: str, count: int = 1) -> None:
        self.process = start(url, "proxy", *arguments)
        self.said = [self._line() for _ in range(count)]
        self.ports = [int(found[1]) for line in self.said if (found := re.search(r":(\d+) ->", line))]

    def _line(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().decode().strip()

    def complaint(self) -> str:
        """The next line on stderr."""
        assert self.process.stderr
        assert select.select([self.process.stderr], [], [], 20)[0]
        return self.process.stderr.readline().decode().strip()

    def connect(self, index: int = 0) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.ports[index]), timeout=20)

    def end(self, number: int = signal.SIGINT) -> tuple[int, bytes]:
        """The exit code and what is left on stderr."""
        self.process.send_signal(number)
        _, left = self.process.communicate(timeout=20)
        return self.process.returncode, left

    @property
    def peak_bytes(self) -> int:
        """How much memory it had at most."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert found
        return int(found[1]) << 10


@contextmanager
def proxy(url: str, *arguments: str, count: int = 1) -> Generator[Proxy, None, None]:
    made = Proxy(url, *arguments, count=count)
    try:
        yield made
    finally:
        if made.process.poll() is None:
            made.process.kill()
        made.process.communicate(timeout=20)


def all_of(client: socket.socket) -> bytes:
    return b"".join(iter(lambda: client.recv(1 << 16), b""))


def was_reset(client: socket.socket) -> bool:
    """Whether it ends in a reset, and not in good order."""
    try:
        all_of(client)
    except ConnectionResetError:
        return True
    return False


def settled(read: Callable[[], int]) -> int:
    """A number once it has not changed for a while."""
    deadline = time.monotonic() + 20
    last = -1
    while (now := read()) != last:
        assert time.monotonic() < deadline
        last = now
        select.select([], [], [], 0.3)
    return now


def test_several_ports_at_once_with_half_closes(
    served: tuple[str, tunnel_standin.World], world: tunnel_standin.World
) -> None:
    with (
        running(tunnel_standin.echo) as one,
        running(tunnel_standin.count) as two,
        proxy(served[0], "0:80", "0:90", NAME, count=2) as bay,
    ):
        world.listen(80, one)
        world.listen(90, two)
        assert bay.said == [f"127.0.0.1:{bay.ports[0]} -> box:80", f"127.0.0.1:{bay.ports[1]} -> box:90"]
        with bay.connect() as client:
            client.sendall(b"hello")
            assert client.recv(5) == b"hello"
            client.shutdown(socket.SHUT_WR)
            assert client.recv(5) == b""
        with bay.connect(1) as client:
            client.sendall(bytes(MEBIBYTE))
            client.shutdown(socket.SHUT_WR)
            assert all_of(client) == b"%d bytes\n" % MEBIBYTE
        assert bay.end() == (130, b"")
    assert world.ended == ["eof", "eof"]


def test_the_program_may_end_its_direction_first(
    served: tuple[str, tunnel_standin.World], world: tunnel_standin.World
) -> None:
    with running(tunnel_standin.greet) as app, proxy(served[0], "0:80", NAME) as bay:
        world.listen(80, app)
        with bay.connect() as client:
            assert all_of(client) == b"hello\n"
            client.sendall(b"thanks")
            client.shutdown(socket.SHUT_WR)
        assert bay.end(signal.SIGTERM) == (143, b"")


def test_many_connections_at_once_each_get_their_own_bytes(
    served: tuple[str, tunnel_standin.World], world: tunnel_standin.World
) -> None:
    together = threading.Barrier(100, timeout=30)

    def talk(number: int) -> bool:
        data = number.to_bytes(4, "big") * 5000
        with bay.connect() as client:
            client.sendall(b"here")
            assert client.recv(4, socket.MSG_WAITALL) == b"here"
            together.wait()  # all of them stand at this moment
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            return all_of(client) == data

    with (
        running(tunnel_standin.echo) as app,
        proxy(served[0], "0:80", NAME) as bay,
        ThreadPoolExecutor(100) as threads,
    ):
        world.listen(80, app)
        assert all(threads.map(talk, range(100)))
        assert bay.end() == (130, b"")
    assert world.ended == ["eof"] * 100


def test_a_client_that_reads_nothing_is_not_read_for(
    served: tuple[str, tunnel_standin.World], world: tunnel_standin.World
) -> None:
    source = tunnel_standin.Source(50 * MEBIBYTE)
    with running(source) as app, proxy(served[0], "0:80", NAME) as bay:
        world.listen(80, app)
        with bay.connect() as client:
            before = bay.peak_bytes
            stuck = settled(lambda: source.sent)
            assert 0 < stuck < 30 * MEBIBYTE
            client.shutdown(socket.SHUT_WR)
            whole, size = hashlib.sha256(), 0
            while piece := client.recv(1 << 16):
                whole.update(piece)
                size += len(piece)
        assert size == source.sent == 50 * MEBIBYTE
        assert whole.digest() == hashlib.sha256(bytes(range(256)) * (size // 256)).digest()
        assert bay.peak_bytes - before < 16 * MEBIBYTE


def kernel_room() -> int:
    """Bytes that the kernel's buffers hold at most on the way: three connections, two buffers each. It makes
    them larger by itself, the more the busier the reader is.
    """
    tcp = Path("/proc/sys/net/ipv4")
    return 3 * sum(int((tcp / name).read_text().split()[2]) for name in ("tcp_rmem", "tcp_wmem"))


def test_a_program_that_reads_nothing_is_not_sent_more(
    served: tuple[str, tunnel_standin.World], world: tunnel_standin.World
) -> None:
    read_on = threading.Event()
    most = kernel_room() + 20 * MEBIBYTE

    def serve(client: socket.socket) -> None:
        read_on.wait(30)
        tunnel_standin.count(client)

    sent: list[int] = [0]

    def send(client: socket.socket) -> None:
        while sent[0] < most + 50 * MEBIBYTE:
            client.sendall(bytes(1 << 16))
            sent[0] += 1 << 16
        client.shutdown(socket.SHUT_WR)

    with running(serve) as app, proxy(served[0], "0:80", NAME) as bay:
        world.listen(80, app)
        with bay.connect() as client:
            before = bay.peak_bytes
            sender = threading.Thread(target=send, args=(client,), daemon=True)
            sender.start()
            assert settled(lambda: sent[0]) < most
            read_on.set()
            assert all_of(client) == b"%d bytes\n" % sent[0]
            sender.join(20)
        assert bay.peak_bytes - before < 16 * MEBIBYTE


def test_a_port_that_is_closed_is_a_reset_and_one_line_and_the_proxy_goes_on(
    served: tuple[str, tunnel_standin.World], world: tunnel_standin.World
) -> None:
    with running(tunnel_standin.greet) as app, proxy(served[0], "0:81", "0:80", NAME, count=2) as bay:
        world.listen(80, app)
        with bay.connect() as client:
            here = client.getsockname()[1]
            assert was_reset(client)
        expected = f"bay: 127.0.0.1:{here} -> box:81: nothing in the sandbox listens on port 81"
        assert bay.complaint() == expected
        with bay.connect(1) as client:
            assert client.recv(6, socket.MSG_WAITALL) == b"hello\n"
            client.shutdown(socket.SHUT_WR)
            assert client.recv(1) == b""
        assert bay.end() == (130, b"")


@pytest.mark.parametrize(
    ("code", "reason", "words"),
    [
        (1012, "Bay is shutting down", "Bay is shutting down"),
        (4403, "the key was revoked", "the key was revoked"),
        (4502, "the sandbox was stopped", "the sandbox was stopped"),
    ],
)
def test_a_server_that_hangs_up_is_a_reset_and_a_line(
    served: tuple[str, tunnel_standin.World], world: tunnel_standin.World, code: int, reason: str, words: str
) -> None:
    with running(tunnel_standin.echo) as app, proxy(served[0], "0:80", NAME) as bay:
        world.listen(80, app)
        with bay.connect() as one, bay.connect() as two:
            for client in (one, two):
                client.sendall(b"x")
                assert client.recv(1) == b"x"
            world.hang_up(code, reason)
            assert was_reset(one)
            assert was_reset(two)
        assert all(words in bay.complaint() for _ in range(2))
        with bay.connect() as client:
            client.sendall(b"y")
            assert client.recv(1) == b"y"


def test_a_program_that_resets_is_a_reset_here(
    served: tuple[str, tunnel_standin.World], world: tunnel_standin.World
) -> None:
    with running(tunnel_standin.drop) as app, proxy(served[0], "0:80", NAME) as bay:
        world.listen(80, app)
        with bay.connect() as client:
            client.sendall(b"x")
            assert was_reset(client)
        assert "reset" in bay.complaint()


def test_a_client_that_resets_is_a_reset_there_and_no_news(
    served: tuple[str, tunnel_standin.World], world: tunnel_standin.World
) -> None:
    ended = threading.Event()
    how: list[BaseException | None] = []

    def serve(client: socket.socket) -> None:
        try:
            while client.recv(1 << 16):
                client.sendall(b"on")
            how.append(None)
        except ConnectionError as error:
            how.append(error)
        finally:
            ended.set()

    with running(serve) as app, proxy(served[0], "0:80", NAME) as bay:
        world.listen(80, app)
        with bay.connect() as client:
            client.sendall(b"x")
            assert client.recv(2) == b"on"
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        assert ended.wait(20)
        assert isinstance(how[0], ConnectionError)
        assert bay.end() == (130, b"")


def test_ctrl_c_resets_what_is_under_way_and_says_nothing(
    served: tuple[str, tunnel_standin.World], world: tunnel_standin.World
) -> None:
    with running(tunnel_standin.echo) as app, proxy(served[0], "0:80", NAME) as bay:
        world.listen(80, app)
        with bay.connect() as client:
            client.sendall(b"x")
            assert client.recv(1) == b"x"
            assert bay.end() == (130, b"")
            assert was_reset(client)


def test_json_says_what_is_listened_on(served: tuple[str, tunnel_standin.World]) -> None:
    with proxy(served[0], "--json", "--bind", "127.0.0.2", "0:80", NAME) as bay:
        assert re.fullmatch(
            r'\{"address": "127.0.0.2", "port": \d+, "sandbox": "box", "remote": 80\}', bay.said[0]
        )


def run(url: str, *arguments: str, stdin: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(
        [str(BIN), *arguments],
        input=stdin,
        capture_output=True,
        timeout=30,
        check=False,
        env=environment(url),
    )


def test_a_port_that_is_taken_is_said_so(served: tuple[str, tunnel_standin.World]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run(served[0], "proxy", f"{port}:80", NAME)
    assert (done.returncode, done.stdout) == (1, b"")
    assert f"cannot listen on 127.0.0.1:{port}: ".encode() in done.stderr


@pytest.mark.parametrize("pair", ["x", "0", "80:", ":80", "1:70000", "70000:1", "1:2:3", "80/tcp"])
def test_what_is_no_pair_of_ports_is_refused(served: tuple[str, tunnel_standin.World], pair: str) -> None:
    done = run(served[0], "proxy", pair, NAME)
    assert done.returncode == 2
    assert b"is not LOCAL:REMOTE" in done.stderr


def test_a_server_that_is_not_there_is_one_line() -> None:
    done = run("http://127.0.0.1:9", "proxy", "0:80", NAME)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"error: cannot reach Bay")


# ssh-proxy


def test_ssh_proxy_is_stdin_and_stdout_with_their_ends(
    served: tuple[str, tunnel_standin.World], world: tunnel_standin.World
) -> None:
    data = bytes(range(256)) * 4096
    with running(tunnel_standin.echo) as app:
        world.listen(22, app)
        done = run(served[0], "ssh-proxy", NAME, stdin=data)
        assert (done.returncode, done.stdout, done.stderr) == (0, data, b"")
    with running(tunnel_standin.count) as app:
        world.listen(2222, app)
        done = run(served[0], "ssh-proxy", NAME, "--port", "2222", stdin=data)
        assert (done.returncode, done.stdout) == (0, b"%d bytes\n" % len(data))


def test_ssh_proxy_ends_with_the_program_also_while_stdin_is_open(
    served: tuple[str, tunnel_standin.World], world: tunnel_standin.World
) -> None:
    with running(tunnel_standin.greet) as app:
        world.listen(22, app)
        with start(served[0], "ssh-proxy", NAME) as process:
            assert process.stdout
            assert process.stdout.read() == b"hello\n"
            assert process.wait(20) == 0


def test_ssh_proxy_to_a_closed_port_is_one_line_and_1(served: tuple[str, tunnel_standin.World]) -> None:
    done = run(served[0], "ssh-proxy", NAME, "--port", "81")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr == b"error: nothing in the sandbox listens on port 81\n"


def test_ssh_proxy_says_when_the_tunnel_breaks(
    served: tuple[str, tunnel_standin.World], world: tunnel_standin.World
) -> None:
    with running(tunnel_standin.echo) as app:
        world.listen(22, app)
        with start(served[0], "ssh-proxy", NAME) as process:
            assert process.stdin
            assert process.stdout
            process.stdin.write(b"x")
            assert process.stdout.read(1) == b"x"
            world.hang_up(1012, "Bay is shutting down")
            _, said = process.communicate(timeout=20)
    assert process.returncode == 1
    assert b"the tunnel to port 22 broke" in said


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


@pytest.fixture
def ssh_server(keys: Path) -> Callable[[socket.socket], None]:
    """Dropbear, one for each connection."""

    def serve(client: socket.socket) -> None:
        command = ["/usr/sbin/dropbear", "-i", "-E", "-s", "-r", str(keys / "dropbear"), "-D", str(keys)]
        subprocess.run(command, stdin=client.fileno(), stdout=client.fileno(), check=False, timeout=60)

    return serve


def test_a_stock_ssh_client_gets_in_by_what_ssh_config_prints(
    served: tuple[str, tunnel_standin.World],
    world: tunnel_standin.World,
    ssh_server: Callable[[socket.socket], None],
    keys: Path,
    tmp_path: Path,
) -> None:
    user = pwd.getpwuid(os.getuid()).pw_name
    config = tmp_path / "config"
    config.write_bytes(run(served[0], "ssh-config", NAME, "--user", user).stdout)
    known = tmp_path / "known_hosts"
    options = [f"IdentityFile={keys / 'key'}", f"UserKnownHostsFile={known}", "BatchMode=yes"]
    flags = [word for option in options for word in ("-o", option)]
    command = ["ssh", "-F", str(config), *flags, f"bay-{NAME}"]
    data = os.urandom(2 * MEBIBYTE)
    with running(ssh_server) as app:
        world.listen(22, app)
        done = subprocess.run(
            [*command, "cat; echo there >&2; exit 7"],
            input=data,
            capture_output=True,
            timeout=60,
            check=False,
            env=environment(served[0]),
        )
    assert (done.returncode, done.stdout) == (7, data), done.stderr
    assert b"there" in done.stderr
    assert known.read_text().startswith(f"{canned.SANDBOX['id']} ")
