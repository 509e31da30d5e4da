"""What the tests of the server stand on: a real app on a real database, real Ships, and a clock
that is told.
"""

import asyncio
import json
import os
import shutil
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import httpx
import postgres_databases
from blockbuster import blockbuster_ctx
from fastapi import FastAPI
from sqlalchemy import insert

from bay.cargo.base import CargoBackend, CheckpointStore, checkpoint_files, checkpoint_store
from bay.clock import ManualClock
from bay.drivers.base import Handle
from bay.drivers.fake import FakeDriver
from bay.ids import is_id
from bay.images.fake import FakeLibrary
from bay.models import KeyScope
from bay.places import directory_of
from bay.server import main
from bay.server.app import build_app
from bay.server.checkpoints import policy
from bay.server.control_plane import ControlPlane
from bay.server.data_dir import DATABASE, instance_of
from bay.server.sessions.memory import can_hibernate
from bay.server.settings import ProfileSettings, Settings
from bay.store import sandboxes
from bay.store.connection import StoreConnection
from bay.store.records import SandboxRecord, SessionRecord
from bay.store.schema import events
from bay.store.sqlite import migrate

T = TypeVar("T")
Json = dict[str, Any]
WAIT_S = 20.0
"""Bound of every wait. Nothing comes near it unless it is broken."""

IN_MEMORY = Path("/dev/shm")
"""Databases that are synced to a disk would have each test wait for it."""

IS_POSTGRES = os.environ.get("BAY_TEST_DATABASE") == "postgresql"
"""Whether the Bays of the tests have their rows in PostgreSQL."""

PROFILES = {
    "python-default": ProfileSettings.model_validate({"start": "lazy", "env": {"FROM_PROFILE": "yes"}}),
    "eager": ProfileSettings.model_validate({"start": "eager"}),
    "bare": ProfileSettings.model_validate(
        {"start": "lazy", "capabilities": ["filesystem"], "idle_timeout": None}
    ),
    "forever": ProfileSettings.model_validate({"start": "lazy", "idle_timeout": 100, "warm_timeout": None}),
    "rootless": ProfileSettings.model_validate({"start": "lazy", "root": False, "ttl": 100}),
}


@contextmanager
def short_dir() -> Generator[Path]:
    """A temporary directory whose path leaves room for a socket's, which is 107 bytes at most."""
    path = Path(tempfile.mkdtemp(prefix="bay-", dir=IN_MEMORY if IN_MEMORY.is_dir() else "/tmp"))
    try:
        yield path
    finally:
        postgres_databases.drop(path)
        shutil.rmtree(path)


@cache
def empty_database() -> bytes:
    """A database as the migrations make it, which takes as long as the rest of a start."""
    with short_dir() as directory:
        migrate(directory / DATABASE)
        return (directory / DATABASE).read_bytes()


def settings_in(root: Path, **given: Any) -> Settings:
    """Settings for a Bay below `root` with the `fake` driver. Its database is migrated already."""
    (root / "data").mkdir(exist_ok=True)
    database = root / "data" / DATABASE
    if IS_POSTGRES:
        given.setdefault("database_url", postgres_databases.url_for(root))
    if given.get("database_url") is None and not database.exists():
        database.write_bytes(empty_database())
    values: Json = {
        "data_dir": root / "data", "run_dir": root / "run", "driver": "fake", "stop_grace": 1,
        "start_timeout": WAIT_S, "profiles": PROFILES,
        "history_max_age": 36500,  # Ship's clock is the host's, and the one that is told is years ahead of it
    }  # fmt: skip
    return Settings(**{**values, **given})


