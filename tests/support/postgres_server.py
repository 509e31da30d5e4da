"""A real PostgreSQL server for the tests, and a fresh database of it for each test.

The server listens on a Unix socket, since the tests have a network of their own, and for pods on an address
too. It keeps nothing, so it syncs nothing. Each process of the tests has its own, from the first test that
wants one, and a guard: a small process that ends the server and removes its files once that process is
gone, also when it was killed.
"""

import atexit
import ctypes
import itertools
import os
import pwd
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

USER = "bay"
WAIT_S = 60.0
_BINARIES = "/usr/lib/postgresql"
_IN_MEMORY = Path("/dev/shm")
_PR_SET_PDEATHSIG = 1
_INITDB = (
    "-U",
    USER,
    "-A",
    "trust",
    "--no-locale",
    "-E",
    "UTF8",
    "--no-sync",
    "--no-instructions",
    "--wal-segsize=1",
)
_SETTINGS = {
    "unix_socket_permissions": "0777",
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "autovacuum": "off",
    "shared_buffers": "16MB",
    "max_connections": "60",
    "min_wal_size": "2MB",
    "max_wal_size": "64MB",
    "max_wal_senders": "0",
    "wal_level": "minimal",
    "log_min_messages": "panic",
}
_READY, _END = b"ready\n", b"."


