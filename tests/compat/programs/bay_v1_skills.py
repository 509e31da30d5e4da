"""The life of a skill in Bay v1, by `shipyard-neo-sdk`: from an execution to a release, and back."""

import asyncio
import os
from collections.abc import Awaitable

from shipyard_neo import BayClient, ConflictError, NotFoundError

URL, KEY = os.environ["BAY_URL"], os.environ["BAY_API_KEY"]


async def refused(call: Awaitable[object], error: type[Exception]) -> None:
    try:
        await call
    except error:
        return
    raise AssertionError(f"not refused with {error.__name__}")


async def skills(client: BayClient, box) -> None:
    runs = [(await box.shell.exec("true")).execution_id]
    kept = await client.skills.create_payload(payload={"commands": ["open"]}, kind="steps")
    assert (await client.skills.get_payload(kept.payload_ref)).payload == {"commands": ["open"]}
    releases = []
    for stage in ("canary", "stable"):
        made = await client.skills.create_candidate(
            skill_key="look", source_execution_ids=runs, payload_ref=kept.payload_ref, summary="Looks"
        )
        await refused(client.skills.promote_candidate(made.id), ConflictError)
        await client.skills.evaluate_candidate(made.id, passed=True, score=0.9, report="good")
        releases.append(await client.skills.promote_candidate(made.id, stage=stage))
    await box.shell.exec("true", tags=f"release:{releases[1].id}")
    health = await client.skills.get_release_health(releases[1].id)
    assert (health.samples, health.healthy) == (1, True)
    back = await client.skills.rollback_release(releases[1].id)
    assert (back.version, back.candidate_id) == (3, releases[0].candidate_id)
    active = await client.skills.list_releases(skill_key="look", active_only=True)
    assert [item.id for item in active.items] == [back.id]
    assert (await client.skills.list_candidates(status="rolled_back")).total == 1
    await client.skills.delete_release(back.id, reason="the end")
    gone = await client.skills.delete_candidate(back.candidate_id)
    assert gone["id"] == back.candidate_id
    await refused(client.skills.get_candidate(back.candidate_id), NotFoundError)


async def main() -> None:
    async with BayClient(URL, KEY) as client:
        box = await client.create_sandbox(ttl=600)
        await skills(client, box)
        await box.delete()
    print("done")


asyncio.run(main())
