"""A Bay of one's own: `bay serve` on a free loopback port with a temporary directory, gone without trace
afterwards.
"""

import asyncio
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

from bay.client import Client
from bay.errors import BayError
from bay.linux import remove_tree
from examples import host_view

UNPOOLED = "[profiles.python-default]\n"
"""A configuration without the pool that a server keeps by default: the host has only what a client made."""

START_S = 60.0
END_S = 30.0


class ServerFailed(Exception):
    """`bay serve` did not start, or did not end as it should; the message has its last words."""


class OwnServer:
    """A server and the directory that holds everything it has on disk.

    It may be ended and started again, under the same URL and key; its sandboxes live on meanwhile. `config`
    is the text of its configuration file, read at each start.
    """

    def __init__(self, folder: Path, config: str = UNPOOLED) -> None:
        self.folder = folder
        self.config = config
        self.api_key = secrets.token_urlsafe(24)
        self._port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def pid(self) -> int:
        """The process that runs now, or ran last."""
        return self._started().pid

    def client(self) -> Client:
        """A client of it, to be closed by the caller.

        It gives up soon: a server on this machine answers or is gone.
        """
        return Client(self.url, self.api_key, retry_s=5)

    def start(self) -> None:
        """Start it and wait until it answers. Raises ServerFailed."""
        (self.folder / "bay.toml").write_text(self.config)
        with self._log.open("ab") as output:
            # A session of its own: Ctrl-C here must not end the server before its sandboxes are deleted.
            self._process = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=_environment(self.folder, self.api_key),
                start_new_session=True,
            )
        self._wait_healthy(self._process)

    def kill(self) -> None:
        """End it as a crash would."""
        self._started().kill()
        self._started().wait()

    def end(self) -> None:
        """End it as `bay serve` is ended, with a signal. Raises ServerFailed when it did not end well."""
        if self._process is not None and (code := _end(self._process)) != 0:
            raise ServerFailed(f"the server ended with code {code}:\n{self._tail()}")

    @property
    def _log(self) -> Path:
        return self.folder / "log"

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise ServerFailed("the server was not started")
        return self._process

    def _command(self) -> list[str | Path]:
        bay = Path(sys.executable).with_name("bay")
        where = ["--host", "127.0.0.1", "--port", str(self._port), "--data-dir", self.folder / "data"]
        return [bay, "serve", *where, "--config", self.folder / "bay.toml"]

    def _wait_healthy(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_S
        while not _healthy(self.url):
            if process.poll() is not None:
                raise ServerFailed(
                    f"the server ended at once, with code {process.returncode}:\n{self._tail()}"
                )
            if time.monotonic() > deadline:
                raise ServerFailed(f"the server does not answer after {START_S:g} s:\n{self._tail()}")
            time.sleep(0.01)

    def _tail(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-30:])


@contextmanager
def own_server(prefix: str, config: str = UNPOOLED) -> Generator[OwnServer]:
    """Start a server and, whatever happens, delete its sandboxes, end it and remove its directory.

    Raises ServerFailed when it does not start within a minute, does not end on SIGTERM, or leaves
    something on the host that had to be removed by force.
    """
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    folder.chmod(0o711)  # root inside a sandbox is nobody here, and must pass to reach its root file system
    try:
        with _running(OwnServer(folder, config)) as server:
            yield server
    finally:
        left = _remove(folder)
    if left:
        raise ServerFailed("the server left on the host: " + ", ".join(left))


@contextmanager
def _running(server: OwnServer) -> Generator[OwnServer]:
    try:
        server.start()
        with _sandboxes_deleted(server):
            yield server
    except BaseException:
        with suppress(ServerFailed):  # the first failure is what counts
            server.end()
        raise
    server.end()


def _environment(folder: Path, key: str) -> dict[str, str]:
    # The settings of a Bay that this person runs beside are not meant for this one.
    others = {name: value for name, value in os.environ.items() if not name.startswith("BAY_")}
    return {**others, "BAY_API_KEY": key, "BAY_RUN_DIR": str(folder / "run"), "BAY_LOG_FORMAT": "json"}


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


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
    # Never through a mount: what is below one may be the host's own files. And sandboxes nest deeper than
    # shutil goes.
    if not host_view.mounts_below(folder):
        asyncio.run(remove_tree.remove(folder))
    return left
