"""A live session takes the sizes that its sandbox was given: the reconciler's step, and the wait for it.

The row says what is wanted, and the session's what it has. Sizes that the host refuses, as less memory than
is in use, are put back in the row, which says why for the call that asked for them.
"""

from dataclasses import dataclass

import structlog

from bay.drivers.base import Resizable
from bay.errors import CallerError, CapabilityNotSupported, Conflict, Timeout
from bay.models import Sizes, to_wire
from bay.server.sessions.core import Core
from bay.server.sessions.rows import handle_of
from bay.server.sessions.sizes import resources_of
from bay.server.sessions.waker import Waker
from bay.store import events, sandboxes, sessions
from bay.store.records import KEPT_FAILURES, KeptFailure, ResizeFailure, SandboxRecord, SessionRecord

log = structlog.get_logger("bay.sizes")

RESIZED = ("cpus", "memory_mb", "pids")
"""The sizes that a session takes while it lives."""
_SETTLE_S = 30.0


@dataclass(frozen=True, slots=True)
class ResizeRequest:
    """The sizes that a call has asked for; `number` is its place among such calls."""

    number: int
    wanted: Sizes


class Resizing:
    """Applies the sizes of rows, and writes refusals into them."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def settled(self, waker: Waker, before: SandboxRecord) -> None:
        """Wait until the session has the sizes, or they were refused. Raises DriverUnavailable when the host
        cannot be asked, and Timeout; Bay tries again by itself after these two.
        """
        late = Timeout(
            f"the sizes of {before.id} were not applied within {_SETTLE_S:g} s; Bay continues in the background"
        )
        await waker.settle(before, _is_applied, lambda r: _is_in_trouble(r, before), late, _SETTLE_S)

    def check(self, sandbox: SandboxRecord, asked: ResizeRequest) -> None:
        """Raises what the host refused the sizes for, if it did."""
        for one in sandbox.resize_failures:
            if one.number >= asked.number and one.sizes == asked.wanted:
                raise one.failure.error()

    async def apply(self, sandbox: SandboxRecord, session: SessionRecord) -> None:
        """Have the session take the row's sizes, or put the row's back. Raises DriverUnavailable."""
        try:
            await self._resize(sandbox, session)
        except CallerError as refusal:
            await self._take_back(sandbox, session, refusal)
            return
        async with self._core.store.write() as db:
            await sessions.change(db, session.id, **_columns(sandbox.sizes))
        log.info("session.resized", id=session.id, sandbox=sandbox.id, **_columns(sandbox.sizes))

    async def _resize(self, sandbox: SandboxRecord, session: SessionRecord) -> None:
        driver, profile = self._core.driver, self._core.profiles.get(sandbox.profile)
        if profile is None:
            raise Conflict(f"profile {sandbox.profile} is no longer configured; restore it first")
        if not isinstance(driver, Resizable):
            raise CapabilityNotSupported(
                f"driver {driver.name} cannot change the sizes of a sandbox that runs; stop it first",
                details={"capability": "resize", "available": []},
            )
        await driver.resize(handle_of(session), resources_of(sandbox.sizes, profile))

    async def _take_back(self, sandbox: SandboxRecord, session: SessionRecord, refusal: CallerError) -> None:
        now = self._core.clock()
        async with self._core.store.write() as db:
            present = await sandboxes.get(db, sandbox.id) or sandbox
            is_wanted = present.sizes == sandbox.sizes  # else others are wanted by now
            number = (present if is_wanted else sandbox).resize_number
            kept = [one for one in present.resize_failures if one.number > number - KEPT_FAILURES]
            failed = ResizeFailure(number=number, sizes=sandbox.sizes, failure=KeptFailure.of(refusal, now))
            put_back = _columns(session.sizes) if is_wanted else {}
            await sandboxes.change(db, sandbox.id, **put_back, resize_failures=to_wire([*kept, failed]))
            if is_wanted:
                await events.add(db, sandbox, "sandbox.updated", now, fields=sorted(RESIZED))
        log.info("session.not_resized", id=session.id, sandbox=sandbox.id, error=refusal.message)


def _columns(sizes: Sizes) -> dict[str, float | None]:
    return {name: getattr(sizes, name) for name in RESIZED}


def _is_applied(record: SandboxRecord) -> bool:
    session = record.session
    if session is None or session.phase in ("ending", "hibernated"):  # that one takes them when it is woken
        return True
    return _columns(session.sizes) == _columns(record.sizes)


def _is_in_trouble(record: SandboxRecord, before: SandboxRecord) -> bool:
    lives = record.session is not None and record.session.phase in ("running", "paused")
    return lives and record.error is not None and record.error != before.error
