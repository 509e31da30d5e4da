"""The routes `/v1/skills`: payloads, candidates and releases of skills."""

import json
from typing import Annotated, Any, cast

from fastapi import Query, Response
from pydantic import BaseModel, Field, StringConstraints, WithJsonSchema

from bay.errors import InvalidArgument
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
from bay.server.skills.service import NewCandidate, Promotion, Skills, Verdict
from bay.server.web.bodies import Body, Most
from bay.server.web.dependencies import IdempotencyKey, Reader, Writer, noun_router, service
from bay.server.web.replies import Items, WireResponse

router = noun_router("skills", "/v1/skills")

SkillsDep = Annotated[Skills, service(Skills)]

MAX_SOURCES = 100
MAX_DEPTH = 32

FreeObject = Annotated[dict[str, Any], WithJsonSchema({"type": "object", "patternProperties": {"": {}}})]
"""An object of whatever fields, which Bay stores and does not read."""
ShortText = Annotated[str, StringConstraints(min_length=1, max_length=255, pattern=r"^[^\x00-\x1f\x7f]*$")]
LongText = Annotated[str | None, Field(max_length=64 * 1024)]
Id = Annotated[str, StringConstraints(min_length=1, max_length=64)]
SkillKeyFilter = Annotated[str | None, Query(max_length=255, description="Only those of this key")]
PageLimit = Annotated[int, Query(ge=1, le=500, description="Most items to return")]
PageOffset = Annotated[int, Query(ge=0, lt=2**63, description="Items to skip")]


class CreatePayload(Body):
    """A JSON value to keep."""

    payload: FreeObject | list[Any]
    kind: Annotated[str, StringConstraints(min_length=1, max_length=128)] = "generic"


class PayloadRef(BaseModel):
    """The reference of a stored payload."""

    payload_ref: str
    kind: str


class CreateCandidate(Body):
    """A skill, and the executions that it was seen in."""

    skill_key: ShortText
    source_execution_ids: Annotated[tuple[Id, ...], Field(min_length=1), Most(MAX_SOURCES)]
    scenario_key: ShortText | None = None
    payload_ref: Annotated[
        str | None, Field(max_length=1024, description="Of a payload of Bay, or of whatever other store")
    ] = None
    summary: LongText = None
    usage_notes: LongText = None
    preconditions: FreeObject | None = None
    postconditions: FreeObject | None = None

    def to_noun(self) -> NewCandidate:
        """The class that the service takes. Raises InvalidArgument for what could not be sent back."""
        for name in ("preconditions", "postconditions"):
            _check_plain(name, getattr(self, name))
        return NewCandidate(**dict(self))


class Evaluate(Body):
    """The outcome of an evaluation."""

    passed: bool
    score: Annotated[float | None, Field(allow_inf_nan=False)] = None
    benchmark_id: ShortText | None = None
    report: LongText = None


class Promote(Body):
    """How a candidate is released."""

    stage: SkillStage = "canary"
    upgrade_of_release_id: Id | None = None
    upgrade_reason: LongText = None
    change_summary: LongText = None


class DeleteSkill(Body):
    """Why it is deleted."""

    reason: Annotated[str | None, Field(max_length=1024)] = None


class CandidateList(Items[SkillCandidate]):
    """Candidates, newest first, and how many there are in all."""

    total: int


class ReleaseList(Items[SkillRelease]):
    """Releases, newest first, and how many there are in all."""

    total: int


@router.post("/payloads", status_code=201, response_model=PayloadRef)
async def create_payload(
    caller: Writer, skills: SkillsDep, body: CreatePayload, idempotency_key: IdempotencyKey = None
) -> WireResponse:
    """Store a JSON value, which a candidate may name."""
    ref = await skills.add_payload(caller, body.kind, body.payload, idempotency_key)
    return WireResponse({"payload_ref": ref, "kind": body.kind}, 201)


@router.get("/payloads/{payload_ref:path}", response_model=SkillPayload)
async def get_payload(caller: Reader, skills: SkillsDep, payload_ref: str) -> Response:
    """A stored JSON value."""
    kind, text = await skills.read_payload(caller, payload_ref)
    head = json.dumps({"payload_ref": payload_ref, "kind": kind})
    return Response(f'{head[:-1]}, "payload": {text}}}', media_type="application/json")


@router.delete("/payloads/{payload_ref:path}", status_code=204)
async def delete_payload(caller: Writer, skills: SkillsDep, payload_ref: str) -> Response:
    """Remove a stored JSON value that no candidate or release has."""
    await skills.delete_payload(caller, payload_ref)
    return Response(status_code=204)


