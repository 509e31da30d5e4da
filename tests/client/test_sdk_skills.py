"""`client.skills` against a real Bay with the `fake` driver."""

import pytest
import real_bay

import bay


def executed(box: bay.Box, command: str = "true") -> str:
    return box.shell(command).execution_id


def test_a_skill_is_kept_evaluated_released_and_taken_back(client: bay.Client, box: bay.Box) -> None:
    skills, source = client.skills, executed(box)
    ref = skills.keep({"steps": [1, "two"]}, kind="steps")
    kept = skills.payload(ref)
    assert (kept.kind, kept.payload) == ("steps", {"steps": [1, "two"]})
    first = skills.create("sign-in", [source], payload_ref=ref, preconditions={"os": "linux"})
    assert (first.status, first.source_execution_ids, first.preconditions) == (
        "draft",
        (source,),
        {"os": "linux"},
    )
    with pytest.raises(bay.Conflict):
        skills.promote(first.id)
    assert skills.evaluate(first.id, passed=True, score=0.5, report="fine").score == 0.5
    one = skills.promote(first.id, stage="stable")
    again = skills.create("sign-in", [source])
    skills.evaluate(again.id, passed=True)
    two = skills.promote(again.id, change_summary="quicker")
    assert [(r.version, r.stage, r.is_active) for r in (one, two)] == [
        (1, "stable", True),
        (2, "canary", True),
    ]
    assert skills.health(two.id).samples == 0
    three = skills.rollback(two.id)
    assert (three.version, three.candidate_id, three.is_active) == (3, first.id, True)
    assert [r.version for r in skills.releases(skill_key="sign-in")] == [3, 2, 1]
    assert [r.version for r in skills.releases(skill_key="sign-in", active_only=True)] == [3]
    assert skills.candidate(again.id).status == "rolled_back"
    with pytest.raises(bay.Conflict):
        skills.delete_payload(ref)
    gone = skills.delete_release(three.id, reason="old")
    assert skills.delete_release(three.id).deleted_at == gone.deleted_at
    assert skills.delete_candidate(again.id, reason="slow").delete_reason == "slow"
    with pytest.raises(bay.NotFound):
        skills.candidate(again.id)


def test_lists_go_through_all_pages(client: bay.Client, box: bay.Box) -> None:
    source = executed(box)
    made = [client.skills.create("pages", [source]).id for _ in range(5)]
    assert [one.id for one in client.skills.candidates(skill_key="pages", limit=2)] == made[::-1]
    assert list(client.skills.candidates(skill_key="pages", status="rejected")) == []


def test_a_repeated_key_makes_one(client: bay.Client, box: bay.Box) -> None:
    source = executed(box)
    keyed = [client.skills.create("keyed", [source], idempotency_key="once-only").id for _ in range(2)]
    assert keyed[0] == keyed[1]
    refs = [client.skills.keep([1], idempotency_key="kept-once") for _ in range(2)]
    assert refs[0] == refs[1]
    client.skills.delete_payload(refs[0])
    with pytest.raises(bay.NotFound):
        client.skills.payload(refs[0])


def test_an_id_that_is_a_path_is_refused_before_it_is_sent(client: bay.Client) -> None:
    for name in ("..", ""):
        with pytest.raises(bay.InvalidArgument):
            client.skills.candidate(name)


@pytest.mark.anyio
async def test_the_async_client_has_the_same_words(real: real_bay.RealBay) -> None:
    async with bay.AsyncClient(*real.where) as client, client.sandbox() as box:
        source = (await box.shell("true")).execution_id
        made = await client.skills.create("async", [source])
        await client.skills.evaluate(made.id, passed=True)
        release = await client.skills.promote(made.id)
        assert [one.id async for one in client.skills.releases(skill_key="async")] == [release.id]
