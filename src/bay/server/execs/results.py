"""Collects how execs ended that no call waited for: one that broke off, or one of a Bay that died meanwhile.

Ship keeps the newest 200 ends, for ten minutes. Bay asks each minute, and before a read of the history; an
exec that Ship no longer knows is lost.
"""

import asyncio
from collections.abc import Mapping
from datetime import timedelta

import structlog

from bay.clock import Clock
from bay.errors import BayError, NotFound
from bay.models import Exec, ShellResult
from bay.server.kernels.cells import begun_row, write_end
from bay.server.kernels.ship_client import KernelClient, ShipCell, read_all
from bay.server.sessions.rows import peer_of
from bay.server.ship.client import ShipClient
from bay.server.ship.connection import Peer
from bay.store import execs, history
from bay.store.deferred import DeferredWrites
from bay.store.engine import Store
from bay.store.records import SandboxRecord, SessionRecord, Unfinished

log = structlog.get_logger("bay.outcomes")

TOLD_WITHIN = timedelta(seconds=30)
"""Ship gets a planned exec well within this, or never."""

_BATCH_WITHIN = timedelta(seconds=660)
"""A batch of a browser has ended well within this, or the Bay that ran its steps is dead."""

_ASK_S = 2.0
_LIMIT = 1000
_MAX_TO_READ = 20
_LEAST_AGE = timedelta(seconds=1)  # younger ones are waited for by the calls that started them


class ExecResults:
    """Asks Ships what the rows do not say yet. Never wakes or thaws anything."""

    def __init__(
        self, *, store: Store, deferred: DeferredWrites, ship: ShipClient, kernels: KernelClient, clock: Clock
    ) -> None:
        self._store = store
        self._deferred = deferred
        self._ship = ship
        self._kernels = kernels
        self._clock = clock

    async def learn(self) -> None:
        """Ask the Ship of each session that has execs which count as running, one after the other."""
        async with self._store.read() as db:
            sessions = await execs.with_unfinished(db)
        for session in sessions:
            async with self._store.read() as db:
                waiting = await execs.unfinished(db, session.id, _LIMIT)
            await self._ask(session, waiting)

    async def learn_history(self, sandbox: SandboxRecord) -> None:
        """Ask before a read of the history of `sandbox`, if an end is unknown and a Ship can answer."""
        session = sandbox.session
        if session is None or session.phase != "running":
            return
        async with self._store.read() as db:
            waiting = await execs.unfinished_history(db, session.id, _MAX_TO_READ)
        await self._ask(session, waiting)
        await self._deferred.flush()

    async def _ask(self, session: SessionRecord, waiting: list[Unfinished]) -> None:
        now = self._clock()
        old = [one for one in waiting if now - one.started_at >= _LEAST_AGE]
        peer = peer_of(session)
        if peer is None or not old:
            return
        try:
            async with asyncio.timeout(_ASK_S):
                known = {item.id: item for item in await self._ship.list_execs(peer)}
                for one in old:
                    await self._note(peer, one, known)
        except (BayError, TimeoutError) as error:
            log.info("session.silent", id=session.id, error=str(error))

    async def _note(self, peer: Peer, one: Unfinished, known: Mapping[str, Exec]) -> None:
        if one.exec_type == "python":
            await self._note_cell(peer, one)
            return
        if one.exec_type == "browser_batch":
            self._note_forgotten(peer, one, _BATCH_WITHIN)  # Ship never knew it
            return
        item = known.get(one.id)
        if item is None:
            self._note_forgotten(peer, one)
        elif item.state != "running":
            if one.exec_type is not None:
                await self._note_output(peer, one.id)
            self._deferred.put(lambda db: execs.save(db, peer.session_id, item))

    async def _note_cell(self, peer: Peer, one: Unfinished) -> None:
        """The same for code in a kernel, which is a cell of the id of the execution."""
        try:
            cell = await self._kernels.cell(peer, one.id)
            if cell.state == "ended":
                await self._note_shown(peer, one, cell)
        except NotFound:
            self._note_forgotten(peer, one)

    async def _note_shown(self, peer: Peer, one: Unfinished, cell: ShipCell) -> None:
        async with self._kernels.events(peer, cell.kernel, cell.id, 0, follow=False) as events:
            found = await read_all(events)
        row, at = begun_row(one.id, one.started_at), cell.ended_at or self._clock()
        write_end(self._deferred, peer.session_id, row, found, cell.status, at)

    def _note_forgotten(self, peer: Peer, one: Unfinished, within: timedelta = TOLD_WITHIN) -> None:
        now = self._clock()
        if one.has_ended:
            self._deferred.put(lambda db: history.settle(db, peer.session_id, one.id))
        elif now - one.started_at >= within:
            self._deferred.put(lambda db: execs.lose(db, peer.session_id, one.id, now))

    async def _note_output(self, peer: Peer, exec_id: str) -> None:
        try:
            item = await self._ship.get_exec(peer, exec_id, 0)
        except NotFound:
            return  # forgotten just now
        outcome = history.outcome_of(shell_result(item))
        self._deferred.put(lambda db: history.finish(db, peer.session_id, outcome))


def shell_result(item: Exec) -> ShellResult:
    """The answer of `shell/exec`. After a timeout the output so far is kept and the exit code is -1."""
    ended = item.ended_at or item.started_at
    exit_code = -1 if item.timed_out or item.state == "running" else item.exit_code
    error = "Command timed out" if exit_code == -1 else item.stderr or None
    if exit_code is None and item.signal is not None:
        exit_code = 128 + item.signal
        error = error or f"killed by signal {item.signal}"
    return ShellResult(
        success=exit_code == 0,
        output=item.stdout or "",
        error=error,
        exit_code=exit_code,
        execution_id=item.id,
        execution_time_ms=round((ended - item.started_at).total_seconds() * 1000),
        truncated=item.truncated,
    )
