"""The skill service: candidates are evaluated, promoted to releases, and rolled back.

Every change of a skill is one transaction. Versions of a key only grow, also over deleted ones, and one
release of a key at most is active, which an index of the database holds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from bay.clock import Clock
from bay.errors import Conflict, NotFound
from bay.ids import new_id
from bay.models import (
    CandidateStatus,
    SkillCandidate,
    SkillDeletion,
    SkillEvaluation,
    SkillHealth,
    SkillRelease,
    SkillStage,
)
from bay.server.skills.health import NO_RUNS, health, window_end
from bay.server.skills.payloads import PREFIX, Payload, SkillPayloads, encoded, id_of, not_there
from bay.server.web import idempotency
from bay.server.web.auth import Caller
from bay.server.web.idempotency import Request
from bay.store import audit, history, skills
from bay.store.connection import StoreConnection
from bay.store.deferred import DeferredWrites
from bay.store.engine import Store

_PROMOTED: tuple[CandidateStatus, ...] = ("promoted_canary", "promoted_stable")


@dataclass(frozen=True, slots=True, kw_only=True)
class NewCandidate:
    """A skill as a caller describes it."""

    skill_key: str
    source_execution_ids: tuple[str, ...]
    scenario_key: str | None = None
    payload_ref: str | None = None
    summary: str | None = None
    usage_notes: str | None = None
    preconditions: dict[str, Any] | None = None
    postconditions: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The outcome of an evaluation."""

    passed: bool
    score: float | None = None
    benchmark_id: str | None = None
    report: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Promotion:
    """How a candidate is to be released."""

    stage: SkillStage = "canary"
    upgrade_of_release_id: str | None = None
    upgrade_reason: str | None = None
    change_summary: str | None = None


