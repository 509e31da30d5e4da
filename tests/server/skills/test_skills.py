"""The life of a skill: executions, a candidate, its evaluations, releases, their health, and the way back."""

import asyncio
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from server_harness import Json, World, assert_error, clear, create, shell, world

from bay.models import SkillRelease
from bay.server.skills.health import NO_RUNS, health
from bay.store import history, skills
from bay.store.records import RunFigures

pytestmark = pytest.mark.anyio

KEY = "fetch-report"
JSON = {"Content-Type": "application/json"}


async def ask(client: httpx.AsyncClient, method: str, path: str, status: int = 200, **sent: object) -> Json:
    body = {"json": sent} if sent else {}
    answer = await client.request(method, f"/v1/skills/{path}", **body)  # type: ignore[arg-type]
    assert answer.status_code == status, answer.text
    return answer.json()


async def executed(client: httpx.AsyncClient, command: str = "true", **body: object) -> tuple[Json, str]:
    """A sandbox, and the id of an execution in it."""
    box = await create(client)
    return box, (await shell(client, box["id"], command, **body))["execution_id"]


async def candidate(client: httpx.AsyncClient, sources: Sequence[str] = (), **body: object) -> Json:
    found = list(sources) or [(await executed(client))[1]]
    return await ask(
        client, "POST", "candidates", 201, **{"skill_key": KEY, "source_execution_ids": found, **body}
    )


async def released(client: httpx.AsyncClient, sources: Sequence[str], stage: str = "stable") -> Json:
    """A release of a new candidate that passed."""
    made = await candidate(client, sources)
    await ask(client, "POST", f"candidates/{made['id']}/evaluate", passed=True)
    return await ask(client, "POST", f"candidates/{made['id']}/promote", stage=stage)


async def test_a_payload_goes_in_and_comes_out_and_is_deleted(alice: httpx.AsyncClient) -> None:
    deep: list[object] = []
    for _ in range(300):
        deep = [deep]
    payload = {"commands": ["open x"], "odd": "é 🐚", "deep": deep}
    made = await ask(alice, "POST", "payloads", 201, payload=payload, kind="steps")
    assert set(made) == {"payload_ref", "kind"}
    assert made["kind"] == "steps"
    found = await ask(alice, "GET", f"payloads/{made['payload_ref']}")
    assert found == {"payload_ref": made["payload_ref"], "kind": "steps", "payload": payload}
    assert (await alice.delete(f"/v1/skills/payloads/{made['payload_ref']}")).status_code == 204
    assert_error(await alice.get(f"/v1/skills/payloads/{made['payload_ref']}"), 404, "not_found")
    assert (await ask(alice, "POST", "payloads", 201, payload=[]))["kind"] == "generic"


@pytest.mark.parametrize("body", [{"payload": "text"}, {"payload": 1}, {"payload": {}, "kind": ""}, {}])
async def test_a_payload_is_an_object_or_a_list(alice: httpx.AsyncClient, body: Json) -> None:
    assert_error(await alice.post("/v1/skills/payloads", json=body), 422, "validation_error")


async def test_a_payload_that_a_candidate_has_stays(alice: httpx.AsyncClient) -> None:
    ref = (await ask(alice, "POST", "payloads", 201, payload=[1]))["payload_ref"]
    made = await candidate(alice, payload_ref=ref)
    assert_error(await alice.delete(f"/v1/skills/payloads/{ref}"), 409, "conflict")
    await ask(alice, "DELETE", f"candidates/{made['id']}")
    assert (await alice.delete(f"/v1/skills/payloads/{ref}")).status_code == 204


