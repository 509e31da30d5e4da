"""A real Ship in a process of its own, and a client for it."""

import base64
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

_HARD = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (_HARD, _HARD))  # as Bay does, and as a sandbox has it

TOKEN = "a-token-of-the-tests"
PATIENCE_S = 20.0
SOURCE = Path(__file__).parents[2] / "src"

# Login shells of root would run what this machine's root has in its profile, and be killed in the middle of
# it.
_WITHOUT_PROFILES = (
    "cd /root && for f in .profile .bash_profile .bash_login .bashrc; do"
    ' [ ! -e "$f" ] || mount --bind /dev/null "$f"; done; cd /; '
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
    http: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        self.http = self.client(TOKEN)

    def client(self, token: str | None) -> httpx.Client:
        """Another client, with that token."""
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        transport = httpx.HTTPTransport(uds=str(self.socket_path))
        return httpx.Client(
            transport=transport, base_url="http://ship", headers=headers, timeout=2 * PATIENCE_S
        )

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
        raw = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        raw.settimeout(PATIENCE_S)
        try:
            raw.connect(str(self.socket_path))
        except OSError:
            raw.close()
            raise
        return raw

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
def running(first: bool = False, loopback: bool = True, **settings: str) -> Generator[Ship]:
    """A Ship until the end of the block; `first`: as root and PID 1 of new namespaces, its programs uid 1000.

    Fails when Ship leaves a process behind.
    """
    home = Path(tempfile.mkdtemp(prefix="ship-test-", dir="/tmp"))
    mark = f"ship-test-{uuid.uuid4().hex}"
    workspace = home / "workspace"
    workspace.mkdir()
    home.chmod(0o755)
    if first:
        os.chown(workspace, 1000, 1000)
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(SOURCE),  # this checkout's Ship, whatever the interpreter has installed
        "TEST_MARK": mark,
        "SHIP_SOCKET": str(home / "ship.sock"),
        "SHIP_TOKEN": TOKEN,
        "SHIP_WORKSPACE": str(workspace),
        "SHIP_ALLOW_ROOT": "1",
        "SHIP_LOCAL": "0" if first else "1",
        **settings,
    }
    process = subprocess.Popen(
        _command(first, loopback), env=environment, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL
    )
    ship = (FirstShip if first else Ship)(process, home / "ship.sock", workspace, mark)
    try:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        yield ship
        stop(ship)
        assert eventually(lambda: not living(mark), 5), "Ship left processes behind"
    finally:
        ship.http.close()
        _sweep(mark)
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()
        shutil.rmtree(home)


def stop(ship: Ship) -> int:
    """TERM, and the exit code."""
    if ship.process.poll() is None:
        os.kill(ship.pid, signal.SIGTERM)
    return ship.process.wait(PATIENCE_S)


def _command(first: bool, loopback: bool) -> list[str]:
    ship = [sys.executable, "-m", "ship"]
    if not first:
        return ship
    unshare = ["unshare", "--pid", "--net", "--ipc", "--fork", "--kill-child", "--mount-proc"]
    limits = ",".join(f"+{name}" for name in CAPABILITIES.split(","))
    powers = ["setpriv", "--no-new-privs", f"--bounding-set=-all,{limits}", "--groups=4,27"]
    up = "ip link set lo up; " if loopback else ""
    return [*unshare, "sh", "-c", f'{up}{_WITHOUT_PROFILES}exec "$@"', "sh", *powers, *ship]


def _sweep(mark: str) -> None:
    for pid in living(mark):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
