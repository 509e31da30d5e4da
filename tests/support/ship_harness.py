"""A real Ship in a process of its own, and a client for it."""

import atexit
import base64
import json
import os
import resource
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, cast

import httpx
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect as websocket_connect

from bay.drivers.oci import closure
from ship_protocol import bootstrap_token

_HARD = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (_HARD, _HARD))  # as Bay does, and as a sandbox has it

TOKEN = "a-token-of-the-tests"
BOOTSTRAP_TOKEN = bootstrap_token(TOKEN)
PATIENCE_S = 20.0
SOURCE = Path(__file__).parents[2] / "src"

# Login shells of root would run what this machine's root has in its profile, and be killed in the middle of
# it.
_WITHOUT_PROFILES = (
    "cd /root && for f in .profile .bash_profile .bash_login .bashrc; do"
    ' [ ! -e "$f" ] || mount --bind /dev/null "$f"; done; cd /; '
)

# As a pod's author and Kubernetes give it.
IN_A_POD = {
    "SHIP_LISTEN": "127.0.0.1:0",
    "SHIP_BOOTSTRAP_TOKEN": BOOTSTRAP_TOKEN,
    "SHIP_SWITCH": "0",
    "KUBERNETES_SERVICE_HOST": "192.0.2.1",
}
IN_ITS_PID_NAMESPACE = ("unshare", "--pid", "--ipc", "--fork", "--kill-child", "--mount-proc")
WITHOUT_RIGHTS = (
    *("setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "--no-new-privs"),
    *("--bounding-set=-all", "--inh-caps=-all"),
)

# As the oci driver gives them.
CAPABILITIES = "chown,dac_override,fowner,fsetid,kill,setgid,setpcap,setuid"


@dataclass
class Ended:
    """An exec's JSON, and its output as text."""

    json: dict[str, Any]

    @property
    def out(self) -> str:
        return base64.b64decode(self.json["stdout"]).decode()

    @property
    def err(self) -> str:
        return base64.b64decode(self.json["stderr"]).decode()

    @property
    def code(self) -> int | None:
        return self.json["exit_code"]


@dataclass
class Ship:
    """A running Ship. `http` sends the token."""

    process: subprocess.Popen[bytes]
    socket_path: Path
    workspace: Path
    mark: str
    address: str = ""
    """IP:PORT of one that is reached over TCP, in the place of its socket."""
    http: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        self.http = self.client(TOKEN)

    def client(self, token: str | None) -> httpx.Client:
        """Another client, with that token."""
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        if self.address:
            transport = httpx.HTTPTransport(verify=any_certificate())
        else:
            transport = httpx.HTTPTransport(uds=str(self.socket_path))
        base = f"https://{self.address}" if self.address else "http://ship"
        return httpx.Client(transport=transport, base_url=base, headers=headers, timeout=2 * PATIENCE_S)

    def run(self, command: str | list[str], wait: float = PATIENCE_S, **more: Any) -> Ended:
        """Start an exec and wait for its end."""
        answer = self.http.post("/execs", params={"wait": wait}, json=order(command, **more))
        assert answer.status_code == 200, answer.text
        return Ended(answer.json())

    def start(self, command: str | list[str], **more: Any) -> str:
        """Start an exec; its id."""
        answer = self.http.post("/execs", json=order(command, **more))
        assert answer.status_code == 201, answer.text
        return answer.json()["id"]

    def wait(self, exec_id: str, wait: float = PATIENCE_S) -> Ended:
        """The exec when it has ended."""
        answer = self.http.get(f"/execs/{exec_id}", params={"wait": wait})
        assert answer.status_code == 200, answer.text
        return Ended(answer.json())

    @contextmanager
    def follow(self, exec_id: str, since: int = 0, **more: str) -> Generator[Iterator[dict[str, Any]]]:
        """The lines of an exec's output as they come."""
        params = {"since": str(since), "follow": "true", **more}
        with self.http.stream("GET", f"/execs/{exec_id}/output", params=params) as answer:
            assert answer.status_code == 200
            yield (json.loads(line) for line in answer.iter_lines())

    def wait_output(self, exec_id: str, text: str) -> str:
        """All output up to and with `text`."""
        seen = ""
        with self.follow(exec_id) as lines:
            for line in lines:
                seen += base64.b64decode(line.get("data", "")).decode()
                if text in seen:
                    return seen
        raise AssertionError(f"{text!r} never came: {seen!r}")

    def get(self, path: str) -> httpx.Response:
        return self.http.get("/fs/content", params={"path": path, "beneath": "true"})

    def put(self, path: str, content: Any) -> httpx.Response:
        return self.http.put("/fs/content", params={"path": path, "beneath": "true"}, content=content)

    def delete(self, path: str) -> httpx.Response:
        return self.http.delete("/fs", params={"path": path, "beneath": "true"})

    def entries(self, path: str = ".") -> httpx.Response:
        order = {"follow": "true", "directories_first": "true"}
        return self.http.get("/fs/list", params={"path": path, "beneath": "true", **order})

    def listed(self, path: str = ".") -> tuple[list[dict[str, Any]], bool]:
        """The entries of a directory of the workspace, and whether some are missing."""
        *found, end = map(json.loads, self.entries(path).text.splitlines())
        return found, end["truncated"]

    def connect(self) -> socket.socket:
        """A raw connection."""
        if self.address:
            return connect_tls(self.address)
        raw = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        raw.settimeout(PATIENCE_S)
        try:
            raw.connect(str(self.socket_path))
        except OSError:
            raw.close()
            raise
        return raw

    def websocket(
        self, target: str, token: str | None = TOKEN, compression: str | None = None, **more: Any
    ) -> ClientConnection:
        """A WebSocket, by another implementation of the protocol."""
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        waits: dict[str, Any] = {"open_timeout": PATIENCE_S, "close_timeout": PATIENCE_S, "max_size": 2 << 20}
        connect = cast("Callable[..., ClientConnection]", websocket_connect)
        told = {"additional_headers": headers, "compression": compression, **waits, **more}
        return connect(f"ws://ship{target}", sock=self.connect(), **told)

    def send_raw(self, data: bytes) -> bytes:
        """What Ship answers to `data` until it closes."""
        with self.connect() as raw:
            raw.sendall(data)
            return read_to_end(raw)

    def rss(self) -> int:
        """Resident bytes of Ship."""
        pages = Path(f"/proc/{self.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    @property
    def pid(self) -> int:
        """Ship's own pid as the tests see it."""
        return self.process.pid

    def left(self) -> list[int]:
        """The pids of living programs that this Ship started."""
        return [pid for pid in living(self.mark) if pid not in (self.pid, self.process.pid)]


class FirstShip(Ship):
    """A Ship that is PID 1 of a pid namespace; `process` is the `unshare` around it."""

    @property
    def pid(self) -> int:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(children[0])


class HalfClosing(ssl.SSLSocket):
    """A TLS connection of which one direction may end, which Python's own forgets its keys at."""

    def shutdown(self, how: int) -> None:
        """Also of one direction, as of any socket."""
        if how == socket.SHUT_WR:
            socket.socket.shutdown(self, how)
        else:
            super().shutdown(how)


def any_certificate(least: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
    """A client's side of TLS that trusts anybody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = least
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.sslsocket_class = HalfClosing
    return context


def connect_tcp(address: str) -> socket.socket:
    """A raw connection to IP:PORT."""
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), PATIENCE_S)


def connect_tls(address: str) -> ssl.SSLSocket:
    """A connection to IP:PORT after its handshake."""
    return any_certificate().wrap_socket(connect_tcp(address))


def order(command: str | list[str], **more: Any) -> dict[str, Any]:
    kind = "command" if isinstance(command, str) else "argv"
    return {"id": f"exec-{uuid.uuid4().hex[:12]}", kind: command, **more}


def read_to_end(raw: socket.socket) -> bytes:
    received = b""
    while True:
        try:
            data = raw.recv(65536)
        except ConnectionResetError:
            return received
        if not data:
            return received
        received += data


def eventually(condition: Callable[[], bool], patience_s: float = PATIENCE_S) -> bool:
    """Whether `condition` became true; for what only the kernel's tables tell."""
    until = time.monotonic() + patience_s
    while time.monotonic() < until:
        if condition():
            return True
        os.sched_yield()
    return condition()


def living(mark: str) -> list[int]:
    """Pids (no zombies) of processes that have `mark` in their environment."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and _has(name, mark)]


def _has(pid: str, mark: str) -> bool:
    try:
        return mark.encode() in Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False


@contextmanager
def running(
    first: bool = False,
    loopback: bool = True,
    pod: bool = False,
    before: Sequence[str] = (),
    **settings: str,
) -> Generator[Ship]:
    """A Ship until the end of the block; `first`: as root and PID 1 of new namespaces, its programs uid 1000.
    `pod`: as PID 1 without any right, as uid 1000 like its programs, reached over TCP; `before` runs it.

    Fails when Ship leaves a process behind.
    """
    home = Path(tempfile.mkdtemp(prefix="ship-test-", dir="/tmp"))
    mark = f"ship-test-{uuid.uuid4().hex}"
    workspace = home / "workspace"
    workspace.mkdir()
    home.chmod(0o755)
    if first or pod:
        os.chown(workspace, 1000, 1000)
    told = {"SHIP_TOKEN": TOKEN, "SHIP_WORKSPACE": str(workspace), "SHIP_ALLOW_ROOT": "1"}
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(SOURCE),  # this checkout's Ship, whatever the interpreter has installed
        "TEST_MARK": mark,
    }
    if pod:
        environment |= IN_A_POD
    else:
        local = "0" if first else "1"
        environment |= {"SHIP_SOCKET": str(home / "ship.sock"), "SHIP_LOCAL": local, **told, **settings}
    process = subprocess.Popen(
        [*before, *_command(first, loopback, pod)],
        env=environment,
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
    )
    address = ""
    try:
        assert process.stdout
        if pod:
            address = read_address(process)
            configure(address, {**told, **settings})
        kind = FirstShip if first or pod else Ship
        ship = kind(process, home / "ship.sock", workspace, mark, address)
    except BaseException:
        _end(process, mark, home)
        raise
    try:
        assert process.stdout.readline() == b"ready\n"
        yield ship
        stop(ship)
        assert eventually(lambda: not living(mark), 5), "Ship left processes behind"
    finally:
        ship.http.close()
        _end(process, mark, home)


def _end(process: subprocess.Popen[bytes], mark: str, home: Path) -> None:
    _sweep(mark)
    process.kill()
    process.wait()
    if process.stdout:
        process.stdout.close()
    shutil.rmtree(home)


def read_address(process: subprocess.Popen[bytes]) -> str:
    """Where a Ship says that it listens."""
    assert process.stdout
    word, _, address = process.stdout.readline().decode().strip().partition(" ")
    assert word == "listening"
    return address


@contextmanager
def waiting() -> Generator[tuple[subprocess.Popen[bytes], str]]:
    """A Ship like a pod's that waits for its settings, and its address."""
    home = Path(tempfile.mkdtemp(prefix="ship-test-", dir="/tmp"))
    mark = f"ship-test-{uuid.uuid4().hex}"
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(SOURCE), "TEST_MARK": mark, **IN_A_POD}
    process = subprocess.Popen(
        _command(False, False, True), env=environment, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL
    )
    try:
        yield process, read_address(process)
    finally:
        _end(process, mark, home)


def configure(address: str, settings: dict[str, str], token: str = BOOTSTRAP_TOKEN) -> httpx.Response:
    """The answer of a Ship that is given its settings."""
    headers = {"Authorization": f"Bearer {token}"}
    with httpx.Client(verify=any_certificate(), timeout=PATIENCE_S) as client:
        return client.post(f"https://{address}/bootstrap", headers=headers, json=settings)


def stop(ship: Ship) -> int:
    """TERM, and the exit code."""
    if ship.process.poll() is None:
        os.kill(ship.pid, signal.SIGTERM)
    return ship.process.wait(PATIENCE_S)


def _command(first: bool, loopback: bool, pod: bool) -> list[str]:
    if pod:
        return [*IN_ITS_PID_NAMESPACE, *WITHOUT_RIGHTS, *_closed_ship()]
    ship = [sys.executable, "-m", "ship"]
    if not first:
        return ship
    unshare = ["unshare", "--pid", "--net", "--ipc", "--fork", "--kill-child", "--mount-proc"]
    limits = ",".join(f"+{name}" for name in CAPABILITIES.split(","))
    powers = ["setpriv", "--no-new-privs", f"--bounding-set=-all,{limits}", "--groups=4,27"]
    up = "ip link set lo up; " if loopback else ""
    return [*unshare, "sh", "-c", f'{up}{_WITHOUT_PROFILES}exec "$@"', "sh", *powers, *ship]


@cache
def _closed_ship() -> list[str]:
    """Ship as a pod has it, with all that it needs: any user may read that."""
    parent = Path(tempfile.mkdtemp(prefix="ship-test-", dir="/tmp"))
    atexit.register(shutil.rmtree, parent)
    parent.chmod(0o755)
    made = closure.build(parent)
    loader = next((made / "lib").glob("ld-linux*"))
    python = (str(loader), "--library-path", str(made / "lib"), str(made / "bin/python3"))
    return ["env", f"PYTHONHOME={made}", *python, "-I", "-S", "-B", "-m", "ship"]


def _sweep(mark: str) -> None:
    for pid in living(mark):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
