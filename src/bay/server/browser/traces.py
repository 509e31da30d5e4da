"""Traces: what a browser's commands printed, kept as payloads that skills can be made of."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import structlog

from bay.errors import InvalidArgument, NotFound, QuotaExceeded
from bay.models import BrowserStep, BrowserTrace, to_wire
from bay.server.skills.payloads import SkillPayloads, encoded
from bay.store import history
from bay.store.engine import Store
from bay.store.skills import TRACES

log = structlog.get_logger("bay.browser")

_MAX_CHARS = 512 << 10
"""Characters of output in a trace: in JSON they stay below the most that a payload may have."""
_LEAST_ROOM = 64 << 10


@dataclass(eq=False, kw_only=True)
class Traces:
    """Keeps the traces of executions, within the space that their owner has for skills."""

    store: Store
    payloads: SkillPayloads

    async def admit(self, owner: str) -> None:
        """Refuse an execution whose trace would find no room before it runs. Raises QuotaExceeded."""
        async with self.store.read() as db:
            await self.payloads.admit(db, owner, _LEAST_ROOM)

    async def keep(
        self,
        owner: str,
        sandbox_id: str,
        execution_id: str,
        steps: Sequence[BrowserStep],
        *,
        batch: bool,
        learn: bool,
    ) -> str | None:
        """Store a trace and name it in the history; None when there was no room, as the history says then."""
        text_steps = within(steps, _MAX_CHARS)
        trace: dict[str, Any] = {
            "kind": TRACES[batch],
            "sandbox_id": sandbox_id,
            "execution_id": execution_id,
            "commands": [step.cmd for step in steps],
            "steps": [{"kind": "individual_action", **to_wire(step)} for step in text_steps],
        }
        try:
            text = encoded(trace)
            async with self.store.write() as db:
                ref = await self.payloads.put_in(db, owner, TRACES[batch], text)
                status = "pending" if learn else None
                await history.add_trace(db, sandbox_id, execution_id, ref, status)
        except (InvalidArgument, QuotaExceeded) as error:
            log.info("browser.trace_dropped", sandbox=sandbox_id, exec=execution_id, error=str(error))
            async with self.store.write() as db:
                await history.add_trace(db, sandbox_id, execution_id, None, "failed" if learn else None)
            return None
        return ref

    async def get(self, owner: str, ref: str) -> BrowserTrace:
        """A trace of the owner's. Raises NotFound, also for a payload that is none."""
        found = await self.payloads.get(owner, ref)
        if found.kind not in TRACES or not isinstance(found.payload, dict):
            raise NotFound(f"there is no trace {ref}")
        return BrowserTrace(trace_ref=ref, trace=found.payload)


def within(steps: Sequence[BrowserStep], room: int) -> tuple[BrowserStep, ...]:
    """The steps with `room` characters of output at most; later ones lack the end of theirs, and say so."""
    left = Room(room)
    return tuple(left.cut(step) for step in steps)


class Room:
    """Characters of output that are left for the steps to come."""

    def __init__(self, chars: int) -> None:
        self._left = chars

    def cut(self, step: BrowserStep) -> BrowserStep:
        """The step with as much of its output as there is room for."""
        return replace(step, stdout=self._cut(step.stdout), stderr=self._cut(step.stderr))

    def _cut(self, text: str) -> str:
        kept = text[: self._left]
        self._left -= len(kept)
        missing = len(text) - len(kept)
        return f"{kept}\n[... {missing} characters not kept ...]" if missing else kept
