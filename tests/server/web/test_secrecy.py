"""What is secret is in no log, and a key that was given up opens nothing."""

import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from server_harness import World, assert_error, create, world

pytestmark = pytest.mark.anyio


FAILING = """
import sys, structlog
from bay.server import logs
logs.configure("info", sys.argv[1])
def fail(token):
    held = {"token": token}
    return len(held) / 0
try:
    fail("s3c" + "ret")
except ZeroDivisionError:
    structlog.get_logger("test").exception("failed")
"""


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_traceback_in_the_log_shows_no_values(form: str) -> None:
    # In a process of its own, since logging is set up once for a whole process.
    said = subprocess.run(
        [sys.executable, "-c", FAILING, form], capture_output=True, text=True, timeout=30, check=True
    ).stderr
    assert "ZeroDivisionError" in said
    assert "s3cret" not in said


async def test_a_row_that_is_shown_shows_no_secret(bay: World, alice: httpx.AsyncClient) -> None:
    made = await create(alice, env={"PASSWORD": "s3cret"}, wait=15)
    record = await bay.record(made["id"])
    assert record.session is not None
    assert "s3cret" not in repr(record)
    assert record.session.token not in repr(record)


async def test_another_bay_api_key_takes_the_place_of_the_one_before(root: Path) -> None:
    for given, others in (
        ("first-key-of-all", ["second-key-of-all"]),
        ("second-key-of-all", ["first-key-of-all"]),
        ("first-key-of-all", []),
    ):
        async with world(root, api_key=given) as running:
            client = await running.open_client({"Authorization": f"Bearer {given}"})
            assert (await client.get("/v1/sandboxes")).status_code == 200
            for other in others:
                refused = await running.open_client({"Authorization": f"Bearer {other}"})
                assert_error(await refused.get("/v1/sandboxes"), 401, "unauthorized")


async def test_a_body_that_carries_no_file_may_have_a_mebibyte(alice: httpx.AsyncClient) -> None:
    body = b"[" + b"[]," * (1 << 19) + b"[]]"
    assert_error(await alice.post("/v1/sandboxes", content=body), 413, "payload_too_large")


async def test_a_key_that_may_only_read_is_refused_before_its_body_is_looked_at(bay: World) -> None:
    reader = await bay.client("alice", "read")
    assert_error(await reader.post("/v1/sandboxes", content=b"{not json"), 403, "forbidden")


async def test_a_command_line_beyond_all_measure_is_refused(alice: httpx.AsyncClient) -> None:
    made = await create(alice)
    answer = await alice.post(f"/v1/sandboxes/{made['id']}/execs", json={"argv": ["x" * 100_000] * 30})
    assert_error(answer, 422, "validation_error")


async def test_a_removed_sandbox_leaves_no_command_lines(bay: World, alice: httpx.AsyncClient) -> None:
    made = await create(alice)
    await alice.post(f"/v1/sandboxes/{made['id']}/execs", params={"wait": 10}, json={"argv": ["true"]})
    assert (await alice.delete(f"/v1/sandboxes/{made['id']}")).status_code == 204
    assert await bay.sql("SELECT count(*) FROM execs") == [(0,)]
