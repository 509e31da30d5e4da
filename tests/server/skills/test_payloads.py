"""Payloads of skills: stored whole, read by their owner alone, within the owner's space."""

import pytest
from server_harness import World

from bay.errors import InvalidArgument, NotFound, QuotaExceeded
from bay.server.skills.payloads import MAX_PAYLOAD_BYTES

pytestmark = pytest.mark.anyio

TRACE = {
    "steps": [{"kind": "individual_action", "cmd": "open http://x", "stdout": "é\ud800", "exit_code": 0}]
}


async def test_a_stored_payload_is_read_as_it_was(bay: World) -> None:
    payloads = bay.bay.skill_payloads
    ref = await payloads.put("alice", "browser_exec_trace", TRACE)
    assert ref.startswith("blob:blob-")
    found = await payloads.get("alice", ref)
    assert (found.payload_ref, found.kind, found.payload) == (ref, "browser_exec_trace", TRACE)


@pytest.mark.parametrize(
    "ref", ["blob:blob-0123456789abcdef01234567", "blob:x", "s3://bucket/x", "", "blob:"]
)
async def test_a_reference_to_nothing_is_not_found(bay: World, ref: str) -> None:
    with pytest.raises(NotFound):
        await bay.bay.skill_payloads.get("alice", ref)


async def test_a_payload_of_another_owner_is_not_found(bay: World) -> None:
    ref = await bay.bay.skill_payloads.put("alice", "generic", [1])
    with pytest.raises(NotFound):
        await bay.bay.skill_payloads.get("bob", ref)


async def test_payloads_fill_the_space_of_their_owner_alone(bay: World) -> None:
    payloads = bay.bay.skill_payloads
    payloads.max_bytes = 3000
    await payloads.put("alice", "generic", ["x" * 2000])
    with pytest.raises(QuotaExceeded, match="skills_max_mb"):
        await payloads.put("alice", "generic", ["x" * 2000])
    await payloads.put("bob", "generic", ["x" * 2000])


@pytest.mark.parametrize("odd", ["nan", "deep", "large"])
async def test_a_payload_that_is_no_json_or_too_large_is_refused(bay: World, odd: str) -> None:
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    value = {"nan": [float("nan")], "deep": deep, "large": ["x" * MAX_PAYLOAD_BYTES]}[odd]
    with pytest.raises(InvalidArgument):
        await bay.bay.skill_payloads.put("alice", "generic", value)