@router.post("/candidates", status_code=201, response_model=SkillCandidate)
async def create_candidate(
    caller: Writer, skills: SkillsDep, body: CreateCandidate, idempotency_key: IdempotencyKey = None
) -> WireResponse:
    """Make a candidate of a skill out of your executions."""
    return WireResponse(await skills.create(caller, body.to_noun(), idempotency_key), 201)


@router.get("/candidates", response_model=CandidateList)
async def list_candidates(
    caller: Reader,
    skills: SkillsDep,
    status: Annotated[CandidateStatus | None, Query(description="Only those of this status")] = None,
    skill_key: SkillKeyFilter = None,
    limit: PageLimit = 100,
    offset: PageOffset = 0,
) -> WireResponse:
    """Your candidates, newest first."""
    items, total = await skills.candidates(
        caller, status=status, skill_key=skill_key, limit=limit, offset=offset
    )
    return WireResponse({"items": items, "total": total})


@router.get("/candidates/{candidate_id}", response_model=SkillCandidate)
async def get_candidate(caller: Reader, skills: SkillsDep, candidate_id: str) -> WireResponse:
    """One candidate."""
    return WireResponse(await skills.candidate(caller, candidate_id))


@router.delete("/candidates/{candidate_id}", response_model=SkillDeletion)
async def delete_candidate(
    caller: Writer, skills: SkillsDep, candidate_id: str, body: DeleteSkill | None = None
) -> WireResponse:
    """Delete a candidate of which no release is active."""
    return WireResponse(await skills.delete_candidate(caller, candidate_id, body.reason if body else None))


@router.post("/candidates/{candidate_id}/evaluate", response_model=SkillEvaluation)
async def evaluate_candidate(
    caller: Writer,
    skills: SkillsDep,
    candidate_id: str,
    body: Evaluate,
    idempotency_key: IdempotencyKey = None,
) -> WireResponse:
    """Note the outcome of an evaluation."""
    verdict = Verdict(**dict(body))
    return WireResponse(await skills.evaluate(caller, candidate_id, verdict, idempotency_key))


@router.post("/candidates/{candidate_id}/promote", response_model=SkillRelease)
async def promote_candidate(
    caller: Writer,
    skills: SkillsDep,
    candidate_id: str,
    body: Promote | None = None,
    idempotency_key: IdempotencyKey = None,
) -> WireResponse:
    """Release a candidate whose latest evaluation passed, in place of the active release of its key."""
    wanted = Promotion(**dict(body or Promote()))
    return WireResponse(await skills.promote(caller, candidate_id, wanted, idempotency_key))


@router.get("/releases", response_model=ReleaseList)
async def list_releases(
    caller: Reader,
    skills: SkillsDep,
    skill_key: SkillKeyFilter = None,
    active_only: bool = False,
    stage: Annotated[SkillStage | None, Query(description="Only those of this stage")] = None,
    limit: PageLimit = 100,
    offset: PageOffset = 0,
) -> WireResponse:
    """Your releases, newest first."""
    items, total = await skills.releases(
        caller, skill_key=skill_key, stage=stage, active_only=active_only, limit=limit, offset=offset
    )
    return WireResponse({"items": items, "total": total})


@router.get("/releases/{release_id}/health", response_model=SkillHealth)
async def release_health(caller: Reader, skills: SkillsDep, release_id: str) -> WireResponse:
    """How the runs of a release went, beside those of the version before it."""
    return WireResponse(await skills.health(caller, release_id))


@router.post("/releases/{release_id}/rollback", response_model=SkillRelease)
async def rollback_release(
    caller: Writer, skills: SkillsDep, release_id: str, idempotency_key: IdempotencyKey = None
) -> WireResponse:
    """Make a new release of what the version before has, and have it active."""
    return WireResponse(await skills.rollback(caller, release_id, idempotency_key))


@router.delete("/releases/{release_id}", response_model=SkillDeletion)
async def delete_release(
    caller: Writer, skills: SkillsDep, release_id: str, body: DeleteSkill | None = None
) -> WireResponse:
    """Delete a release, active or not."""
    return WireResponse(await skills.delete_release(caller, release_id, body.reason if body else None))


def _check_plain(name: str, value: object) -> None:
    """Raises InvalidArgument for an object that is nested too deeply, or has half of a character."""
    depth, level = 0, [value]
    while level:
        depth += 1
        level = [inner for outer in level for inner in _inner(outer)]
        if depth > MAX_DEPTH:
            raise InvalidArgument(f"{name} is nested deeper than {MAX_DEPTH}", details={"field": name})
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except ValueError as error:
        raise InvalidArgument(
            f"{name} has a number or a character that JSON lacks; change it", details={"field": name}
        ) from error


def _inner(value: object) -> list[object]:
    if isinstance(value, dict):
        return list(cast("dict[str, object]", value).values())
    return cast("list[object]", value) if isinstance(value, list) else []
