"""One case of the crash matrix: where it lives on the host, what its callers know, and a Bay in it."""

import asyncio
import json
import os
import shutil
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from crash_points import Points, watch

from bay.drivers.base import Driver
from bay.drivers.oci.driver import OciDriver
from bay.server.app import build_app
from bay.server.backends import make_network
from bay.server.control_plane import ControlPlane
from bay.server.settings import ProfileSettings, Settings
from bay.store import sandboxes
from bay.store.records import SandboxRecord

Json = dict[str, Any]
KEY = "bay_" + "c" * 40
WAIT_S = 25.0
"""Bound of every wait. Nothing comes near it unless it is broken."""
CALL_S = 20
_FOR_LIVE = {
    "running": ("running",),
    "paused": ("paused",),
    "hibernated": ("hibernated",),
    "stopped": (None,),
}


@dataclass(frozen=True, slots=True)
class Place:
    """The directories of one case. Every process it starts carries `mark` in its environment."""

    root: Path
    cache: Path
    criu: str | None = None
    """The program with which sandboxes of the profile `sleeps` hibernate, the only ones then."""

    @property
    def instance(self) -> str:
        """The name of this case's control groups."""
        return f"crash-{self.root.name}"

    @property
    def run_dir(self) -> Path:
        return self.root / "run"

    @property
    def data_dir(self) -> Path:
        return self.root / "data"

    @property
    def ids_dir(self) -> Path:
        return self.root / "ids"

    @property
    def mark(self) -> str:
        return f"BAY_CRASH_CASE={self.root}"

    def driver(self, **options: Any) -> OciDriver:
        """The driver as this case has it.

        Its slots are as its id ranges: other cases may have the same, so nothing is sent.
        """
        # A session that can hibernate is no fork.
        given: dict[str, Any] = {"criu": self.criu, "fork_ships": self.criu is None, **options}
        return OciDriver(
            root=self.data_dir / "oci",
            run_dir=self.run_dir,
            cache=self.cache,
            instance=self.instance,
            ids_dir=self.ids_dir,
            network=make_network(self.settings(0)),
            **given,
        )

    def settings(self, pool: int) -> Settings:
        """Settings with `pool` sandboxes of the profile `pooled` held ready."""
        small: Json = {"start": "eager", "idle_timeout": None, "memory_mb": 256}
        pooled = {**small, "pool_size": pool} if "pool_size" in ProfileSettings.model_fields else small
        sleeps = {**small, "hibernate": True}
        profiles = {"python-default": small, "pooled": pooled, "sleeps": sleeps}
        return Settings.model_validate(
            {"data_dir": self.data_dir, "run_dir": self.run_dir, "cache_dir": self.cache, "api_key": KEY,
             "stop_grace": 1, "start_timeout": CALL_S, "profiles": profiles}
        )  # fmt: skip


@dataclass(slots=True)
class Facts:
    """What the callers of a case know, kept outside of Bay: each line is on its way to the disk before the
    next call.
    """

    file: Path

    def add(self, kind: str, sandbox: str = "", **more: Any) -> None:
        """Something that was asked or answered."""
        with self.file.open("a") as out:
            out.write(json.dumps({"kind": kind, "sandbox": sandbox, **more}) + "\n")

    def all(self) -> list[Json]:
        """Everything, in order."""
        return [json.loads(line) for line in self.file.read_text().splitlines()] if self.file.exists() else []


@dataclass(slots=True)
class Run:
    """A Bay that runs in this process, its caller, and the places where it may be killed."""

    place: Place
    bay: ControlPlane
    client: httpx.AsyncClient
    facts: Facts
    points: Points
    pool: int
    kept: dict[str, Json] = field(default_factory=dict[str, Json])

    async def call(self, method: str, path: str, *, key: str | None = None, **options: Any) -> httpx.Response:
        """An answer, whatever it says."""
        headers = {"Idempotency-Key": key} if key else {}
        return await self.client.request(method, f"/v1/sandboxes{path}", headers=headers, **options)

    async def ask(self, method: str, path: str, *, key: str | None = None, **options: Any) -> Json:
        """An answer that must be good; the places before and after it are passed."""
        await self.points.reach(f"before the call {method} {_shape(path)}")
        answer = await self.call(method, path, key=key, **options)
        if not answer.is_success:
            raise AssertionError(f"{method} {path}: {answer.status_code} {answer.text}")
        return answer.json() if answer.content else {}

    async def answered(self) -> None:
        """Pass the place behind an answer, now that it is among the facts."""
        await self.points.reach("after the answer")

    async def rows(self) -> list[SandboxRecord]:
        """Every sandbox that is not deleted, whoever owns it."""
        async with self.bay.store.read() as db:
            ids = (await db.exec_driver_sql("SELECT id FROM sandboxes WHERE deleted_at IS NULL")).scalars()
            found = [await sandboxes.get(db, sandbox_id) for sandbox_id in list(ids)]
        return [row for row in found if row is not None]

    async def settled(self) -> bool:
        """Whether every row is as it should be and the pool is full."""
        rows = await self.rows()
        pooled = [row for row in rows if row.pool is not None]
        return len(pooled) == self.pool and all(self._is_settled(row) for row in rows)

    def _is_settled(self, row: SandboxRecord) -> bool:
        if row.restore_id is not None or row.checkpoint_due is not None:
            return False
        session = row.session
        phase = session.phase if session else None
        if session and phase == "running" and session.network_version != row.network_version:
            return False
        if row.is_expired(self.bay.clock()):
            return phase is None
        return phase in _FOR_LIVE.get(row.target, ())

    async def settle(self) -> None:
        """Return once it is settled. Raises TimeoutError."""
        async with asyncio.timeout(WAIT_S):
            while not await self.settled():  # noqa: ASYNC110
                await asyncio.sleep(0.005)


@asynccontextmanager
async def running(
    place: Place,
    points: Points,
    *,
    pool: int = 0,
    driver: Driver | None = None,
    settings: Settings | None = None,
) -> AsyncGenerator[Run]:
    """A Bay in `place`, with a caller who has a key."""
    place.data_dir.mkdir(exist_ok=True)
    app = build_app(settings or place.settings(pool), driver=driver or place.driver())
    bay: ControlPlane = app.state.bay
    watch(bay, points)
    transport = httpx.ASGITransport(app)
    client = httpx.AsyncClient(
        transport=transport, base_url="http://bay", headers={"Authorization": f"Bearer {KEY}"}, timeout=WAIT_S
    )
    async with bay.running(), client:
        yield Run(place, bay, client, Facts(place.root / "facts"), points, pool)


async def until(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether `condition` came true in time: for what tells nobody when it changes."""
    try:
        async with asyncio.timeout(seconds):
            while not condition():  # noqa: ASYNC110
                await asyncio.sleep(0.005)
    except TimeoutError:
        return False
    return True


def can_run() -> bool:
    """Whether this host can run the `oci` driver: it needs root and runc."""
    return os.geteuid() == 0 and shutil.which("runc") is not None


def _shape(path: str) -> str:
    head, _, rest = path.partition("?")[0].lstrip("/").partition("/")
    return ("/{id}" if head else "") + (f"/{rest}" if rest else "")
