"""Prepares a planned restart of the host: the memory of all sandboxes that may hibernate outlives it."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

import structlog

from bay.drivers.base import Hibernates
from bay.errors import BayError, Conflict
from bay.models import MemoryFate, PreparedSandbox, RestartPreparation
from bay.server.sessions.core import Core
from bay.server.sessions.lifecycle import compute_of
from bay.server.sessions.memory import can_hibernate, check_can_hibernate, settle_hibernation
from bay.server.sessions.waker import Waker
from bay.store import events, sandboxes, sessions
from bay.store.records import SandboxRecord
from bay.store.sandboxes import KEEP

log = structlog.get_logger("bay.restart")

_AT_ONCE = 4
_THAW_S = 10.0
_REASON = "a restart of the host is planned"
_UNUSABLE = "its memory cannot be used on this host any more: the next call starts it from its files"
_WOKEN = "a call has woken it; prepare the restart again"


@dataclass(kw_only=True, eq=False)
class PlannedRestart:
    """The service behind `/v1/admin/host/prepare_restart`. One at a time; a second waits for the first.
    Callers go on meanwhile, and a sandbox that one of them wakes runs again.
    """

    core: Core
    waker: Waker
    directories: tuple[Path, ...]
    """On all file systems that have files of sandboxes."""
    _running: asyncio.Lock = field(init=False, default_factory=asyncio.Lock)  # nothing else is held with it

    async def prepare(self) -> RestartPreparation:
        """Hibernate what may, running or frozen, have that outlive a boot, and tell of all that has compute.
        Stops nothing. Raises DriverUnavailable, with what hibernates by then as good as before.
        """
        async with self._running:
            begun, turns = monotonic(), asyncio.Semaphore(_AT_ONCE)
            found = [one for one in await self._with_session() if can_hibernate(self.core, one)]
            said = await asyncio.gather(*(self._hibernate(one.id, turns) for one in found))
            refusals = {one.id: reason for one, reason in zip(found, said, strict=True) if reason}
            driver = self.core.driver
            durable = (
                await driver.make_durable(self.directories) if isinstance(driver, Hibernates) else set[str]()
            )
            items = [self._fate(one, durable, refusals) for one in await self._with_session()]
            done = _counted(items, round(1000 * (monotonic() - begun)))
            log.info("restart.prepared", kept=done.kept, refused=done.refused, left=done.left)
            return done

    async def _with_session(self) -> list[SandboxRecord]:
        async with self.core.store.read() as db:
            return await sandboxes.with_session(db)

    async def _hibernate(self, sandbox_id: str, turns: asyncio.Semaphore) -> str | None:
        """Why its memory cannot be saved, and None for one that hibernates. One that ran goes on."""
        async with turns:
            sandbox = await self._present(sandbox_id)  # others may have come before its turn
            if sandbox is None or sandbox.phase != sandbox.target or sandbox.phase == "hibernated":
                return None
            try:
                await self._want_hibernated(sandbox)
            except Conflict as error:
                return error.message
            try:
                await settle_hibernation(self.waker, sandbox)
            except BayError as error:
                if sandbox.target == "running":
                    await self._thaw(sandbox.id)
                return error.message
            return None

    async def _want_hibernated(self, sandbox: SandboxRecord) -> None:
        """Raises Conflict for one that is wanted otherwise by now, such as one that a call is waking."""
        async with self.core.store.write() as db:
            if not await sandboxes.change_target(
                db,
                sandbox.id,
                old=(sandbox.target,),
                new="hibernated",
                error=KEEP,
                idle_expires_at=None,
            ):
                raise Conflict(_WOKEN)
            if sandbox.session is not None:
                await sessions.change(db, sandbox.session.id, memory_refused=None)
            await events.add(db, sandbox, "sandbox.cooled", self.core.clock(), reason=_REASON)

    async def _present(self, sandbox_id: str) -> SandboxRecord | None:
        async with self.core.store.read() as db:
            return await sandboxes.get(db, sandbox_id)

    async def _thaw(self, sandbox_id: str) -> None:
        present = await self._present(sandbox_id)
        if present is not None and present.target == "paused":
            with suppress(BayError):  # it stays frozen then, and the next call thaws it
                await self.waker.start(present, _THAW_S)

    def _fate(self, sandbox: SandboxRecord, durable: set[str], refusals: dict[str, str]) -> PreparedSandbox:
        session = sandbox.session
        is_durable = session is not None and session.id in durable
        memory, reason = self._judged(sandbox, is_durable, refusals.get(sandbox.id))
        return PreparedSandbox(
            sandbox_id=sandbox.id,
            name=sandbox.name,
            owner=sandbox.owner,
            compute=compute_of(sandbox),
            memory=memory,
            memory_bytes=session and session.memory_bytes,
            reason=reason,
        )

    def _judged(
        self, sandbox: SandboxRecord, is_durable: bool, refusal: str | None
    ) -> tuple[MemoryFate, str | None]:
        if sandbox.phase == sandbox.target == "hibernated":
            return ("kept", None) if is_durable else ("refused", _UNUSABLE)
        try:
            check_can_hibernate(self.core, sandbox)
        except BayError as error:
            return "left", error.message
        return "refused", refusal or _WOKEN


def _counted(items: list[PreparedSandbox], duration_ms: int) -> RestartPreparation:
    fates = [one.memory for one in items]
    return RestartPreparation(
        items=tuple(items),
        kept=fates.count("kept"),
        refused=fates.count("refused"),
        left=fates.count("left"),
        duration_ms=duration_ms,
    )
