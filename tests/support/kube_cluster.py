"""The Kubernetes that the tests of tests/kubernetes run inside, as `scripts/kubernetes/run` starts them."""

import fcntl
import json
import os
import select
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

VARIABLE = "BAY_TEST_KUBERNETES"
NAMESPACE = "bay-sandboxes"
NODE = "node1"
# The programs of the node that a test may stop, by the names that `scripts/kubernetes/start` has for them.
PROGRAMS = ("api", "containerd", "controllers", "etcd", "kubelet", "provisioner", "scheduler")
WAIT_S = 90.0  # a pod that is deleted as it starts was seen to take 53 s

_SCRIPTS = Path(__file__).parents[2] / "scripts/kubernetes"
_HEALTH = "http://127.0.0.1:10248/healthz"


def is_inside() -> bool:
    """Whether this process is in the network of the Kubernetes that the variable names."""
    state = os.environ.get(VARIABLE)
    if state is None:
        return False
    return (Path(state) / "network").read_text().strip() == os.readlink("/proc/self/ns/net")


class Refused(Exception):
    """`kubectl` failed; its words are the message."""


class Cluster:
    """One node with its API server. Methods block, and raise TimeoutError after `WAIT_S` seconds."""

    def __init__(self, state: Path) -> None:
        self._state = state

    def kubeconfig(self, user: str) -> Path:
        """The client configuration, in JSON, of `bay`, which may do what Bay needs, or `admin`."""
        return self._state / "kubeconfig" / user

    def log(self, name: str) -> Path:
        """The log of one of `PROGRAMS`."""
        return self._state / "log" / name

    def kubectl(self, *args: str, user: str = "admin", text: str | None = None) -> str:
        """The output of `kubectl` in Bay's namespace, with `text` as its input. Raises Refused."""
        command = ["kubectl", "--kubeconfig", str(self.kubeconfig(user)), "--namespace", NAMESPACE, *args]
        try:
            done = subprocess.run(
                command, input=text, capture_output=True, text=True, timeout=WAIT_S, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise TimeoutError(f"kubectl {' '.join(args)} took more than {WAIT_S:g} s") from error
        if done.returncode != 0:
            raise Refused(done.stderr)
        return done.stdout

    def import_image(self, archive: Path) -> None:
        """Give the node the image of an archive. Raises CalledProcessError."""
        ctr = Path((self._state / "programs").read_text().strip()) / "tools/usr/bin/ctr"
        command = [
            ctr,
            "-a",
            "/run/containerd.sock",
            "-n",
            "k8s.io",
            "images",
            "import",
            "--no-unpack",
            archive,
        ]
        subprocess.run(command, capture_output=True, timeout=WAIT_S, check=True)

    def create(self, *objects: dict[str, Any], user: str = "bay") -> None:
        """Create objects in Bay's namespace. Raises Refused."""
        listed = {"apiVersion": "v1", "kind": "List", "items": objects}
        self.kubectl("create", "-f", "-", user=user, text=json.dumps(listed))

    def get(self, kind: str, name: str) -> dict[str, Any]:
        """The object. Raises Refused when there is none."""
        return json.loads(self.kubectl("get", kind, name, "-o", "json"))

    def wait_for(self, what: str, condition: str) -> None:
        """Wait for `condition=Ready`, `delete`, `jsonpath={.status.phase}=Bound` of an object `pod/name`."""
        self.kubectl("wait", what, f"--for={condition}", f"--timeout={WAIT_S - 5:g}s")

    def stop_kubelet(self) -> None:
        """Kill the kubelet. The pods go on; the node is Unknown 12 s later."""
        self.kill("kubelet")

    def start_kubelet(self) -> None:
        """Start it again, until the node is Ready."""
        self.start("kubelet")

    def stop_api(self) -> None:
        """Kill the API server: connections to it are refused."""
        self.kill("api")

    def start_api(self) -> None:
        """Start it again, until it says that it is ready."""
        self.start("api")

    def kill(self, name: str) -> None:
        """End one of `PROGRAMS` by SIGKILL, until it is gone."""
        process = os.pidfd_open(self._process(name))
        try:
            signal.pidfd_send_signal(process, signal.SIGKILL)
            if not select.select([process], [], [], WAIT_S)[0]:
                raise TimeoutError(f"{name} did not end")
        finally:
            os.close(process)

    def start(self, name: str) -> None:
        """Start a program that was killed, until it does its work."""
        subprocess.run([_SCRIPTS / "start", self._state, name], timeout=WAIT_S, check=True)
        if name in ("api", "etcd"):
            _until(self._is_ready, "the API server is not ready")
        if name == "kubelet":
            _until(_is_healthy, "the kubelet is not healthy")
            self.wait_for(f"node/{NODE}", "condition=Ready")

    def freeze(self, name: str) -> None:
        """Stop one of `PROGRAMS` by SIGSTOP: the kernel takes connections, and nothing answers."""
        process = self._process(name)
        os.kill(process, signal.SIGSTOP)
        _until(lambda: _state_of(process) == "T", f"{name} did not stop")

    def thaw(self, name: str) -> None:
        """Let it go on."""
        os.kill(self._process(name), signal.SIGCONT)

    @contextmanager
    def without(self, name: str) -> Generator[None]:
        """Kill one of `PROGRAMS` for the block, and start it again after it."""
        self.kill(name)
        try:
            yield
        finally:
            self.start(name)

    @contextmanager
    def frozen(self, name: str) -> Generator[None]:
        """Freeze one of `PROGRAMS` for the block."""
        self.freeze(name)
        try:
            yield
        finally:
            self.thaw(name)

    @contextmanager
    def second_node(self) -> Generator["SecondNode"]:
        """Have another node for the block, once no other process of the tests has it."""
        node = SecondNode(self._state)
        with (self._state / "second-node.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                node.tell("join")
                yield node
            finally:
                node.tell("leave")

    def _process(self, name: str) -> int:
        return int((self._state / "pid" / name).read_text())

    def _is_ready(self) -> bool:
        try:
            return self.kubectl("get", "--raw", "/readyz", "--request-timeout=5s") == "ok"
        except Refused:
            return False


class SecondNode:
    """The node `node2`, to which only pods come that tolerate `TAINT`. Methods block."""

    NAME = "node2"
    TAINT = "bay.test/second"

    def __init__(self, state: Path) -> None:
        self._state = state

    @contextmanager
    def cut_off(self) -> Generator[None]:
        """Take its network away for the block. All on it goes on."""
        self.tell("cut")
        try:
            yield
        finally:
            self.tell("heal")

    def tell(self, what: str) -> None:
        """One of the words of `scripts/kubernetes/second-node`, such as `kill`, which is a power cut."""
        subprocess.run([_SCRIPTS / "second-node", self._state, what], timeout=WAIT_S, check=True)


def _is_healthy() -> bool:
    try:
        with urllib.request.urlopen(_HEALTH, timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def _state_of(process: int) -> str:
    """The letter for the state of a process, such as T for one that is stopped."""
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]


def _until(condition: Callable[[], bool], trouble: str) -> None:
    end = time.monotonic() + WAIT_S
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(trouble)
        time.sleep(0.02)