@dataclass(eq=False, kw_only=True)
class Skills:
    """The service behind `/v1/skills`."""

    store: Store
    deferred: DeferredWrites
    payloads: SkillPayloads
    clock: Clock

    async def add_payload(self, caller: Caller, kind: str, payload: Payload, key: str | None) -> str:
        """Store a payload, and return its reference. Raises InvalidArgument, Conflict or QuotaExceeded."""
        text = encoded(payload)
        request = idempotency.request(caller, key, "POST /v1/skills/payloads", [kind, text])
        async with self.store.write() as db:
            if (made := await _earlier(request, db)) is not None:
                return PREFIX + made
            ref = await self.payloads.put_in(db, caller.owner, kind, text)
            await self._claim(request, db, ref.removeprefix(PREFIX))
        return ref

    async def read_payload(self, caller: Caller, ref: str) -> tuple[str, str]:
        """The kind of a payload, and its JSON. Raises NotFound."""
        return await self.payloads.read(caller.owner, ref)

    async def delete_payload(self, caller: Caller, ref: str) -> None:
        """Remove a payload. Raises NotFound, or Conflict while a candidate or release has it."""
        payload_id = id_of(ref) or not_there(ref)
        async with self.store.write() as db:
            if await skills.payload(db, caller.owner, payload_id) is None:
                not_there(ref)
            if await skills.is_in_use(db, caller.owner, ref):
                raise Conflict(f"a candidate or release has the payload {ref}; delete those first")
            await skills.remove_payload(db, caller.owner, payload_id)
        audit.about(payload_id)

    async def create(self, caller: Caller, new: NewCandidate, key: str | None) -> SkillCandidate:
        """Make a candidate of executions. Raises NotFound for one that is in no history of the caller's."""
        text_bytes = _size(new.summary, new.usage_notes, new.payload_ref, new.scenario_key, new.skill_key)
        text_bytes += _size(*(encoded(part) for part in (new.preconditions, new.postconditions) if part))
        text_bytes += _size(*new.source_execution_ids)
        request = idempotency.request(caller, key, "POST /v1/skills/candidates", repr(new))
        async with self.store.write() as db:
            if (made := await _earlier(request, db)) is not None:
                return await self._candidate(db, caller, made)
            item = self._new(caller, new, await self._kinds(db, caller, new.source_execution_ids))
            await self.payloads.admit(db, caller.owner, text_bytes)
            await skills.add_candidate(db, caller.owner, item, text_bytes)
            await self._claim(request, db, item.id)
        return item

    async def candidates(
        self,
        caller: Caller,
        *,
        status: CandidateStatus | None,
        skill_key: str | None,
        limit: int,
        offset: int,
    ) -> tuple[list[SkillCandidate], int]:
        """Some of the caller's candidates, newest first, and how many there are."""
        async with self.store.read() as db:
            return await skills.candidates(
                db, caller.owner, status=status, skill_key=skill_key, limit=limit, offset=offset
            )

    async def candidate(self, caller: Caller, candidate_id: str) -> SkillCandidate:
        """One candidate. Raises NotFound."""
        async with self.store.read() as db:
            return await self._candidate(db, caller, candidate_id)

    async def evaluate(
        self, caller: Caller, candidate_id: str, verdict: Verdict, key: str | None
    ) -> SkillEvaluation:
        """Note an evaluation. One that failed rejects the candidate, unless it is released already."""
        text_bytes = _size(verdict.report, verdict.benchmark_id)
        call = f"POST /v1/skills/candidates/{candidate_id}/evaluate"
        request = idempotency.request(caller, key, call, repr(verdict))
        async with self.store.write() as db:
            found = await self._candidate(db, caller, candidate_id)
            if (made := await _earlier(request, db)) is not None:
                return await self._evaluation(db, caller, made)
            item = self._evaluated(caller, found, verdict)
            await self.payloads.admit(db, caller.owner, text_bytes)
            await skills.add_evaluation(db, caller.owner, item, text_bytes)
            await self._judge(db, found, item)
            await self._claim(request, db, item.id)
        audit.about(candidate_id)
        return item

    async def promote(
        self, caller: Caller, candidate_id: str, wanted: Promotion, key: str | None
    ) -> SkillRelease:
        """Release the candidate, as the only active release of its key. Raises Conflict unless its latest
        evaluation passed, and NotFound.
        """
        call = f"POST /v1/skills/candidates/{candidate_id}/promote"
        request = idempotency.request(caller, key, call, repr(wanted))
        async with self.store.write() as db:
            found = await self._candidate(db, caller, candidate_id)
            if (made := await _earlier(request, db)) is not None:
                return await self._release(db, caller, made)
            if found.latest_pass is not True:
                raise Conflict(f"the latest evaluation of {found.id} did not pass; evaluate it first")
            if wanted.upgrade_of_release_id is not None:
                await self._release(db, caller, wanted.upgrade_of_release_id)
            item = await self._next(db, caller, found.skill_key, found.id, wanted.stage)
            reasons = {name: getattr(wanted, name) for name in ("upgrade_reason", "change_summary")}
            item = replace(item, upgrade_of_release_id=wanted.upgrade_of_release_id, **reasons)
            await self._put(db, caller, item, _size(wanted.upgrade_reason, wanted.change_summary))
            await self._claim(request, db, item.id)
        return item

    async def releases(
        self,
        caller: Caller,
        *,
        skill_key: str | None,
        stage: SkillStage | None,
        active_only: bool,
        limit: int,
        offset: int,
    ) -> tuple[list[SkillRelease], int]:
        """Some of the caller's releases, newest first, and how many there are."""
        async with self.store.read() as db:
            return await skills.releases(
                db, caller.owner, skill_key=skill_key, stage=stage,
                active_only=active_only, limit=limit, offset=offset,
            )  # fmt: skip

    async def rollback(self, caller: Caller, release_id: str, key: str | None) -> SkillRelease:
        """Release once more what the nearest lower version has. Raises Conflict without one."""
        call = f"POST /v1/skills/releases/{release_id}/rollback"
        request = idempotency.request(caller, key, call, None)
        async with self.store.write() as db:
            bad = await self._release(db, caller, release_id)
            if (made := await _earlier(request, db)) is not None:
                return await self._release(db, caller, made)
            good = await skills.release_before(db, caller.owner, bad)
            if good is None:
                raise Conflict(f"no release of {bad.skill_key} is older than {bad.id}; delete it instead")
            now = self.clock()
            await skills.change_candidate(db, bad.candidate_id, status="rolled_back", updated_at=now)
            item = await self._next(db, caller, good.skill_key, good.candidate_id, good.stage)
            item = replace(item, rollback_of=bad.id)
            await self._put(db, caller, item, 0)
            await self._claim(request, db, item.id)
        return item

    async def health(self, caller: Caller, release_id: str) -> SkillHealth:
        """How the runs of a release went, beside those of the version before. Raises NotFound."""
        await self.deferred.flush()
        async with self.store.read() as db:
            item = await self._release(db, caller, release_id)
            runs = await history.runs(db, item.id, window_end(item))
            before = await skills.release_before(db, caller.owner, item)
            earlier = await history.runs(db, before.id, None) if before else NO_RUNS
        return health(item, runs, earlier, self.clock())

    async def delete_release(self, caller: Caller, release_id: str, reason: str | None) -> SkillDeletion:
        """Delete a release, active or not; again answers as before. Raises NotFound."""
        async with self.store.write() as db:
            found = await skills.release(db, caller.owner, release_id)
            if found is None:
                raise _no_release(release_id)
            audit.about(found.id)
            if (deleted_at := found.deleted_at) is not None:
                return _deletion(found, deleted_at)
            gone = self._gone(caller, found.id, reason)
            await skills.delete_release(db, found, gone)
        return gone

    async def delete_candidate(self, caller: Caller, candidate_id: str, reason: str | None) -> SkillDeletion:
        """Delete a candidate; again answers as before. Raises Conflict while a release of it is active."""
        async with self.store.write() as db:
            found = await skills.candidate(db, caller.owner, candidate_id)
            if found is None:
                raise _no_candidate(candidate_id)
            audit.about(found.id)
            if (deleted_at := found.deleted_at) is not None:
                return _deletion(found, deleted_at)
            if await skills.has_active(db, found.id):
                raise Conflict(f"a release of {found.id} is active; roll that back or delete it first")
            gone = self._gone(caller, found.id, reason)
            await skills.delete_candidate(db, found.id, gone)
        return gone

    async def _candidate(self, db: StoreConnection, caller: Caller, candidate_id: str) -> SkillCandidate:
        found = await skills.candidate(db, caller.owner, candidate_id)
        if found is None or found.deleted_at is not None:
            raise _no_candidate(candidate_id)
        return found

    async def _release(self, db: StoreConnection, caller: Caller, release_id: str) -> SkillRelease:
        found = await skills.release(db, caller.owner, release_id)
        if found is None or found.deleted_at is not None:
            raise _no_release(release_id)
        return found

    async def _evaluation(self, db: StoreConnection, caller: Caller, evaluation_id: str) -> SkillEvaluation:
        found = await skills.evaluation(db, caller.owner, evaluation_id)
        if found is None:
            raise NotFound(f"the evaluation {evaluation_id} was deleted with its candidate")
        return found

    async def _kinds(
        self, db: StoreConnection, caller: Caller, execution_ids: tuple[str, ...]
    ) -> Mapping[str, str]:
        found = await skills.kinds_of(db, caller.owner, execution_ids)
        if missing := [each for each in execution_ids if each not in found]:
            raise NotFound(f"there is no execution {missing[0]} in the history of a sandbox of yours")
        return found

    def _new(self, caller: Caller, new: NewCandidate, kinds: Mapping[str, str]) -> SkillCandidate:
        now, given = self.clock(), {name: getattr(new, name) for name in NewCandidate.__slots__}
        is_browsers = any(kind.startswith("browser") for kind in kinds.values())
        return SkillCandidate(
            **given, id=new_id("cand"), skill_type="browser" if is_browsers else "code", status="draft",
            created_by=caller.owner, created_at=now, updated_at=now,
        )  # fmt: skip

    def _evaluated(self, caller: Caller, found: SkillCandidate, verdict: Verdict) -> SkillEvaluation:
        return SkillEvaluation(
            id=new_id("eval"), candidate_id=found.id, benchmark_id=verdict.benchmark_id, score=verdict.score,
            passed=verdict.passed, report=verdict.report, evaluated_by=caller.owner, created_at=self.clock(),
        )  # fmt: skip

    async def _judge(self, db: StoreConnection, found: SkillCandidate, item: SkillEvaluation) -> None:
        status: CandidateStatus = "evaluating" if item.passed else "rejected"
        if found.status in _PROMOTED:
            status = found.status
        await skills.change_candidate(
            db, found.id, status=status, latest_score=item.score, latest_pass=item.passed,
            last_evaluated_at=item.created_at, updated_at=item.created_at,
        )  # fmt: skip

    async def _next(
        self, db: StoreConnection, caller: Caller, skill_key: str, candidate_id: str, stage: SkillStage
    ) -> SkillRelease:
        version = await skills.newest_version(db, caller.owner, skill_key) + 1
        return SkillRelease(
            id=new_id("rel"), skill_key=skill_key, candidate_id=candidate_id, version=version, stage=stage,
            is_active=True, promoted_by=caller.owner, promoted_at=self.clock(),
        )  # fmt: skip

    async def _put(self, db: StoreConnection, caller: Caller, item: SkillRelease, text_bytes: int) -> None:
        """Add a release, and have its candidate say so."""
        await self.payloads.admit(db, caller.owner, text_bytes)
        await skills.add_release(db, caller.owner, item, text_bytes)
        status: CandidateStatus = "promoted_stable" if item.stage == "stable" else "promoted_canary"
        await skills.change_candidate(
            db, item.candidate_id, status=status, promotion_release_id=item.id, updated_at=item.promoted_at
        )

    def _gone(self, caller: Caller, item_id: str, reason: str | None) -> SkillDeletion:
        return SkillDeletion(
            id=item_id, deleted_at=self.clock(), deleted_by=caller.owner, delete_reason=reason
        )

    async def _claim(self, request: Request | None, db: StoreConnection, made: str) -> None:
        """Write down what the call made, without its answer, which would be stored twice."""
        audit.about(made)
        if request is not None:
            await request.claim(db, made, None, self.clock())


async def _earlier(request: Request | None, db: StoreConnection) -> str | None:
    """The id of what an earlier call with the key made. Raises Conflict when that was another call."""
    claim = await request.earlier(db) if request else None
    return claim.resource_id if claim else None


def _deletion(found: SkillCandidate | SkillRelease, deleted_at: datetime) -> SkillDeletion:
    return SkillDeletion(
        id=found.id,
        deleted_at=deleted_at,
        deleted_by=found.deleted_by,
        delete_reason=found.delete_reason,
    )


def _size(*texts: str | None) -> int:
    return sum(len((one or "").encode()) for one in texts)


def _no_candidate(candidate_id: str) -> NotFound:
    return NotFound(f"there is no candidate {candidate_id}")


def _no_release(release_id: str) -> NotFound:
    return NotFound(f"there is no release {release_id}")
