"""Each metric of the work that a Bay does moves when the thing happens."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
from bench.listing import rows_of
from port_apps import app
from receiver import receiving
from server_harness import (
    PROFILES,
    WAIT_S,
    Served,
    World,
    clear,
    create,
    eventually,
    served,
    shell,
    within,
    world,
)
from sqlalchemy import insert
from websockets.asyncio.client import connect

from bay.errors import InternalError
from bay.server.reconciler.step_meter import measured
from bay.server.sessions import lifecycle
from bay.server.settings import ProfileSettings
from bay.store import schema
from bay.store.engine import Store

pytestmark = pytest.mark.anyio

POOLED = {**PROFILES, "pooled": ProfileSettings.model_validate({"pool_size": 1})}


@pytest.fixture
async def bay(root: Path) -> AsyncGenerator[World]:
    try:
        async with world(root, profiles=POOLED, webhook_allow=(IPv4Network("127.0.0.0/8"),)) as running:
            yield running
    finally:
        await clear(root)


@pytest.fixture
async def server(root: Path) -> AsyncGenerator[Served]:
    try:
        async with served(root) as running:
            yield running
    finally:
        await clear(root)


class Numbers:
    """The samples of a Bay, and by how much they have grown since this was made."""

    def __init__(self, bay: World | Served) -> None:
        self._registry = bay.bay.meters.registry
        self._before = self._all()

    def _all(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        families = self._registry.collect()
        return {
            (one.name, frozenset(one.labels.items())): one.value for kind in families for one in kind.samples
        }

    def of(self, name: str, **labels: str) -> float:
        return self._registry.get_sample_value(name, labels) or 0.0

    def more(self, name: str, **labels: str) -> float:
        return self.of(name, **labels) - self._before.get((name, frozenset(labels.items())), 0.0)


async def scraped(bay: World) -> None:
    """Have the gauges set."""
    assert (await (await bay.client("root", "admin")).get("/metrics")).is_success


async def test_a_start_is_measured_by_its_phases(bay: World) -> None:
    numbers, alice = Numbers(bay), await bay.client()
    box = await create(alice, profile="eager", wait=WAIT_S)
    await scraped(bay)
    assert numbers.more("bay_starts_total", outcome="ready") >= 1
    assert numbers.of("bay_start_duration_seconds_count") == numbers.of("bay_starts_total", outcome="ready")
    for phase in ("files", "queue", "prepare", "claimed", "launched", "ready", "record"):
        assert numbers.more("bay_start_phase_duration_seconds_count", phase=phase) >= 1, phase
    assert numbers.more("bay_reconciler_steps_total", step="begin", outcome="done") >= 1
    assert numbers.more("bay_reconciler_step_duration_seconds_count", step="begin") >= 1
    assert numbers.of("bay_sandboxes", status="ready", compute="running") == 1
    await alice.delete(f"/v1/sandboxes/{box['id']}")
    await bay.settled(box["id"], lambda row: row.deleted_at is not None)
    await scraped(bay)
    assert numbers.more("bay_session_ends_total", reason="deleted") == 1
    assert numbers.of("bay_sandboxes", status="ready", compute="running") == 0


async def test_a_start_that_fails_counts_by_its_code(bay: World) -> None:
    bay.driver.fail_at = "launch"
    numbers = Numbers(bay)
    box = await create(await bay.client(), profile="eager")
    await bay.settled(box["id"], lambda row: row.error is not None)
    code = (await bay.record(box["id"])).error
    assert code is not None
    assert numbers.more("bay_starts_total", outcome="failed") >= 1
    assert numbers.more("bay_start_failures_total", code=code.code) >= 1
    bay.driver.fail_at = None


async def test_a_step_that_the_host_refuses_is_tried_again(bay: World) -> None:
    box = await create(await bay.client(), profile="eager", wait=WAIT_S)
    bay.driver.fail_at = "destroy"
    numbers = Numbers(bay)
    await (await bay.client()).delete(f"/v1/sandboxes/{box['id']}")

    async def is_put_off() -> bool:
        await scraped(bay)
        return numbers.of("bay_reconciler_retrying") == 1

    await eventually(is_put_off)
    assert numbers.more("bay_reconciler_steps_total", step="end", outcome="refused") >= 1
    bay.driver.fail_at = None


async def test_a_defect_of_a_step_is_told_from_a_refusal(bay: World) -> None:
    numbers, step = Numbers(bay), lifecycle.Remove()
    for error in (InternalError("no"), ValueError(), asyncio.CancelledError()):
        with pytest.raises(type(error)), measured(bay.bay.core, step, "sandbox-1"):
            raise error
    for outcome in ("refused", "defect", "cancelled"):
        assert numbers.more("bay_reconciler_steps_total", step="remove", outcome=outcome) == 1


async def test_execs_cells_and_files_are_counted(bay: World) -> None:
    alice = await bay.client()
    box = await create(alice, profile="eager", wait=WAIT_S)
    numbers, place = Numbers(bay), f"/v1/sandboxes/{box['id']}"
    for argv in (["true"], ["false"], ["sleep", "60"]):
        body = {"argv": argv, "timeout_s": 0.3 if argv[0] == "sleep" else 30}
        assert (await alice.post(f"{place}/execs?wait=30", json=body)).status_code == 201
    await shell(alice, box["id"], "echo hello")
    ran = await alice.post(f"{place}/python/exec", json={"code": "1/0"})
    assert ran.status_code == 200, ran.text
    put = await alice.put(f"{place}/files/content?path=a", content=b"x" * 1000)
    assert put.is_success, put.text
    assert len((await alice.get(f"{place}/files/content?path=a")).content) == 1000
    await bay.bay.deferred.flush()
    assert numbers.more("bay_execs_started_total") == 5
    outcomes = {"succeeded": 2, "failed": 2, "timed_out": 1}
    for outcome, count in outcomes.items():
        assert numbers.more("bay_execs_ended_total", outcome=outcome) == count, outcome
    assert numbers.more("bay_exec_output_bytes_total") == len("hello\n")
    assert numbers.more("bay_cells_total", outcome="error") == 1
    assert numbers.more("bay_file_bytes_total", direction="in") == 1000
    assert numbers.more("bay_file_bytes_total", direction="out") == 1000


async def test_an_exec_of_a_session_that_ends_is_lost(bay: World) -> None:
    alice = await bay.client()
    box = await create(alice, profile="eager", wait=WAIT_S)
    await alice.post(f"/v1/sandboxes/{box['id']}/execs", json={"argv": ["sleep", "60"]})
    numbers = Numbers(bay)
    await alice.delete(f"/v1/sandboxes/{box['id']}")
    await bay.settled(box["id"], lambda row: row.deleted_at is not None)
    assert numbers.more("bay_execs_ended_total", outcome="lost") == 1


async def test_checkpoints_and_restores_are_counted(bay: World) -> None:
    alice = await bay.client()
    box = await create(alice)
    numbers, place = Numbers(bay), f"/v1/sandboxes/{box['id']}/checkpoints"
    made = (await alice.post(place, json={})).json()
    restored = await alice.post(f"{place}/{made['id']}/restore")
    assert restored.is_success, restored.text
    await bay.settled(box["id"], lambda row: row.restore_id is None)
    assert numbers.more("bay_checkpoints_total", outcome="made") == 1
    assert numbers.more("bay_restores_total", outcome="done") == 1


async def test_the_pool_counts_hits_and_misses(bay: World) -> None:
    alice, numbers = await bay.client(), Numbers(bay)

    async def is_full() -> bool:
        await scraped(bay)
        return numbers.of("bay_pool_ready", profile="pooled") == 1

    await eventually(is_full)
    assert numbers.of("bay_pool_wanted", profile="pooled") == 1
    bay.driver.fail_at = "launch"  # no other one comes
    for _ in range(2):
        await create(alice, profile="pooled")
    assert numbers.more("bay_pool_claims_total", outcome="hit") == 1
    assert numbers.more("bay_pool_claims_total", outcome="miss") == 1
    bay.driver.fail_at = None


async def test_webhooks_count_what_was_delivered_and_what_was_not(bay: World) -> None:
    alice, numbers = await bay.client(), Numbers(bay)
    async with receiving("500") as receiver:  # the first is refused, all others are taken
        for _ in range(2):
            answer = await alice.post("/v1/webhooks", json={"url": receiver.url})
            assert answer.status_code == 201, answer.text
        await create(alice)

        async def both() -> bool:
            counts = [
                numbers.more("bay_webhook_deliveries_total", outcome=o) for o in ("delivered", "failed")
            ]
            return min(counts) >= 1

        await eventually(both)


async def test_ports_count_requests_connections_and_bytes(server: Served) -> None:
    numbers = Numbers(server)
    async with (
        app() as made,
        httpx.AsyncClient(base_url=server.url, headers=server.headers, timeout=WAIT_S) as client,
    ):
        box = (await client.post("/v1/sandboxes", json={"profile": "eager"}, params={"wait": 20})).json()
        place = f"/v1/sandboxes/{box['id']}"
        assert (await client.get(f"{place}/ports/{made.port}/")).text == "hello"
        assert numbers.more("bay_port_requests_total", protocol="http") == 1
        assert numbers.more("bay_port_bytes_total", kind="app", direction="out") > len("hello")
        url = f"{server.url.replace('http', 'ws')}{place}/tunnel?port={made.port}"
        async with connect(url, additional_headers=server.headers) as tunnel:
            asked = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
            await tunnel.send(asked)
            told = await within(tunnel.recv())
            assert numbers.of("bay_port_connections", kind="tunnel") == 1
            assert numbers.more("bay_port_bytes_total", kind="tunnel", direction="in") == len(asked)
            assert numbers.more("bay_port_bytes_total", kind="tunnel", direction="out") == len(told)

        async def is_closed() -> bool:
            return numbers.of("bay_port_connections", kind="tunnel") == 0

        await eventually(is_closed)
        assert numbers.more("bay_port_connections_opened_total", kind="tunnel") == 1


async def test_the_sweep_and_the_replica_are_shown(bay: World) -> None:
    numbers = Numbers(bay)

    async def is_swept() -> bool:
        return numbers.of("bay_sweep_duration_seconds_count") > 0

    await eventually(is_swept)
    await scraped(bay)
    assert numbers.of("bay_replica_live") == 1
    assert numbers.of("bay_replica_shards") == 16
    assert numbers.of("bay_replica_jobs", job="pool") == 1
    assert numbers.of("bay_reconciler_queue_length") == 0
    assert numbers.of("bay_reconciler_lag_seconds") == 0


class CountingStore:
    """A store that counts the statements of its readers."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.asked = 0

    @asynccontextmanager
    async def read(self) -> AsyncGenerator[Any]:
        async with self._store.read() as db:

            async def execute(*given: Any) -> Any:
                self.asked += 1
                return await db.execute(*given)

            yield SimpleNamespace(execute=execute)


async def test_a_scrape_asks_the_database_as_little_with_thousands_of_sandboxes(bay: World) -> None:
    async def scrape() -> tuple[int, int]:
        """How many statements it makes, and how many lines of sandboxes it has."""
        store = CountingStore(bay.bay.store)
        core = replace(bay.bay.core, store=cast(Store, store))
        text = await replace(bay.bay.metrics, core=core).text()
        return store.asked, text.count(b"\nbay_sandboxes{")

    asked, _ = await scrape()
    made = [rows for number in range(3000) for rows in rows_of(number, bay.clock())]
    async with bay.bay.store.write() as db:
        for table in (schema.cargos, schema.sandboxes, schema.sessions):
            await db.execute(insert(table), [rows[table] for rows in made])
    after, lines = await scrape()
    assert after == asked
    assert lines == 2  # idle and failed
