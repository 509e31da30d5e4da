"""The skills of an owner: what executions showed to work, and its releases."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, TypeVar

from bay.client._answers import items, model
from bay.client._async.http import AsyncNoun
from bay.client._calls import Call, Json, given, list_params
from bay.client._paths import noun_path
from bay.models import (
    CandidateStatus,
    SkillCandidate,
    SkillDeletion,
    SkillEvaluation,
    SkillHealth,
    SkillPayload,
    SkillRelease,
    SkillStage,
)

_PAGE = 100

T = TypeVar("T", SkillCandidate, SkillRelease)


class AsyncSkills(AsyncNoun):
    """The skills of the key's owner: payloads, candidates, and releases. Calls that make something are sent
    again by themselves when the connection fails, under one idempotency key.
    """

    async def keep(
        self,
        payload: Mapping[str, Any] | Sequence[Any],
        *,
        kind: str = "generic",
        idempotency_key: str | None = None,
    ) -> str:
        """Store a JSON object or list, 1 MiB at most; its reference. Raises QuotaExceeded."""
        value = dict(payload) if isinstance(payload, Mapping) else list(payload)
        call = Call.once("/v1/skills/payloads", {"payload": value, "kind": kind}, idempotency_key)
        return str((await self._http.json(call))["payload_ref"])

    async def payload(self, payload_ref: str) -> SkillPayload:
        """A stored JSON value. Raises NotFound."""
        return await self._http.one(SkillPayload, Call.get(noun_path("skills/payloads", payload_ref)))

    async def delete_payload(self, payload_ref: str) -> None:
        """Remove a stored JSON value. Raises Conflict while a candidate or a release has it."""
        await self._http.json(Call("DELETE", noun_path("skills/payloads", payload_ref)))

    async def create(
        self,
        skill_key: str,
        source_execution_ids: Sequence[str],
        *,
        scenario_key: str | None = None,
        payload_ref: str | None = None,
        summary: str | None = None,
        usage_notes: str | None = None,
        preconditions: Mapping[str, Any] | None = None,
        postconditions: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
    ) -> SkillCandidate:
        """A candidate of the skill `skill_key`, seen in 1 to 100 executions of your history. `payload_ref`
        may be of any store. Raises NotFound for an execution that is in no history of yours, QuotaExceeded.
        """
        body = given(
            skill_key=skill_key, source_execution_ids=list(source_execution_ids), scenario_key=scenario_key,
            payload_ref=payload_ref, summary=summary, usage_notes=usage_notes, preconditions=preconditions,
            postconditions=postconditions,
        )  # fmt: skip
        return await self._http.one(SkillCandidate, Call.once("/v1/skills/candidates", body, idempotency_key))

    def candidates(
        self, *, status: CandidateStatus | None = None, skill_key: str | None = None, limit: int = _PAGE
    ) -> AsyncGenerator[SkillCandidate, None]:
        """Every candidate that matches, newest first; `limit` (at most 500) is the size of a page."""
        filters = given(status=status, skill_key=skill_key)
        return self._listed(SkillCandidate, "/v1/skills/candidates", filters, limit)

    async def candidate(self, candidate_id: str) -> SkillCandidate:
        """One candidate. Raises NotFound."""
        return await self._http.one(SkillCandidate, Call.get(noun_path("skills/candidates", candidate_id)))

    async def delete_candidate(self, candidate_id: str, *, reason: str | None = None) -> SkillDeletion:
        """Delete a candidate. A second delete answers as the first. Raises Conflict while a release of it is
        active.
        """
        return await self._delete("candidates", candidate_id, reason)

    async def evaluate(
        self,
        candidate_id: str,
        *,
        passed: bool,
        score: float | None = None,
        benchmark_id: str | None = None,
        report: str | None = None,
        idempotency_key: str | None = None,
    ) -> SkillEvaluation:
        """Note the outcome of an evaluation, the latest of which counts. Raises NotFound."""
        body = given(passed=passed, score=score, benchmark_id=benchmark_id, report=report)
        path = noun_path("skills/candidates", candidate_id, "evaluate")
        return await self._http.one(SkillEvaluation, Call.once(path, body, idempotency_key))

    async def promote(
        self,
        candidate_id: str,
        *,
        stage: SkillStage = "canary",
        upgrade_of_release_id: str | None = None,
        upgrade_reason: str | None = None,
        change_summary: str | None = None,
        idempotency_key: str | None = None,
    ) -> SkillRelease:
        """Release a candidate in place of the active release of its key. Raises Conflict unless its latest
        evaluation passed.
        """
        body = given(
            stage=stage, upgrade_of_release_id=upgrade_of_release_id, upgrade_reason=upgrade_reason,
            change_summary=change_summary,
        )  # fmt: skip
        path = noun_path("skills/candidates", candidate_id, "promote")
        return await self._http.one(SkillRelease, Call.once(path, body, idempotency_key))

    def releases(
        self,
        *,
        skill_key: str | None = None,
        stage: SkillStage | None = None,
        active_only: bool = False,
        limit: int = _PAGE,
    ) -> AsyncGenerator[SkillRelease, None]:
        """Every release that matches, newest first; `limit` (at most 500) is the size of a page."""
        filters = given(skill_key=skill_key, stage=stage, active_only="true" if active_only else None)
        return self._listed(SkillRelease, "/v1/skills/releases", filters, limit)

    async def health(self, release_id: str) -> SkillHealth:
        """How the runs of a release went, beside those of the version before it. Raises NotFound."""
        return await self._http.one(SkillHealth, Call.get(noun_path("skills/releases", release_id, "health")))

    async def rollback(self, release_id: str, *, idempotency_key: str | None = None) -> SkillRelease:
        """A new, active release of what the nearest lower version has. Raises Conflict without one."""
        path = noun_path("skills/releases", release_id, "rollback")
        return await self._http.one(SkillRelease, Call.once(path, {}, idempotency_key))

    async def delete_release(self, release_id: str, *, reason: str | None = None) -> SkillDeletion:
        """Delete a release, active or not. A second delete answers as the first. Raises NotFound."""
        return await self._delete("releases", release_id, reason)

    async def _delete(self, noun: str, thing: str, reason: str | None) -> SkillDeletion:
        call = Call("DELETE", noun_path(f"skills/{noun}", thing), body=given(reason=reason), safe=True)
        return await self._http.one(SkillDeletion, call)

    async def _listed(self, kind: type[T], path: str, filters: Json, limit: int) -> AsyncGenerator[T, None]:
        """The items of pages by offset. One that is made meanwhile may move another to the next page, where
        it is not given again.
        """
        offset, seen = 0, set[str]()
        while True:
            page = await self._http.json(
                Call.get(path, list_params({**filters, "limit": limit, "offset": offset}, None))
            )
            found = items(page)
            for item in (model(kind, one) for one in found):
                if item.id not in seen:
                    seen.add(item.id)
                    yield item
            offset += len(found)
            if not found or offset >= page["total"]:
                return