def binaries() -> Path | None:
    """The folder of the newest server that is installed."""
    found = sorted(Path(_BINARIES).glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    return found[-1].parent if found else None


class PostgresServer:
    """A server that runs. Its databases are made from templates, each of which is made once."""

    def __init__(self, directory: Path) -> None:
        # Not at the top: what starts no server needs no driver.
        import psycopg  # noqa: PLC0415

        self.directory = directory
        self._admin: Any = psycopg.connect(self._dsn("postgres"), autocommit=True)
        self._numbers = itertools.count(1)
        self._templates: dict[Callable[[str], object], str] = {}

    def url(self, name: str) -> str:
        """The URL of one of its databases."""
        return f"postgresql://{USER}@/{name}?host={self.directory}"

    @contextmanager
    def database(self, fill: Callable[[str], object] | None = None) -> Generator[str]:
        """The URL of a database of the block's own, dropped after it with every connection to it. It is
        empty, or as `fill` makes a database whose URL it is given; `fill` is called once.
        """
        name = self._create(self._template(fill))
        try:
            yield self.url(name)
        finally:
            self._drop(name)

    def databases(self) -> set[str]:
        """The names of all databases but those of the server itself."""
        rows = self._admin.execute("SELECT datname FROM pg_database WHERE NOT datistemplate").fetchall()
        return {name for (name,) in rows} - {"postgres", *self._templates.values()}

    def aclose(self) -> None:
        """Let its own connection go."""
        self._admin.close()

    def _dsn(self, name: str) -> str:
        return f"host={self.directory} user={USER} dbname={name}"

    def _template(self, fill: Callable[[str], object] | None) -> str:
        if fill is None:
            return "template1"
        if fill not in self._templates:
            name = self._create("template1")
            try:
                fill(self.url(name))
            except BaseException:
                self._drop(name)
                raise
            self._templates[fill] = name
        return self._templates[fill]

    def _create(self, template: str) -> str:
        name = f"test_{next(self._numbers)}"
        self._admin.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name

    def _drop(self, name: str) -> None:
        self._admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def running(address: str = "") -> Generator[PostgresServer]:
    """A server in the block, and nothing of it afterwards. It also listens on port 5432 of `address`."""
    guard, directory = _start_guard(address)
    try:
        server = PostgresServer(directory)
        try:
            yield server
        finally:
            server.aclose()
    finally:
        _end_guard(guard)


@cache
def shared() -> PostgresServer:
    """The server of this process, which ends with it."""
    guard, directory = _start_guard()
    server, own = PostgresServer(directory), os.getpid()

    def end() -> None:
        if os.getpid() == own:  # and in no process that was forked from it
            server.aclose()
            _end_guard(guard)

    atexit.register(end)
    return server


def _start_guard(address: str = "") -> "tuple[subprocess.Popen[bytes], Path]":
    directory = Path(tempfile.mkdtemp(prefix="bay-pg-", dir=_IN_MEMORY if _IN_MEMORY.is_dir() else "/tmp"))
    command = [sys.executable, "-I", "-S", __file__, str(os.getpid()), str(directory), address]
    guard = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    assert guard.stdout is not None
    said = b""
    while select.select([guard.stdout], [], [], WAIT_S)[0] and (line := guard.stdout.readline()):
        said += line
        if line == _READY:
            return guard, directory
    _end_guard(guard)
    raise AssertionError(f"the PostgreSQL server does not come up: {said.decode(errors='replace')}")


def _end_guard(guard: "subprocess.Popen[bytes]") -> None:
    assert guard.stdin is not None
    assert guard.stdout is not None
    with suppress(BrokenPipeError):
        guard.stdin.write(_END)
        guard.stdin.flush()
    guard.wait(WAIT_S)
    guard.stdin.close()
    guard.stdout.close()


# The guard, which is this file as a program: no library, no environment of the tests.


def _guard(parent: int, directory: Path, address: str) -> None:
    """Run a server in `directory` until `parent` says the word or is gone."""
    watched = os.pidfd_open(parent)
    try:
        if os.getppid() == parent:
            _serve(watched, directory, address)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _serve(watched: int, directory: Path, address: str) -> None:
    found = binaries()
    if found is None:
        raise SystemExit("PostgreSQL is not installed")
    data, path = directory / "data", directory / "log"
    _give_away(directory)
    with path.open("xb") as log:
        made = _popen([found / "initdb", *_INITDB, "-D", data], log).wait() == 0
        settings = {**_SETTINGS, "listen_addresses": address}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        if made and address:
            with (data / "pg_hba.conf").open("a") as access:
                access.write("host all all 0.0.0.0/0 trust\n")
        server = _popen([found / "postgres", "-D", data, "-k", directory, *options], log) if made else None
    if server is None:
        raise SystemExit(path.read_text(encoding="utf-8"))
    try:
        _wait_until_ready(server, data / "postmaster.pid")
        sys.stdout.buffer.write(_READY)
        sys.stdout.buffer.flush()
        ended = os.pidfd_open(server.pid)
        select.select([watched, ended, sys.stdin.buffer], [], [])
    finally:
        server.send_signal(signal.SIGQUIT)
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _wait_until_ready(server: "subprocess.Popen[bytes]", pidfile: Path) -> None:
    ended = os.pidfd_open(server.pid)
    for _ in range(int(WAIT_S / 0.01)):
        # The eighth line of the file, as pg_ctl reads it.
        with suppress(OSError):
            lines = pidfile.read_text(encoding="utf-8").splitlines()
            if len(lines) > 7 and lines[7].strip() == "ready":
                os.close(ended)
                return
        if select.select([ended], [], [], 0.01)[0]:
            break
    raise SystemExit(pidfile.parents[1].joinpath("log").read_text(encoding="utf-8"))


def _account() -> pwd.struct_passwd | None:
    """Who runs the server: root may not."""
    return pwd.getpwnam("postgres") if os.geteuid() == 0 else None


def _give_away(directory: Path) -> None:
    account = _account()
    directory.chmod(0o711)
    if account is not None:
        os.chown(directory, account.pw_uid, account.pw_gid)


def _popen(command: Sequence[str | Path], log: BinaryIO) -> "subprocess.Popen[bytes]":
    account, libc = _account(), ctypes.CDLL(None)
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.STDOUT,
        stdout=log,
        env={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},
        cwd="/",
        start_new_session=True,
        # Should the guard itself be killed, the server ends at once.
        preexec_fn=lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT),
        user=account and account.pw_uid,
        group=account and account.pw_gid,
        extra_groups=account and [],
    )


if __name__ == "__main__":
    _guard(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
