"""Several `bay serve` processes on one PostgreSQL database and one data directory, each on a port of its own.

The processes are real: they are killed, frozen and ended by signals, by their ids. Whatever a test does to
them, none of them outlives it, and no Ship that they started, which a killed Bay leaves behind.
"""

import json
import os
import signal
import subprocess
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, LiteralString, cast

import forked_bay
import haproxy
import httpx
import postgres_databases
import postgres_server
import psycopg
import serving
from anyio.from_thread import start_blocking_portal
from forked import Forked
from server_harness import clear, ships, short_dir

from bay.linux.processes import kill_and_wait

KEY = serving.KEY
"""The administrator's at each replica."""

WAIT_S = 60.0
"""Bound of every wait here: a start under load takes several seconds."""

LOST = "lost"

_MORE = 2
"""For how many replicas that a test adds the balancer has a place."""

_PAUSE_S = 0.02
_TAIL = 6000
_PROFILES = {"python-default": {}, "lazy": {"start": "lazy"}, "sprite": {}}


@dataclass(frozen=True, slots=True)
class Replica:
    """A process, and where it answers."""

    process: Forked
    url: str


class ReplicaBays:
    """The processes by their numbers, from 0 on. `ports` are those where they listen, by number, and
    `settings` the `BAY_…` variables of each of them. `address` is the URL of the balancer before them.
    """

    def __init__(self, root: Path, address: str, ports: Sequence[int], settings: Mapping[str, str]) -> None:
        self.root = root
        self.address = address
        self.database_url = postgres_databases.url_for(root)
        shared = {
            "BAY_DATABASE_URL": self.database_url,
            "BAY_PROFILES": json.dumps(_PROFILES),
            "BAY_PUBLIC_URL": address,
            "BAY_REPLICAS": "true",
        }
        self._settings = serving.environment(root, **{**shared, **settings})
        self._ports = ports
        self._running: dict[int, Replica] = {}
        self._urls: dict[int, str] = {}

    @property
    def numbers(self) -> list[int]:
        """Of those that were started and neither killed nor stopped."""
        return sorted(self._running)

    def start(self, *numbers: int, migrations: Path | None = None) -> None:
        """Start those, all at once, and wait until each is ready. `migrations`: of another version."""
        begun = {number: self._fork(number, migrations) for number in numbers}
        for number, process in begun.items():
            self._running[number] = Replica(process, self._url_of(number, process))
            self._urls[number] = self.url(number)
        for number in numbers:
            self._wait_ready(number)

    def refused(self, migrations: Path) -> str:
        """What a replica of another version says that does not start."""
        ended = forked_bay.run(["serve"], self._of_version(migrations), timeout_s=WAIT_S)
        assert ended.returncode == 1, ended
        return ended.stderr.decode()

    def migrate(self, migrations: Path) -> "subprocess.CompletedProcess[bytes]":
        """`bay admin migrate-database` of another version."""
        arguments = ["admin", "migrate-database"]
        return forked_bay.run(arguments, self._of_version(migrations), timeout_s=WAIT_S)

    def kill(self, number: int) -> None:
        """SIGKILL, and wait until it is gone."""
        self._end(number, signal.SIGKILL)

    def stop(self, number: int) -> int:
        """SIGTERM, and wait until it is gone; gives its exit code."""
        return self._end(number, signal.SIGTERM)

    def freeze(self, number: int) -> None:
        """SIGSTOP: it does nothing from now on, its connections stay open, and its clock runs on."""
        self._running[number].process.send_signal(signal.SIGSTOP)
        stat = Path(f"/proc/{self.pid(number)}/stat")
        _until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", f"replica {number} runs on")

    def thaw(self, number: int) -> None:
        """SIGCONT."""
        self._running[number].process.send_signal(signal.SIGCONT)

    def url(self, number: int) -> str:
        return self._running[number].url

    def pid(self, number: int) -> int:
        return self._running[number].process.pid

    def key_of(self, owner: str, scope: str = "write", number: int = 0) -> str:
        """A new key of `owner`, made at that replica."""
        body = {"name": f"{owner}-{scope}", "owner": owner, "scope": scope}
        with self._admin(number) as admin:
            return _answered(admin.post("/v1/keys", json=body))["secret"]

    def ships(self) -> dict[str, set[int]]:
        """The first processes of the Ships that live, by sandbox. One whose directory was removed, and which
        so is lost to every Bay, is of the sandbox `lost`.
        """
        found: dict[str, set[int]] = {}
        everyone = set(ships(self.root))
        for pid in everyone:
            try:
                place = os.readlink(f"/proc/{pid}/cwd")
                parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
                is_lost = place.endswith(" (deleted)") and Path(place).parent.parent.name == "run"
                sandbox = LOST if is_lost else json.loads(Path(place, "state.json").read_text())["sandbox_id"]
            except (OSError, ValueError):  # its end is under way, or it is a program of the sandbox
                continue
            if parent not in everyone:
                found.setdefault(sandbox, set()).add(pid)
        return found

    def leases(self, number: int) -> set[str]:
        """What that replica holds, by the database; also of one that was killed."""
        query = (
            "SELECT l.name FROM leases l JOIN replicas r ON r.id = l.holder "
            "WHERE r.url = %s AND l.until > now()"
        )
        return {str(name) for (name,) in self.sql(query, self._urls[number])}

    def holder(self, number: int) -> str:
        """The name of that replica among the holders of leases."""
        ((name,),) = self.sql(
            "SELECT id FROM replicas WHERE url = %s ORDER BY started_at DESC LIMIT 1", self._urls[number]
        )
        return str(name)

    def unheld(self, dead: str = "") -> set[str]:
        """What no replica holds but the one that is dead."""
        query = "SELECT name FROM leases WHERE holder IS NULL OR until <= now() OR holder = %s"
        return {str(name) for (name,) in self.sql(query, dead)}

    def sql(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Rows of the database that they share."""
        with psycopg.connect(self.database_url) as db:
            return db.execute(cast("LiteralString", query), values).fetchall()

    def logs(self) -> str:
        """The end of what each of them has logged."""
        logs = sorted(self.root.glob("log-*"))
        return "\n".join(f"--- {log.name}\n{log.read_text(errors='replace')[-_TAIL:]}" for log in logs)

    def end_all(self) -> None:
        """Kill all that run, also the frozen ones, and then every Ship."""
        for number in self.numbers:
            self.kill(number)
        with start_blocking_portal("asyncio") as portal:
            portal.call(clear, self.root)
        left = ships(self.root)
        kill_and_wait(left, WAIT_S)
        assert left == []

    def _admin(self, number: int) -> httpx.Client:
        headers = {"Authorization": f"Bearer {KEY}"}
        return httpx.Client(base_url=self.url(number), headers=headers, timeout=WAIT_S)

    def _fork(self, number: int, migrations: Path | None) -> Forked:
        own = {**self._of_version(migrations), "BAY_PORT": str(self._ports[number])}
        with (self.root / f"log-{number}").open("ab") as log:
            return forked_bay.fork(["serve"], own, log.fileno())

    def _of_version(self, migrations: Path | None) -> dict[str, str]:
        given = {} if migrations is None else {forked_bay.MIGRATIONS: str(migrations)}
        return {**self._settings, **given}

    def _url_of(self, number: int, process: Forked) -> str:
        line = serving.read_line(process, WAIT_S)
        assert line.startswith("Bay serves at "), line + self.logs()
        return line.split()[3]

    def _wait_ready(self, number: int) -> None:
        with self._admin(number) as admin:
            _until(
                lambda: admin.get("/health/ready").status_code == 200, f"replica {number} does not get ready"
            )

    def _end(self, number: int, how: signal.Signals) -> int:
        process = self._running.pop(number).process
        process.send_signal(how)
        try:
            return process.wait(WAIT_S)
        finally:
            process.kill()
            assert process.stdout is not None
            process.stdout.close()


def can_run() -> bool:
    """Whether what they need is installed."""
    return postgres_server.binaries() is not None and haproxy.PROGRAM is not None


@contextmanager
def replica_bays(count: int, **settings: str) -> Generator[ReplicaBays]:
    """So many replicas that are ready, with HAProxy before them and two more, until the block is left."""
    with short_dir() as root, ExitStack() as stack:
        port, *ports = haproxy.free_ports(1 + count + _MORE)
        bays = ReplicaBays(root, f"http://127.0.0.1:{port}", ports, settings)
        stack.callback(bays.end_all)
        bays.start(*range(count))
        stack.enter_context(haproxy.balancing(port, ports))
        yield bays


def _answered(answer: httpx.Response) -> Any:
    assert answer.is_success, answer.text
    return answer.json()


def _until(condition: Any, otherwise: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, otherwise
        time.sleep(_PAUSE_S)