@dataclass(slots=True)
class World:
    """A Bay that runs, seen from all sides."""

    app: FastAPI
    bay: ControlPlane
    driver: FakeDriver
    library: FakeLibrary
    clock: ManualClock
    root: Path
    stack: AsyncExitStack
    keys: dict[tuple[str, KeyScope], str] = field(default_factory=dict[tuple[str, KeyScope], str])

    async def key(self, owner: str = "alice", scope: KeyScope = "write") -> str:
        """A key of `owner`, made once."""
        if (owner, scope) not in self.keys:
            self.keys[owner, scope] = await self.bay.keys.add(owner, f"{owner}-{scope}", scope)
        return self.keys[owner, scope]

    async def client(self, owner: str = "alice", scope: KeyScope = "write") -> httpx.AsyncClient:
        """A client that calls the app directly as `owner`."""
        headers = {"Authorization": f"Bearer {await self.key(owner, scope)}"}
        return await self.open_client(headers)

    async def open_client(self, headers: dict[str, str] | None = None) -> httpx.AsyncClient:
        """A client with those headers."""
        transport = httpx.ASGITransport(self.app)
        client = httpx.AsyncClient(
            transport=transport, base_url="http://bay", headers=headers, timeout=WAIT_S
        )
        return await self.stack.enter_async_context(client)

    async def record(self, sandbox_id: str) -> SandboxRecord:
        """The row, deleted or not."""
        async with self.bay.store.read() as db:
            found = await sandboxes.get(db, sandbox_id)
        assert found is not None
        return found

    async def session(self, sandbox_id: str) -> SessionRecord:
        """The live session's row."""
        session = (await self.record(sandbox_id)).session
        assert session is not None
        return session

    async def sql(self, statement: str) -> list[tuple[Any, ...]]:
        """Rows of a query on the database, with JSON as text, as SQLite has it."""
        async with self.bay.store.read() as db:
            rows = await db.exec_driver_sql(statement)
            return [tuple(json.dumps(v) if isinstance(v, dict | list) else v for v in row) for row in rows]

    async def settled(self, sandbox_id: str, done: Callable[[SandboxRecord], bool]) -> SandboxRecord:
        """The row once `done` holds for it."""
        found = await self.bay.waker.wait_until(sandbox_id, done, WAIT_S)
        assert found is not None, f"still {await self.record(sandbox_id)}"
        return found

    async def owned(self) -> set[str]:
        """Ids of the sessions that have something on the host."""
        return {owned.session_id async for owned in self.driver.list_owned()}

    def workspace(self, sandbox: Json) -> Path:
        """Where the files of a sandbox are on this host."""
        return self.directory(sandbox["cargo_id"])

    def directory(self, cargo_id: str) -> Path:
        """Where the files of a cargo are on this host."""
        return directory_of(self.bay.cargo.place(cargo_id))

    @property
    def checkpoints(self) -> CheckpointStore:
        """Where the files of checkpoints are kept."""
        return checkpoint_store(self.bay.cargo)

    def checkpoint_path(self, checkpoint_id: str) -> Path:
        """Where the files of a checkpoint are on this host."""
        return checkpoint_files(self.bay.cargo).checkpoint_path(checkpoint_id)


@contextmanager
def no_blocking() -> Generator[None]:
    """A call of the server that blocks the event loop fails the test. The driver has a suite of its own.

    Allowed: start-up, before anybody is served; and a traceback on its way into the log, which reads its
    source.
    """
    with blockbuster_ctx(["bay.server", "bay.store", "bay.cargo"]) as watch:
        for function in watch.functions.values():
            function.can_block_in("structlog/tracebacks.py", {"extract"})
        yield


@asynccontextmanager
async def world(
    root: Path,
    driver: FakeDriver | None = None,
    *,
    clock: ManualClock | None = None,
    cargo: CargoBackend | None = None,
    library: FakeLibrary | None = None,
    available_memory: Callable[[], int] = lambda: 1 << 40,
    may_block: bool = False,
    **given: Any,
) -> AsyncGenerator[World]:
    """A Bay below `root`. Its sessions outlive it: `clear` ends them. `may_block`: others start meanwhile."""
    settings = settings_in(root, **given)
    driver = driver or FakeDriver(run_dir=root / "run")
    clock = clock or ManualClock()
    library = library or FakeLibrary()
    app = build_app(
        settings, driver=driver, cargo=cargo, library=library, clock=clock, available_memory=available_memory
    )
    async with AsyncExitStack() as stack:
        bay: ControlPlane = app.state.bay
        await within(stack.enter_async_context(bay.running()))
        if not may_block:
            stack.enter_context(no_blocking())
        yield World(app, bay, driver, library, clock, root, stack)


async def clear(root: Path) -> None:
    """End every session below `root`, whoever started it."""
    # `bay serve` puts a directory with the mark of its data directory between; that one is no session.
    for run_dir in (root / "run" / instance_of(root / "data"), root / "run"):
        driver = FakeDriver(run_dir=run_dir)
        await driver.open()
        for owned in [o async for o in driver.list_owned() if is_id(o.session_id)]:
            await within(driver.destroy(Handle(driver="fake", session_id=owned.session_id)))