async def test_a_candidate_begins_as_a_draft_with_every_field(alice: httpx.AsyncClient) -> None:
    _, source = await executed(alice)
    given = {"scenario_key": "s", "payload_ref": "s3://bucket/x", "summary": "Fetches", "usage_notes": "n"}
    conditions = {"preconditions": {"a": [1, None]}, "postconditions": {"b": {"c": "é"}}}
    made = await candidate(alice, [source], **given, **conditions)
    wanted = {
        **given, **conditions, "id": made["id"], "skill_key": KEY, "skill_type": "code", "status": "draft",
        "source_execution_ids": [source], "auto_release_eligible": False, "auto_release_reason": None,
        "latest_score": None, "latest_pass": None, "last_evaluated_at": None, "promotion_release_id": None,
        "created_by": "alice", "created_at": made["created_at"], "updated_at": made["created_at"],
        "is_deleted": False, "deleted_at": None, "deleted_by": None, "delete_reason": None,
    }  # fmt: skip
    assert made == wanted
    assert await ask(alice, "GET", f"candidates/{made['id']}") == made
    assert await ask(alice, "GET", "candidates") == {"items": [made], "total": 1}


async def test_a_candidate_needs_executions_of_its_owner(
    alice: httpx.AsyncClient, bob: httpx.AsyncClient
) -> None:
    box, source = await executed(alice)
    plain = (await alice.post(f"/v1/sandboxes/{box['id']}/execs", json={"command": "true"})).json()["id"]
    for client, ids in ((bob, [source]), (alice, [source, "exec-none"]), (alice, [plain])):
        body = {"skill_key": KEY, "source_execution_ids": ids}
        assert_error(await client.post("/v1/skills/candidates", json=body), 404, "not_found")
    for wrong in ([], [""], "x", None):
        body = {"skill_key": KEY, "source_execution_ids": wrong}
        assert_error(await alice.post("/v1/skills/candidates", json=body), 422, "validation_error")


async def test_a_condition_that_cannot_be_sent_back_is_refused(alice: httpx.AsyncClient) -> None:
    deep: Json = {}
    for _ in range(40):
        deep = {"a": deep}
    for wrong in (deep, {"a": "\ud800"}):
        body = json.dumps({"skill_key": KEY, "source_execution_ids": ["x"], "preconditions": wrong})
        answer = await alice.post("/v1/skills/candidates", content=body, headers=JSON)
        assert_error(answer, 422, "validation_error")


async def test_an_evaluation_is_noted_on_its_candidate(alice: httpx.AsyncClient) -> None:
    made = await candidate(alice)
    verdict: Json = {"passed": True, "score": 0.5, "benchmark_id": "b", "report": "fine"}
    noted = await ask(alice, "POST", f"candidates/{made['id']}/evaluate", **verdict)
    expected = {"id": noted["id"], "candidate_id": made["id"], "evaluated_by": "alice"}
    assert noted == {**verdict, **expected, "created_at": noted["created_at"]}
    found = await ask(alice, "GET", f"candidates/{made['id']}")
    assert (found["status"], found["latest_score"], found["latest_pass"]) == ("evaluating", 0.5, True)
    assert found["last_evaluated_at"] == noted["created_at"]
    await ask(alice, "POST", f"candidates/{made['id']}/evaluate", passed=False)
    found = await ask(alice, "GET", f"candidates/{made['id']}")
    assert (found["status"], found["latest_score"], found["latest_pass"]) == ("rejected", None, False)


async def test_only_a_candidate_that_passed_is_promoted(alice: httpx.AsyncClient) -> None:
    made = await candidate(alice)
    promote = f"/v1/skills/candidates/{made['id']}/promote"
    assert_error(await alice.post(promote, json={}), 409, "conflict")
    await ask(alice, "POST", f"candidates/{made['id']}/evaluate", passed=False)
    assert_error(await alice.post(promote, json={}), 409, "conflict")
    await ask(alice, "POST", f"candidates/{made['id']}/evaluate", passed=True)
    assert_error(await alice.post(promote, json={"stage": "beta"}), 422, "validation_error")
    unknown = {"upgrade_of_release_id": "rel-none"}
    assert_error(await alice.post(promote, json=unknown), 404, "not_found")
    release = await ask(alice, "POST", f"candidates/{made['id']}/promote")
    assert (release["stage"], release["version"], release["is_active"]) == ("canary", 1, True)
    found = await ask(alice, "GET", f"candidates/{made['id']}")
    assert (found["status"], found["promotion_release_id"]) == ("promoted_canary", release["id"])


