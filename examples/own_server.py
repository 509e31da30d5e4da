"""A Bay of one's own: `bay serve` on a free loopback port with a temporary directory, gone without trace afterwards."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from bay.client import Client
from bay.errors import BayError
from examples import host_view

START_S = 60.0
END_S = 30.0


class ServerFailed(Exception):
    """`bay serve` did not start, or did not end as it should; the message has its last words."""


@dataclass(frozen=True, slots=True)
class OwnServer:
    """A running server. `folder` holds everything it has on disk."""

    url: str
    api_key: str = field(repr=False)
    folder: Path
    pid: int

    def client(self) -> Client:
        """A client of it, to be closed by the caller. It gives up soon: a server on this machine answers or is gone."""
        return Client(self.url, self.api_key, retry_s=5)


@contextmanager
def own_server(prefix: str) -> Generator[OwnServer]:
    """Start a server and, whatever happens, delete its sandboxes, end it and remove its directory.

    Raises ServerFailed when it does not start within a minute, does not end on SIGTERM, or leaves
    something on the host that had to be removed by force.
    """
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    folder.chmod(0o711)  # root inside a sandbox is nobody here, and must pass to reach its root file system
    try:
        with _process(folder) as server:
            yield server
    finally:
        left = _remove(folder)
    if left:
        raise ServerFailed("the server left on the host: " + ", ".join(left))


@contextmanager
def _process(folder: Path) -> Generator[OwnServer]:
    key, port, log = secrets.token_urlsafe(24), _free_port(), folder / "log"
    command = [Path(sys.executable).with_name("bay"), "serve", "--host", "127.0.0.1", "--port", str(port)]
    with log.open("wb") as output:
        # A session of its own: Ctrl-C here must not end the server before its sandboxes are deleted.
        process = subprocess.Popen(
            [*command, "--data-dir", folder / "data"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=_environment(folder, key),
            start_new_session=True,
        )
    server = OwnServer(f"http://127.0.0.1:{port}", key, folder, process.pid)
    try:
        _wait_healthy(server, process, log)
        with _sandboxes_deleted(server):
            yield server
    finally:
        code = _end(process)
    if code != 0:
        raise ServerFailed(f"the server ended with code {code}:\n{_tail(log)}")


def _environment(folder: Path, key: str) -> dict[str, str]:
    # The settings of a Bay that this person runs beside are not meant for this one.
    others = {name: value for name, value in os.environ.items() if not name.startswith("BAY_")}
    return {**others, "BAY_API_KEY": key, "BAY_RUN_DIR": str(folder / "run"), "BAY_LOG_FORMAT": "json"}


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def _wait_healthy(server: OwnServer, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while not _healthy(server.url):
        if process.poll() is not None:
            raise ServerFailed(f"the server ended at once, with code {process.returncode}:\n{_tail(log)}")
        if time.monotonic() > deadline:
            raise ServerFailed(f"the server does not answer after {START_S:g} s:\n{_tail(log)}")
        time.sleep(0.01)


def _healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=2, trust_env=False, verify=False).is_success  # noqa: S501  plain http
    except httpx.TransportError:
        return False


@contextmanager
def _sandboxes_deleted(server: OwnServer) -> Generator[None]:
    """Delete every sandbox at the end; when the block failed, its failure is what counts."""
    try:
        yield
    except BaseException:
        with suppress(BayError):  # whatever stays is removed by force
            _delete_sandboxes(server)
        raise
    _delete_sandboxes(server)


def _delete_sandboxes(server: OwnServer) -> None:
    with server.client() as client:
        for box in list(client.sandboxes.list()):
            box.delete()


def _end(process: subprocess.Popen[bytes]) -> int:
    """Ask it to end, insist after `END_S`; its exit code."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        return process.wait(END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def _remove(folder: Path) -> list[str]:
    """Remove `folder` and what stands on it; what was still there, in words."""
    left = host_view.remove_containers(folder) + host_view.unmount_below(folder)
    # Never through a mount: what is below one may be the host's own files.
    if not host_view.mounts_below(folder):
        shutil.rmtree(folder)
    return left


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-30:])
