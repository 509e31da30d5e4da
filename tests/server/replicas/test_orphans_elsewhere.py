"""Sessions without a row that a replica finds which does not act on their sandbox."""

import pytest
from replica_worlds import owner_first
from server_harness import World, assert_error, create, eventually

pytestmark = [pytest.mark.anyio, pytest.mark.postgres]


async def test_a_sandbox_does_not_start_beside_an_orphan_that_another_replica_could_not_remove(
    replicas: list[World],
) -> None:
    alice = await replicas[0].client()
    box = await create(alice, wait=20)
    owner, other = owner_first(replicas, box["id"])
    old = (await owner.session(box["id"])).id
    for one in replicas:
        one.driver.fail_at = "destroy"
    async with owner.bay.store.write() as db:
        await db.exec_driver_sql("UPDATE sessions SET phase = 'ended', ended_at = created_at")
        await db.exec_driver_sql("UPDATE sandboxes SET target = 'stopped'")
    assert await other.bay.reconciler.orphans.remove_sessions() == 0

    async def is_known() -> bool:
        return owner.bay.reconciler.orphans.left() == [old]

    await eventually(is_known)
    answer = await alice.post(
        f"/v1/sandboxes/{box['id']}/execs", json={"argv": ["true"]}, params={"wait": 20}
    )
    assert old in assert_error(answer, 503, "session_not_ready")["message"]
    for one in replicas:
        one.driver.fail_at = None
    await owner.bay.reconciler.orphans.try_again()
    assert await owner.owned() == set()