async def test_a_promotion_deactivates_every_other_release_of_its_key(alice: httpx.AsyncClient) -> None:
    _, source = await executed(alice)
    first, second = [await released(alice, [source]) for _ in range(2)]
    assert (first["version"], second["version"]) == (1, 2)
    assert set(first) == set(SkillRelease.__slots__)
    items = (await ask(alice, "GET", f"releases?skill_key={KEY}"))["items"]
    assert [(item["id"], item["is_active"]) for item in items] == [(second["id"], True), (first["id"], False)]
    active = await ask(alice, "GET", "releases?active_only=true&stage=stable&limit=1&offset=0")
    assert active == {"items": [second], "total": 1}
    assert (await ask(alice, "GET", "releases?stage=canary")) == {"items": [], "total": 0}
    page = await ask(alice, "GET", "releases?limit=1&offset=1")
    assert (page["items"][0]["id"], page["total"]) == (first["id"], 2)


async def test_promotions_at_once_leave_one_active_release(alice: httpx.AsyncClient) -> None:
    _, source = await executed(alice)
    made = await asyncio.gather(*(released(alice, [source]) for _ in range(8)))
    assert sorted(one["version"] for one in made) == list(range(1, 9))
    assert (await ask(alice, "GET", "releases?active_only=true"))["total"] == 1


async def test_a_rollback_releases_what_the_version_before_has(alice: httpx.AsyncClient) -> None:
    _, source = await executed(alice)
    first, middle, last = [await released(alice, [source], stage) for stage in ("canary", "stable", "stable")]
    await ask(alice, "DELETE", f"releases/{middle['id']}")
    back = await ask(alice, "POST", f"releases/{last['id']}/rollback")
    assert (back["version"], back["is_active"], back["rollback_of"]) == (4, True, last["id"])
    assert (back["candidate_id"], back["stage"]) == (first["candidate_id"], "canary")
    bad = await ask(alice, "GET", f"candidates/{last['candidate_id']}")
    good = await ask(alice, "GET", f"candidates/{first['candidate_id']}")
    assert bad["status"] == "rolled_back"
    assert (good["status"], good["promotion_release_id"]) == ("promoted_canary", back["id"])
    answer = await alice.post(f"/v1/skills/releases/{first['id']}/rollback")
    assert_error(answer, 409, "conflict")


async def test_a_deletion_is_soft_and_may_be_repeated(alice: httpx.AsyncClient) -> None:
    _, source = await executed(alice)
    release = await released(alice, [source])
    by_candidate, by_release = f"candidates/{release['candidate_id']}", f"releases/{release['id']}"
    assert_error(await alice.delete(f"/v1/skills/{by_candidate}"), 409, "conflict")
    gone = await ask(alice, "DELETE", by_release, reason="wrong")
    assert gone == {
        "id": release["id"],
        "deleted_at": gone["deleted_at"],
        "deleted_by": "alice",
        "delete_reason": "wrong",
    }
    assert await ask(alice, "DELETE", by_release) == gone
    assert (await ask(alice, "GET", by_candidate))["promotion_release_id"] is None
    assert (await ask(alice, "GET", "releases"))["total"] == 0
    assert (await ask(alice, "DELETE", by_candidate))["delete_reason"] is None
    assert_error(await alice.get(f"/v1/skills/{by_candidate}"), 404, "not_found")
    assert_error(await alice.get(f"/v1/skills/{by_release}/health"), 404, "not_found")
    assert (await released(alice, [source]))["version"] == 2


