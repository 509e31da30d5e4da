"""A Bay that outlives one `run` of its event loop, so that a machine of plain functions can call it step by
step.
"""

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import httpx
from server_harness import WAIT_S, World, clear, eventually, within, world

from bay.clock import ManualClock
from bay.drivers.fake import FakeDriver
from bay.server.settings import ProfileSettings
from bay.store import sandboxes
from bay.store.records import SandboxRecord
from model import Answer, Call, Client

T = TypeVar("T")

RETENTION_S = 60
POOL_SIZE = 1
PROFILES = {
    name: ProfileSettings.model_validate({"idle_timeout": 100, "warm_timeout": 300, **given})
    for name, given in {
        "lazy": {"start": "lazy"},
        "eager": {"start": "eager"},
        "pooled": {"start": "eager", "pool_size": POOL_SIZE},
        "bare": {"start": "lazy", "capabilities": ["filesystem"]},
    }.items()
}

PATHS = {
    "create": ("POST", "/v1/sandboxes"),
    "delete": ("DELETE", "/v1/sandboxes/{ref}"),
    "patch": ("PATCH", "/v1/sandboxes/{ref}"),
    "get": ("GET", "/v1/sandboxes/{ref}"),
    "exec": ("POST", "/v1/sandboxes/{ref}/shell/exec"),
    "run": ("POST", "/v1/sandboxes/{ref}/execs"),
    "kill": ("DELETE", "/v1/sandboxes/{ref}/execs/{exec}"),
}


class Host:
    """A Bay below `root`, its clients, and the hand that hurts its sessions."""

    def __init__(self, root: Path, quotas: dict[str, dict[str, int]], clients: dict[str, Client]) -> None:
        self._root = root
        self._quotas = quotas
        self._clients = clients
        self._secrets: dict[Client, str] = {}
        self._http: dict[Client, httpx.AsyncClient] = {}
        self._runner = asyncio.Runner()
        self.clock = ManualClock()
        self.run(self._open())

    def run(self, what: Coroutine[Any, Any, T]) -> T:
        """Run it to its end, with Bay at work beside it."""
        return self._runner.run(within(what, 3 * WAIT_S))

    def close(self) -> None:
        """End Bay and every session."""
        try:
            self.run(self._close())
            self.run(clear(self._root))
        finally:
            self._runner.close()

    async def restart(self, killed: str | None) -> None:
        """End Bay and begin another on the same data; the session of sandbox `killed` dies in between."""
        session = (await self.world.session(killed)).id if killed else None
        await self._close()
        if session:
            await FakeDriver(run_dir=self._root / "run").crash(session)
        await self._open()

    async def _open(self) -> None:
        opened: asyncio.Future[World] = asyncio.get_running_loop().create_future()
        self._leave = asyncio.Event()
        # A task of its own, because Bay must be left by the task that entered it, and each `run` is another.
        self._keeper = asyncio.create_task(self._keep(opened))
        await asyncio.wait((opened, self._keeper), return_when=asyncio.FIRST_COMPLETED)
        if self._keeper.done():
            self._keeper.result()
        self.world = opened.result()
        for client in self._clients.values():
            headers = {"Authorization": f"Bearer {await self._secret(client)}"}
            self._http[client] = await self.world.open_client(headers)

    async def _keep(self, opened: "asyncio.Future[World]") -> None:
        owners = {n.removeprefix("owner "): q for n, q in self._quotas.items() if n.startswith("owner ")}
        driver = FakeDriver(run_dir=self._root / "run")
        settings: dict[str, Any] = {
            "profiles": PROFILES,
            "owners": owners,
            "expired_retention": RETENTION_S,
        }
        async with world(self._root, driver, clock=self.clock, **settings) as opened_world:
            opened.set_result(opened_world)
            await self._leave.wait()

    async def _close(self) -> None:
        self._leave.set()
        await self._keeper

    async def _secret(self, client: Client) -> str:
        if client not in self._secrets:
            admin = await self.world.client("root", "admin")
            quotas = self._quotas.get(f"key {client.key}", {})
            body = {"name": client.key, "owner": client.owner, "quotas": quotas}
            self._secrets[client] = (await admin.post("/v1/keys", json=body)).json()["secret"]
        return self._secrets[client]

    async def call(self, call: Call) -> Answer:
        """Make the call."""
        method, path = PATHS.get(call.verb, ("POST", f"/v1/sandboxes/{{ref}}/{call.verb}"))
        headers = {"Idempotency-Key": call.idempotency_key} if call.idempotency_key else {}
        answer = await self._http[call.by].request(
            method,
            path.format(ref=call.ref, **call.body),
            params={"wait": "15"} if call.waits else {},
            json=call.body if method in ("POST", "PATCH") else None,
            headers=headers,
        )
        return Answer(answer.status_code, answer.json() if answer.content else None)

    async def get(self, client: Client, path: str, params: tuple[tuple[str, str], ...] = ()) -> Any:
        """The body of a GET that succeeds."""
        answer = await self._http[client].get(path, params=params)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def kill(self, sandbox_id: str, *, tracelessly: bool) -> None:
        """Its session dies; returns when Bay has noticed."""
        session = await self.world.session(sandbox_id)
        hurt = self.world.driver.vanish if tracelessly else self.world.driver.crash
        await hurt(session.id)
        await self.world.settled(sandbox_id, lambda r: r.session is None or r.session.id != session.id)

    async def settle(self) -> None:
        """Sweep, and wait until Bay has nothing left to do for any owner."""
        assert not self._keeper.done()
        await self.world.bay.sweep.sweep()
        for (sandbox_id,) in await self.world.sql(_PRESENT):
            await self.world.settled(sandbox_id, self._is_settled)

    def _is_settled(self, record: SandboxRecord) -> bool:
        phase = record.session.phase if record.session else None
        if record.deleted_at is not None:
            return True
        if record.expires_at is not None and record.expires_at <= self.clock():
            return phase is None and (self.clock() - record.expires_at).total_seconds() < RETENTION_S
        return (record.target, phase) in (("running", "running"), ("paused", "paused"), ("stopped", None))

    async def compute(self) -> list[str]:
        """Whose the live sessions are, the pool's left out; once the driver has exactly those and the pool is
        at rest.
        """
        owners: list[str] = []

        async def agreed() -> bool:
            async with self.world.bay.store.read() as db:
                pool = await sandboxes.pooled(db)
                rows = [tuple(row) for row in await db.exec_driver_sql(_LIVE)]
            waiting = {record.id for record in pool}
            owners[:] = [sandbox_id for _, sandbox_id, owner in rows if sandbox_id not in waiting and owner]
            return all(map(self._is_settled, pool)) and {row[0] for row in rows} == await self.world.owned()

        await eventually(agreed)
        return owners


_PRESENT = "SELECT id FROM sandboxes WHERE deleted_at IS NULL AND owner != ''"
_LIVE = """
    SELECT sessions.id, sandbox_id, owner FROM sessions JOIN sandboxes ON sandboxes.id = sandbox_id
    WHERE ended_at IS NULL
"""
