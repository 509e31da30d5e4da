"""A Bay whose cargo backend has no checkpoints refuses early what needs one, and does all else."""

from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from bare_cargos import BareCargos
from server_harness import (
    Json,
    World,
    ask_for_checkpoints,
    assert_error,
    clear,
    create,
    eventually,
    shell,
    world,
)
from sqlalchemy import func, select

from bay.server.checkpoints import policy
from bay.store import checkpoints
from bay.store.schema import metadata

pytestmark = pytest.mark.anyio

CKPT = "ckpt-0123456789abcdef01234567"
BUCKET = {"url": "s3://nowhere/bay", "endpoint": "http://127.0.0.1:1", "region": "x"}
NO_ROWS_OF_ITS_OWN = ("audit", "facts", "keys", "replicas")
"""Tables in which every call, or none, leaves a row."""


@pytest.fixture
async def bay(root: Path) -> AsyncGenerator[World]:
    profiles = {
        "python-default": {"start": "lazy"},
        "machine": {"start": "lazy", "persist": "machine"},
    }
    try:
        cargo = BareCargos(root / "data" / "cargo")
        async with world(root, cargo=cargo, profiles=profiles, object_store=BUCKET) as running:
            here = running.driver.capabilities
            running.driver.capabilities = replace(here, persist=("workspace", "machine"))
            yield running
    finally:
        await clear(root)


async def rows(bay: World) -> dict[str, int]:
    """How many rows there are, by table."""
    await bay.bay.deferred.flush()
    counts: dict[str, int] = {}
    async with bay.bay.store.read() as db:
        for table in metadata.tables.values():
            if table.name not in NO_ROWS_OF_ITS_OWN:
                counts[table.name] = (await db.execute(select(func.count()).select_from(table))).scalar_one()
    return counts


POLICY = {"every": 60, "keep_last": 2}
REFUSED: dict[str, tuple[str, str, Json]] = {
    "checkpoint": ("POST", "/v1/sandboxes/{box}/checkpoints", {}),
    "restore": ("POST", f"/v1/sandboxes/{{box}}/checkpoints/{CKPT}/restore", {}),
    "fork": ("POST", "/v1/sandboxes/{box}/fork", {"count": 2}),
    "fork of a checkpoint": ("POST", "/v1/sandboxes/{box}/fork", {"checkpoint": CKPT}),
    "create from a checkpoint": ("POST", "/v1/sandboxes", {"from_checkpoint": CKPT}),
    "create with a policy": ("POST", "/v1/sandboxes", {"checkpoint_policy": POLICY}),
    "create with a policy of stops": ("POST", "/v1/sandboxes", {"checkpoint_policy": {"before_stop": True}}),
    "a policy": ("PATCH", "/v1/sandboxes/{box}", {"checkpoint_policy": POLICY}),
    "cargo of a checkpoint": ("POST", "/v1/cargos", {"from_checkpoint": CKPT}),
    "export": ("GET", f"/v1/sandboxes/{{box}}/checkpoints/{CKPT}/export", {}),
    "import": ("POST", "/v1/sandboxes/{box}/checkpoints/import", {}),
    "push": ("POST", f"/v1/sandboxes/{{box}}/checkpoints/{CKPT}/push", {}),
    "pull": ("POST", "/v1/sandboxes/{box}/checkpoints/pull", {"key": CKPT}),
    "template": ("POST", "/v1/templates", {"name": "web", "sandbox": "{box}"}),
    "build": ("POST", "/v1/templates", {"name": "web", "dockerfile": "FROM debian:13"}),
    "E2B's snapshot": ("POST", "/e2b/sandboxes/{box}/snapshots", {}),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
async def test_what_needs_a_checkpoint_is_refused_before_it_begins(
    bay: World, alice: httpx.AsyncClient, name: str
) -> None:
    box = (await create(alice))["id"]
    before, stored = await rows(bay), await bay.record(box)
    method, path, body = REFUSED[name]
    given = {key: value.format(box=box) if isinstance(value, str) else value for key, value in body.items()}
    headers = {"Idempotency-Key": "once", "X-API-Key": await bay.key("alice")}
    answer = await alice.request(method, path.format(box=box), json=given or None, headers=headers)
    assert answer.status_code == 400, answer.text
    if not path.startswith("/e2b"):
        error = assert_error(answer, 400, "capability_not_supported")
        assert error["message"].startswith("cargo backend bare has no checkpoints")
        assert "`bay cp`" in error["message"]
        assert error["details"] == {"capability": "checkpoints", "available": []}
        assert error["retryable"] is False
    assert (await rows(bay), await bay.record(box)) == (before, stored)
    assert (await alice.delete(f"/v1/sandboxes/{box}")).status_code == 204
    assert await bay.bay.cargo.list_ids() == set()


async def test_a_profile_that_keeps_its_root_is_refused_with_what_there_is(
    bay: World, alice: httpx.AsyncClient
) -> None:
    before = await rows(bay)
    answer = await alice.post("/v1/sandboxes", json={"profile": "machine"})
    error = assert_error(answer, 400, "capability_not_supported")
    assert error["message"] == (
        "cargo backend bare keeps /workspace alone; use a profile with `persist: workspace`"
    )
    assert error["details"] == {"capability": "persist", "available": ["workspace"]}
    assert await rows(bay) == before


async def test_another_owners_sandbox_is_not_there_rather_than_without_checkpoints(
    bay: World, alice: httpx.AsyncClient, bob: httpx.AsyncClient
) -> None:
    box = (await create(alice))["id"]
    for method, path, body in REFUSED.values():
        if path.startswith("/v1/sandboxes/{box}"):
            answer = await bob.request(method, path.format(box=box), json=body or None)
            assert_error(answer, 404, "not_found")


async def test_all_else_works(bay: World, alice: httpx.AsyncClient) -> None:
    box = (await create(alice, wait=20))["id"]
    assert (await shell(alice, box, "echo kept > file"))["success"]
    assert (await alice.post(f"/v1/sandboxes/{box}/stop")).is_success
    assert (await shell(alice, box, "cat file"))["output"] == "kept\n"
    changed = await alice.patch(f"/v1/sandboxes/{box}", json={"checkpoint_policy": None, "name": "mine"})
    assert changed.status_code == 200, changed.text
    assert (await alice.get(f"/v1/sandboxes/{box}/checkpoints")).json()["items"] == []
    shown = (await alice.get(f"/v1/cargos/{changed.json()['cargo_id']}")).json()
    wanted: Json = {"backend": "bare", "size_limit_enforced": False, "used_bytes": None}
    assert {key: shown[key] for key in wanted} == wanted
    assert (await alice.delete(f"/v1/sandboxes/{box}")).status_code == 204


async def test_the_background_work_rests_and_a_row_from_before_is_given_up(
    bay: World, alice: httpx.AsyncClient
) -> None:
    box = (await create(alice, wait=20))["id"]
    await bay.bay.discards.take_over()
    await bay.bay.discards.discard()
    await bay.bay.pusher.run()
    await ask_for_checkpoints(bay)
    wanted = policy.asked(await bay.record(box), bay.clock())
    async with bay.bay.store.write() as db:
        await checkpoints.add(db, wanted)
    bay.bay.waker.poke(box)

    async def given_up() -> bool:
        async with bay.bay.store.read() as db:
            found: Any = await checkpoints.get(db, wanted.id)
        return found.failure is not None and found.failure.code == "capability_not_supported"

    await eventually(given_up)
    assert (await shell(alice, box, "echo on"))["output"] == "on\n"