async def test_one_key_makes_one_of_each(bay: World, alice: httpx.AsyncClient) -> None:
    _, source = await executed(alice)
    headers = {"Idempotency-Key": "k"}

    async def thrice(name: str, path: str, body: Json | None) -> Json:
        keyed = {"Idempotency-Key": name}
        answers = [await alice.post(f"/v1/skills/{path}", json=body, headers=keyed) for _ in range(3)]
        assert answers[0].status_code in (200, 201)
        assert {answer.text for answer in answers} == {answers[0].text}
        return answers[0].json()

    await thrice("p", "payloads", {"payload": ["x" * 5000]})
    made = await thrice("c", "candidates", {"skill_key": KEY, "source_execution_ids": [source]})
    await thrice("e", f"candidates/{made['id']}/evaluate", {"passed": True})
    await thrice("r", f"candidates/{made['id']}/promote", {"stage": "stable"})
    await released(alice, [source])
    newest = (await ask(alice, "GET", "releases"))["items"][0]
    await thrice("b", f"releases/{newest['id']}/rollback", None)
    counts = [
        (await bay.sql(f"SELECT count(*) FROM skill_{name}"))[0][0]  # noqa: S608
        for name in ("payloads", "candidates", "evaluations", "releases")
    ]
    assert counts == [1, 2, 2, 3]
    blobs = "FROM claims WHERE substr(resource_id, 1, 5) = 'blob-'"
    assert await bay.sql(f"SELECT sum(length(CAST(answer AS TEXT))) {blobs}") == [(None,)]
    await alice.post("/v1/skills/payloads", json={"payload": [1]}, headers=headers)
    other = await alice.post("/v1/skills/payloads", json={"payload": [2]}, headers=headers)
    assert_error(other, 409, "conflict")


async def test_each_kind_of_row_counts_in_the_space_of_its_owner(root: Path) -> None:
    try:
        async with world(root, skills_max_mb=1) as bay:
            alice, bob = await bay.client("alice"), await bay.client("bob")
            _, source = await executed(alice)
            made = await candidate(alice, [source], summary="s" * 1000)
            report = {"passed": True, "report": "r" * 60_000}
            path = f"/v1/skills/candidates/{made['id']}/evaluate"
            codes = [(await alice.post(path, json=report)).status_code for _ in range(20)]
            assert codes == [200] * 17 + [429] * 3
            refused = assert_error(await alice.post(path, json=report), 429, "quota_exceeded")
            assert refused["details"]["quota"] == "skills_max_mb"
            large = {"payload": ["x" * 60_000]}
            assert (await alice.post("/v1/skills/payloads", json=large)).status_code == 429
            assert (await bob.post("/v1/skills/payloads", json=large)).status_code == 201
            await ask(alice, "DELETE", f"candidates/{made['id']}")
            assert (await alice.post("/v1/skills/payloads", json=large)).status_code == 201
    finally:
        await clear(root)


async def test_the_health_of_a_release_counts_its_runs(
    alice: httpx.AsyncClient, bob: httpx.AsyncClient
) -> None:
    box, source = await executed(alice)
    first = await released(alice, [source])
    for _ in range(4):
        await shell(alice, box["id"], "true", tags=f"x,release:{first['id']}")
    second = await released(alice, [source])
    await shell(alice, box["id"], "true", tags=f"release:{second['id']}")
    await shell(alice, box["id"], "false", tags=f"release:{second['id']}")
    theirs, _ = await executed(bob, "false", tags=f"release:{second['id']}")
    assert theirs["id"]
    found = await ask(alice, "GET", f"releases/{second['id']}/health")
    assert (found["samples"], found["success_rate"], found["error_rate"]) == (2, 0.5, 0.5)
    assert (found["baseline_samples"], found["baseline_success_rate"]) == (4, 1.0)
    assert (found["success_drop"], found["healthy"], found["should_rollback"]) == (0.5, False, True)
    assert found["thresholds"] == {"success_drop": 0.03, "error_rate_multiplier": 2.0}
    assert len(found["rollback_reasons"]) == 1
    assert found["window_complete"] is False
    assert isinstance(found["p95_duration"], int)


async def test_runs_count_that_were_in_sandboxes_that_are_gone(bay: World, alice: httpx.AsyncClient) -> None:
    box, source = await executed(alice)
    release = await released(alice, [source])
    for command in ("true", "false", "sleep 0.01"):
        await shell(alice, box["id"], command, tags=f"release:{release['id']}")
    before = await ask(alice, "GET", f"releases/{release['id']}/health")
    assert (before["samples"], before["success_rate"]) == (3, 0.666667)
    assert before["p95_duration"] >= 10
    assert (await alice.delete(f"/v1/sandboxes/{box['id']}")).status_code == 204
    await bay.settled(box["id"], lambda row: row.deleted_at is not None)
    assert await bay.sql("SELECT * FROM execs") == []
    assert await ask(alice, "GET", f"releases/{release['id']}/health") == before