def ships(root: Path) -> list[int]:
    """Processes that run a Ship of a session below `root`."""
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                place = os.readlink(entry / "cwd")  # of a forked one the environment is the forker's
                if place.startswith(f"{root}/") and b"ship" in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


async def within(what: Awaitable[T], seconds: float = WAIT_S) -> T:
    """`what`, or a failure when it takes longer."""
    async with asyncio.timeout(seconds):
        return await what


async def until(condition: Callable[[], bool]) -> None:
    """Return once `condition` holds, looked at again and again: for what tells nobody when it changes."""
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    """The same for a condition that has to be awaited."""
    async with asyncio.timeout(WAIT_S):
        while not await condition():  # noqa: ASYNC110
            await asyncio.sleep(0.002)


async def turns(count: int = 50) -> None:
    """Let the event loop do all that it can do without time: bytes on their way inside this
    process arrive.
    """
    for _ in range(count):
        await asyncio.sleep(0)


async def held_up(count: Callable[[], int], beside: Callable[[], Awaitable[object]]) -> int:
    """A count of bytes once it stands still while twenty calls of `beside` go the same way: backpressure
    holds it.
    """
    async with asyncio.timeout(WAIT_S):
        while True:
            before = count()
            for _ in range(20):
                await beside()
            if 0 < count() == before:
                return before


def pass_time(seconds: float) -> None:
    """Set the clock of the running event loop forward: its timers up to then are due."""
    loop: Any = asyncio.get_running_loop()
    clock = loop.time
    loop.time = lambda: clock() + seconds


@dataclass(frozen=True, slots=True)
class Served:
    """A Bay behind a real port."""

    url: str
    bay: ControlPlane
    key: str
    root: Path

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}


@asynccontextmanager
async def served(root: Path, **given: Any) -> AsyncGenerator[Served]:
    """Serve as `bay serve` does, on a free port, in this event loop."""
    settings = settings_in(root, host="127.0.0.1", port=0, **given)
    ready: asyncio.Future[tuple[str, ControlPlane]] = asyncio.get_running_loop().create_future()
    stop = asyncio.Event()
    listener = main._listen("127.0.0.1", 0)
    with listener:
        async with asyncio.TaskGroup() as group:
            group.create_task(
                main._serve(settings, listener, lambda url, bay: ready.set_result((url, bay)), stop)
            )
            url, bay = await within(ready)
            try:
                yield Served(url, bay, await bay.keys.add("alice", "alice", "write"), root)
            finally:
                stop.set()


async def add_event(
    db: StoreConnection, owner: str, sandbox_id: str, kind: str, at: datetime, **data: Any
) -> None:
    """An event of a sandbox that need not be there."""
    await db.execute(insert(events).values(owner=owner, sandbox_id=sandbox_id, type=kind, at=at, data=data))


Method = Literal["GET", "PUT", "POST", "DELETE", "PATCH"]


async def create(client: httpx.AsyncClient, *, wait: float | None = None, **body: Any) -> Json:
    """A sandbox as the create answers it."""
    answer = await client.post("/v1/sandboxes", params={"wait": wait} if wait else None, json=body)
    assert answer.status_code == 201, answer.text
    return answer.json()


async def shell(client: httpx.AsyncClient, sandbox: str, command: str, **body: Any) -> Json:
    """The answer of shell/exec."""
    answer = await client.post(f"/v1/sandboxes/{sandbox}/shell/exec", json={"command": command, **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


def assert_error(answer: httpx.Response, status: int, code: str) -> Json:
    """The error of an answer, which has the one shape."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    error: Json = answer.json()["error"]
    assert set(error) - {"details"} == {"code", "message", "request_id", "retryable"}
    assert (error["code"], error["request_id"]) == (code, answer.headers["x-request-id"])
    assert isinstance(error["message"], str)
    assert error["message"]
    assert "Traceback" not in answer.text
    return error


async def ask_for_checkpoints(bay: World) -> None:
    """Ask for those that policies want now, as the sweep does."""
    own = bay.bay
    can_save = partial(can_hibernate, own.core)
    await policy.ask(own.store, bay.clock, own.waker.poke, can_save, own.quotas.admit_memory)