async def test_a_tag_that_is_set_or_taken_later_makes_and_unmakes_a_run(alice: httpx.AsyncClient) -> None:
    box, source = await executed(alice)
    release = await released(alice, [source])
    entry = f"/v1/sandboxes/{box['id']}/history/{source}"
    for tags, samples in ((f"release:{release['id']}", 1), ("release:rel-none", 0), ("", 0)):
        await alice.patch(entry, json={"tags": tags})
        assert (await ask(alice, "GET", f"releases/{release['id']}/health"))["samples"] == samples, tags


@pytest.mark.sqlite
async def test_the_health_of_a_release_is_read_from_an_index_alone(bay: World) -> None:
    seen: list[str] = []
    async with bay.bay.store.read() as db:
        run = db.execute

        async def noted(statement: object, *args: object, **kwargs: object) -> object:
            seen.append(str(statement.compile(compile_kwargs={"literal_binds": True})))  # type: ignore[attr-defined]
            return await run(statement, *args, **kwargs)  # type: ignore[arg-type]

        db.execute = noted  # type: ignore[method-assign,assignment]
        await history.runs(db, "rel-1", bay.clock())
    assert len(seen) == 2
    for statement in seen:
        plan = " ".join(str(row[-1]) for row in await bay.sql(f"EXPLAIN QUERY PLAN {statement}"))
        for index in ("ix_execs_release_id", "ix_skill_runs_release_id"):
            assert f"USING COVERING INDEX {index}" in plan, (statement, plan)


RELEASE = SkillRelease(
    id="rel-1", skill_key=KEY, candidate_id="cand-1", version=2, stage="stable", is_active=True,
    promoted_at=datetime(2030, 1, 1, tzinfo=UTC),
)  # fmt: skip


@pytest.mark.parametrize(
    ("runs", "before", "reasons"),
    [
        ((0, 0), (10, 10), 0),
        ((10, 0), (0, 0), 0),
        ((100, 97), (100, 100), 0),
        ((100, 96), (100, 100), 1),
        ((100, 90), (100, 96), 2),
        ((100, 98), (100, 99), 0),
        ((1000, 970), (1000, 990), 1),
    ],
)
def test_a_release_that_does_worse_than_the_one_before_should_be_rolled_back(
    runs: tuple[int, int], before: tuple[int, int], reasons: int
) -> None:
    now = RELEASE.promoted_at + timedelta(hours=25)
    found = health(RELEASE, figures(runs), figures(before), now)
    assert len(found.rollback_reasons) == reasons
    assert (found.healthy, found.should_rollback) == (not reasons, bool(reasons))
    assert found.window_complete


def figures(counts: tuple[int, int]) -> RunFigures:
    return RunFigures(samples=counts[0], successes=counts[1], p95_ms=5) if counts[0] else NO_RUNS


async def test_traces_and_deleted_skills_go_after_their_time(bay: World, alice: httpx.AsyncClient) -> None:
    payloads = bay.bay.skill_payloads
    old = await payloads.put("alice", "browser_exec_trace", {"steps": []})
    used = await payloads.put("alice", "browser_batch_trace", {"steps": []})
    plain = await payloads.put("alice", "generic", {"steps": []})
    box, source = await executed(alice)
    assert box["id"]
    await candidate(alice, [source], payload_ref=used)
    first, second = [await released(alice, [source]) for _ in range(2)]
    for release in (first, second):
        await ask(alice, "DELETE", f"releases/{release['id']}")
        await ask(alice, "DELETE", f"candidates/{release['candidate_id']}")
    bay.clock.advance(timedelta(days=40_000).total_seconds())
    await bay.bay.housekeeping.housekeep()
    async with bay.bay.store.read() as db:
        left = [await skills.payload(db, "alice", ref.removeprefix("blob:")) for ref in (old, used, plain)]
        kept = [await skills.release(db, "alice", one["id"]) for one in (first, second)]
        candidates = [await skills.candidate(db, "alice", one["candidate_id"]) for one in (first, second)]
    assert [one is not None for one in left] == [False, True, True]
    assert [one is not None for one in kept] == [False, True]  # the newest version is never given again
    assert [one is not None for one in candidates] == [False, True]
