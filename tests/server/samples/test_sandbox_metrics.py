"""The use of resources over time: sampled, rolled up, forgotten and told, by a clock that is told."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from server_harness import Json, World, assert_error, clear, create, until, within, world

from bay.clock import ManualClock, from_rfc3339, to_rfc3339
from bay.drivers.base import Handle, SessionSample
from bay.drivers.fake import FakeDriver
from bay.errors import DriverUnavailable, StorageFull
from bay.server.samples.sampler import Sampler
from bay.store.engine import Store

pytestmark = pytest.mark.anyio

FIRST: Json = {
    "cpu_usec": 1_000_000, "memory_bytes": 500, "memory_cache_bytes": 100, "read_bytes": 10, "written_bytes": 20,
    "received_bytes": 30, "sent_bytes": 40,
}  # fmt: skip
COUNTERS = ("cpu_usec", "read_bytes", "written_bytes", "received_bytes", "sent_bytes")
BYTES = COUNTERS[1:]


class Scripted(FakeDriver):
    """A driver whose sessions use what the test says. It refuses the passes that no test asks for."""

    def __init__(self, run_dir: Path) -> None:
        super().__init__(run_dir=run_dir)
        self.figures: dict[str, SessionSample] = {}
        self.asked: list[str] = []
        self.is_asked = False

    async def samples(self, handles: Sequence[Handle]) -> Mapping[str, SessionSample]:
        if not self.is_asked:
            raise DriverUnavailable("no test has asked for a pass")
        self.asked = [one.session_id for one in handles]
        return {name: self.figures[name] for name in self.asked if name in self.figures}


class Hand:
    """The test's hold on the figures of sandboxes and on the passes."""

    def __init__(self, bay: World, driver: Scripted) -> None:
        self.bay = bay
        self.driver = driver
        self.taken_s = 1000.0

    async def sandbox(self, client: httpx.AsyncClient, **body: Any) -> Json:
        """A sandbox that runs, and whose session has used `FIRST`."""
        made = await create(client, **body)
        await client.post(f"/v1/sandboxes/{made['id']}/start", params={"wait": 15})
        await self.uses(made, **FIRST)
        return made

    async def uses(self, sandbox: Json, **figures: Any) -> None:
        """From now on its session has these figures."""
        session = (await self.bay.session(sandbox["id"])).id
        self.driver.figures[session] = SessionSample(taken_s=self.taken_s, **figures)

    async def more(self, sandbox: Json, by: int) -> None:
        """Each counter of its session has grown by so much."""
        session = (await self.bay.session(sandbox["id"])).id
        known = self.driver.figures[session]
        grown = {name: getattr(known, name) + by for name in COUNTERS}
        await self.uses(sandbox, memory_bytes=known.memory_bytes, memory_cache_bytes=100, **grown)

    async def take(self, seconds: float = 10, sampler: Sampler | None = None) -> None:
        """Let time pass, and take a sample of all that runs."""
        self.bay.clock.advance(seconds)
        self.taken_s += seconds
        for name, known in list(self.driver.figures.items()):
            figures = {name: getattr(known, name) for name in FIRST}
            self.driver.figures[name] = SessionSample(taken_s=self.taken_s, **figures)
        self.driver.is_asked, self.driver.asked = True, []
        try:
            await (sampler or self.bay.bay.sampler).sample()
        finally:
            self.driver.is_asked = False


@pytest.fixture
def driver(root: Path) -> Scripted:
    return Scripted(root / "run")


@pytest.fixture
async def bay(root: Path, driver: Scripted) -> AsyncGenerator[World]:
    try:
        async with world(root, driver) as running:
            yield running
    finally:
        await clear(root)


@pytest.fixture
def hand(bay: World, driver: Scripted) -> Hand:
    return Hand(bay, driver)


async def metrics(client: httpx.AsyncClient, sandbox: Json, **query: Any) -> Json:
    answer = await client.get(f"/v1/sandboxes/{sandbox['id']}/metrics", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def points(client: httpx.AsyncClient, sandbox: Json, **query: Any) -> list[Json]:
    return (await metrics(client, sandbox, **query))["points"]


async def rows(bay: World) -> list[tuple[Any, ...]]:
    """Step and beginning of each row."""
    return await bay.sql("SELECT step, at FROM samples ORDER BY step, at")


def after(start: datetime, point: Json) -> float:
    """Seconds from `start` to a point."""
    return (from_rfc3339(point["at"]) - start).total_seconds()


async def test_a_point_has_what_was_used_since_the_sample_before(
    hand: Hand, alice: httpx.AsyncClient
) -> None:
    box = await hand.sandbox(alice)
    start = hand.bay.clock()
    await hand.take()
    await hand.more(box, 5_000_000)
    await hand.take()
    found = await metrics(alice, box)
    assert found["step"] == 10
    first, second = found["points"]
    assert [after(start, one) for one in (first, second)] == [0, 10]
    assert second["seconds"] == 10
    assert second["cpus_used"] == second["cpus_max"] == 0.5
    assert {second[name] for name in BYTES} == {5_000_000}
    assert (second["memory_bytes"], second["memory_max_bytes"], second["memory_cache_bytes"]) == (
        500,
        500,
        100,
    )
    assert (second["execs"], second["disk_bytes"]) == (0, None)


async def test_a_session_that_was_there_before_has_no_rate_at_first(
    hand: Hand, alice: httpx.AsyncClient
) -> None:
    box = await hand.sandbox(alice)
    await hand.take()
    (first,) = await points(alice, box)
    assert first["memory_bytes"] == 500
    assert first["seconds"] == 0
    assert {first[name] for name in ("cpus_used", "cpus_max", *BYTES)} == {None}


async def test_a_session_that_began_between_two_passes_has_all_that_it_used(
    hand: Hand, alice: httpx.AsyncClient
) -> None:
    await hand.take()
    hand.bay.clock.advance(6)
    box = await hand.sandbox(alice)
    await hand.take(4)
    (first,) = await points(alice, box)
    assert (first["seconds"], first["cpus_used"], first["sent_bytes"]) == (4, 0.25, 40)


async def test_a_session_that_was_ready_just_before_a_pass_used_no_more_than_its_start_took(
    hand: Hand, alice: httpx.AsyncClient
) -> None:
    await hand.take()
    hand.driver.hold_at = "ready"
    box = await create(alice)
    await alice.post(f"/v1/sandboxes/{box['id']}/start")
    await within(hand.driver.held.wait())
    hand.bay.clock.advance(4)
    hand.driver.hold_at = None
    hand.driver.let_go.set()
    await alice.post(f"/v1/sandboxes/{box['id']}/start", params={"wait": 15})
    await hand.uses(box, **FIRST)
    await hand.take(1)
    (first,) = await points(alice, box)
    assert (first["seconds"], first["cpus_used"]) == (5, 0.2)


async def test_a_counter_that_begins_again_adds_nothing_and_takes_nothing(
    hand: Hand, alice: httpx.AsyncClient
) -> None:
    box = await hand.sandbox(alice)
    await hand.take()
    await hand.uses(box, **{**FIRST, "received_bytes": 1})
    await hand.take()
    await hand.uses(box, **{**FIRST, "received_bytes": 8})
    await hand.take()
    assert [one["received_bytes"] for one in await points(alice, box)] == [None, 0, 7]


async def test_another_session_of_a_sandbox_takes_nothing_back(hand: Hand, alice: httpx.AsyncClient) -> None:
    box = await hand.sandbox(alice)
    start = hand.bay.clock()
    await hand.take()
    await hand.more(box, 9_000_000)
    await hand.take()
    await alice.post(f"/v1/sandboxes/{box['id']}/stop")
    await hand.take()
    hand.bay.clock.advance(1)
    await alice.post(f"/v1/sandboxes/{box['id']}/start", params={"wait": 15})
    await hand.uses(box, **FIRST)
    await hand.take(9)
    found = await points(alice, box)
    assert [after(start, one) for one in found] == [0, 10, 30]
    assert [one["sent_bytes"] for one in found] == [None, 9_000_000, 40]
    assert found[-1]["cpus_used"] == pytest.approx(1 / 9, abs=1e-3)


async def test_a_frozen_sandbox_is_not_looked_at_and_has_a_gap(hand: Hand, alice: httpx.AsyncClient) -> None:
    box = await hand.sandbox(alice)
    start = hand.bay.clock()
    await hand.take()
    await alice.post(f"/v1/sandboxes/{box['id']}/pause")
    for _ in range(5):
        await hand.take()
        assert hand.driver.asked == []
    assert (await hand.bay.session(box["id"])).phase == "paused"
    await alice.post(f"/v1/sandboxes/{box['id']}/start", params={"wait": 15})
    await hand.more(box, 4_000_000)
    await hand.take()
    first, second = await points(alice, box)
    assert (after(start, first), after(start, second)) == (0, 60)
    # It ran for two periods at most: before the freeze, and after the thaw.
    assert (second["seconds"], second["cpus_used"], second["sent_bytes"]) == (20, 0.2, 4_000_000)


async def test_a_pooled_sandbox_has_no_samples(hand: Hand) -> None:
    await hand.take()
    assert hand.driver.asked == []


async def test_the_execs_that_run_are_counted(hand: Hand, alice: httpx.AsyncClient) -> None:
    box = await hand.sandbox(alice)
    for _ in range(2):
        await alice.post(f"/v1/sandboxes/{box['id']}/execs", json={"command": "sleep 1000"})
    await hand.take()
    (one,) = await points(alice, box)
    assert (one["execs"], one["execs_max"]) == (2, 2)


async def test_points_are_written_once_a_minute_all_in_one_row_of_each_sandbox(
    hand: Hand, alice: httpx.AsyncClient
) -> None:
    boxes = [await hand.sandbox(alice) for _ in range(2)]
    for _ in range(6):
        await hand.take()
    assert await rows(hand.bay) == []
    told = [await points(alice, box) for box in boxes]
    await hand.take()
    at = int(hand.bay.clock().timestamp()) - 70
    assert await rows(hand.bay) == [(10, at), (10, at)]
    assert [(await points(alice, box))[:6] for box in boxes] == told


async def test_a_bay_that_ends_writes_what_it_has_and_the_next_one_goes_on(root: Path) -> None:
    driver, clock = Scripted(root / "run"), ManualClock()
    try:
        async with world(root, driver, clock=clock) as bay:
            alice, hand = await bay.client(), Hand(bay, driver)
            box = await hand.sandbox(alice)
            await hand.take()
            await hand.more(box, 10)
            await hand.take()
        again = Scripted(root / "run")
        again.figures = driver.figures
        async with world(root, again, clock=clock) as bay:
            alice, hand = await bay.client(), Hand(bay, again)
            await hand.more(box, 1_000_000)
            await hand.take(100)
            await hand.more(box, 20)
            await hand.take()
            found = await points(alice, box)
            assert [one["sent_bytes"] for one in found] == [None, 10, None, 20]
            assert [after(from_rfc3339(found[0]["at"]), one) for one in found] == [0, 10, 110, 120]
    finally:
        await clear(root)


async def test_a_point_that_is_rolled_up_is_the_sum_of_its_samples_for_a_day_and_for_a_month(
    hand: Hand, alice: httpx.AsyncClient
) -> None:
    box = await hand.sandbox(alice)
    start = hand.bay.clock()
    for _ in range(6 * 16):
        await hand.more(box, 1_000_000)
        await hand.take()
    minutes = await points(alice, box, step=60)
    quarter = await points(alice, box, step=900)
    assert (len(minutes), len(quarter)) == (16, 2)
    assert (minutes[1]["seconds"], minutes[1]["sent_bytes"], minutes[1]["cpus_used"]) == (60, 6_000_000, 0.1)
    assert quarter[0]["sent_bytes"] == 89_000_000  # the first sample has no sample before it
    hand.bay.clock.advance(5 * 60)
    await hand.bay.bay.housekeeping.housekeep()
    begun = int(start.timestamp())
    assert [row for row in await rows(hand.bay) if row[0] > 10] == [(60, begun)]
    assert await points(alice, box, step=60) == minutes
    assert await points(alice, box, step=900) == quarter
    hand.bay.clock.advance(4 * 3600)
    await hand.bay.bay.sampler.write()
    await hand.bay.bay.housekeeping.housekeep()
    span = {"from": to_rfc3339(start), "to": to_rfc3339(hand.bay.clock())}
    assert [row for row in await rows(hand.bay) if row[0] == 900] == [(900, begun)]
    assert await points(alice, box, step=60, **span) == minutes
    assert await points(alice, box, step=900, **span) == quarter


async def test_each_resolution_is_forgotten_in_its_time(hand: Hand, alice: httpx.AsyncClient) -> None:
    await hand.sandbox(alice)
    for _ in range(7):
        await hand.take()
    await hand.bay.bay.sampler.write()

    async def steps_after(seconds: float) -> set[int]:
        hand.bay.clock.advance(seconds)
        await hand.bay.bay.housekeeping.housekeep()
        return {step for step, _ in await rows(hand.bay)}

    assert await steps_after(3000) == {10, 60}
    assert await steps_after(1800) == {60}
    assert await steps_after(82_000) == {60, 900}
    assert await steps_after(3600) == {900}
    assert await steps_after(30 * 86_400) == {900}
    assert await steps_after(86_400) == set()


async def test_rolling_up_again_after_a_crash_changes_nothing(hand: Hand, alice: httpx.AsyncClient) -> None:
    box = await hand.sandbox(alice)
    for _ in range(6 * 31):
        await hand.take()
    hand.bay.clock.advance(300)
    await hand.bay.bay.housekeeping.housekeep()
    first = await rows(hand.bay)
    told = await points(alice, box, step=60)
    async with hand.bay.bay.store.write() as db:
        await db.exec_driver_sql("DELETE FROM samples WHERE step = 60 AND at > (SELECT min(at) FROM samples)")
    assert await points(alice, box, step=60) == told
    await hand.bay.bay.housekeeping.housekeep()
    assert await rows(hand.bay) == first


async def test_rows_go_with_their_sandbox_and_none_come_after_it(
    hand: Hand, alice: httpx.AsyncClient
) -> None:
    box, other = await hand.sandbox(alice), await hand.sandbox(alice)
    for _ in range(8):
        await hand.take()
    assert len(await rows(hand.bay)) == 2
    await alice.delete(f"/v1/sandboxes/{box['id']}")
    await hand.bay.settled(box["id"], lambda row: row.deleted_at is not None)
    assert len(await rows(hand.bay)) == 1
    await hand.bay.bay.sampler.write()
    assert len(await rows(hand.bay)) == 2  # the other one's two
    assert len(await points(alice, other)) == 8
    assert_error(await alice.get(f"/v1/sandboxes/{box['id']}/metrics"), 404, "not_found")


async def test_a_database_that_takes_no_writes_costs_samples_and_nothing_else(
    hand: Hand, alice: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = await hand.sandbox(alice)

    def refuse(_: Store) -> None:
        raise StorageFull("the disk of the database is full")

    with monkeypatch.context() as patched:
        patched.setattr(Store, "write", refuse)
        for _ in range(60):
            await hand.take()
    assert len(await points(alice, box)) <= 24
    await hand.take()
    await hand.bay.bay.sampler.write()
    found = await points(alice, box)
    assert len(await rows(hand.bay)) > 0
    assert found[-1]["seconds"] == 10


async def test_a_host_that_cannot_be_asked_leaves_a_gap(hand: Hand, alice: httpx.AsyncClient) -> None:
    box = await hand.sandbox(alice)
    await hand.take()
    hand.bay.clock.advance(10)
    with pytest.raises(DriverUnavailable):
        await hand.bay.bay.sampler.sample()
    await hand.more(box, 100)
    hand.taken_s += 10
    await hand.take()
    first, second = await points(alice, box)
    assert after(from_rfc3339(first["at"]), second) == 20
    assert (second["seconds"], second["sent_bytes"]) == (20, 100)


async def test_a_clock_that_is_set_back_or_forward_loses_no_order(
    hand: Hand, alice: httpx.AsyncClient
) -> None:
    box = await hand.sandbox(alice)
    for seconds in (10, 10, 10, -20, 10, 10, 10, 3600, 10):
        hand.bay.clock.advance(seconds - 10)
        await hand.more(box, 100)
        await hand.take()
    found = await points(alice, box, **{"from": to_rfc3339(hand.bay.clock() - timedelta(hours=2))})
    times = [one["at"] for one in found]
    assert times == sorted(set(times))
    assert all(one["sent_bytes"] is None or one["sent_bytes"] >= 0 for one in found)


async def test_a_sandbox_that_never_ran_has_no_points(alice: httpx.AsyncClient) -> None:
    box = await create(alice)
    assert await metrics(alice, box) == {"step": 10, "points": []}


async def test_the_answer_has_the_range_that_was_asked_for(hand: Hand, alice: httpx.AsyncClient) -> None:
    box = await hand.sandbox(alice)
    start = hand.bay.clock()
    for _ in range(12):
        await hand.take()

    async def seen(begin: int, end: int, zone: str = "Z") -> list[float]:
        span = {
            "from": to_rfc3339(start + timedelta(seconds=begin)),
            "to": to_rfc3339(start + timedelta(seconds=end)),
        }
        span = {name: text.replace("Z", zone) for name, text in span.items()}
        return [after(start, one) for one in await points(alice, box, **span)]

    assert await seen(30, 60) == [30, 40, 50]
    assert await seen(35, 61) == [30, 40, 50, 60]
    assert await seen(-100, 10) == [0]
    assert await seen(200, 300) == []
    # The same hour of another zone is another time.
    assert await seen(2 * 3600 + 30, 2 * 3600 + 60, "+02:00") == [30, 40, 50]


async def test_the_step_is_the_finest_that_is_kept_and_gives_few_points(
    hand: Hand, alice: httpx.AsyncClient
) -> None:
    box = await hand.sandbox(alice)
    now = hand.bay.clock()

    async def step(begin: timedelta, wanted: str | None = None, until: timedelta = timedelta(0)) -> int:
        query = {"from": to_rfc3339(now - begin), "to": to_rfc3339(now - until)}
        return (await metrics(alice, box, **query, **({"step": wanted} if wanted else {})))["step"]

    hour, day = timedelta(hours=1), timedelta(days=1)
    assert await step(hour) == 10
    assert await step(hour, "1m") == 60
    assert await step(hour, "900") == 900
    assert await step(2 * hour) == 60
    assert await step(2 * hour, "10s", until=hour) == 60
    assert await step(day) == 60
    assert await step(2 * day) == 900
    assert await step(31 * day) == 900


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"from": "2030-01-01T01:00:00Z", "to": "2030-01-01T00:00:00Z"}, "query.from"),
        ({"from": "2030-01-01T01:00:00Z", "to": "2030-01-01T01:00:00Z"}, "query.from"),
        ({"from": "2029-01-01T00:00:00Z"}, "query.from"),
        ({"from": "0001-01-01T00:00:00+14:00"}, "query.from"),
        ({"to": "9999-12-31T23:59:59-14:00"}, "query.to"),
        ({"from": "2030-01-01T00:00:00"}, "query.from"),
        ({"from": "1893456000"}, "query.from"),
        ({"to": "yesterday"}, "query.to"),
        ({"step": "0"}, "query.step"),
        ({"step": "-10"}, "query.step"),
        ({"step": "45"}, "query.step"),
        ({"step": "2d"}, "query.step"),
        ({"step": "often"}, "query.step"),
        ({"steps": "10"}, "query.steps"),
    ],
)
async def test_a_range_or_a_step_that_is_none_is_refused(
    alice: httpx.AsyncClient, query: dict[str, str], field: str
) -> None:
    box = await create(alice)
    answer = await alice.get(f"/v1/sandboxes/{box['id']}/metrics", params=query)
    assert assert_error(answer, 422, "validation_error")["details"]["field"] == field


@pytest.mark.parametrize(("end", "status"), [("0001-01-01T00:30:00Z", 422), ("9999-12-31T23:59:59Z", 200)])
async def test_a_range_at_the_ends_of_time_is_refused_or_empty(
    alice: httpx.AsyncClient, end: str, status: int
) -> None:
    box = await create(alice)
    answer = await alice.get(f"/v1/sandboxes/{box['id']}/metrics", params={"to": end})
    assert answer.status_code == status, answer.text


async def test_another_owners_sandbox_does_not_exist(
    hand: Hand, alice: httpx.AsyncClient, bob: httpx.AsyncClient
) -> None:
    box = await hand.sandbox(alice)
    await hand.take()
    assert_error(await bob.get(f"/v1/sandboxes/{box['id']}/metrics"), 404, "not_found")


async def test_looking_wakes_nothing_and_is_no_activity(hand: Hand, alice: httpx.AsyncClient) -> None:
    box = await hand.sandbox(alice, idle_timeout=1000)
    await hand.take()
    before = (await alice.get(f"/v1/sandboxes/{box['id']}")).json()
    hand.bay.clock.advance(500)
    await points(alice, box)
    await hand.bay.bay.deferred.flush()
    shown = (await alice.get(f"/v1/sandboxes/{box['id']}")).json()
    assert shown["idle_expires_at"] == before["idle_expires_at"]


async def test_a_server_that_takes_none_says_so(root: Path) -> None:
    try:
        async with world(root, samples=False) as bay:
            alice = await bay.client()
            box = await create(alice)
            answer = await alice.get(f"/v1/sandboxes/{box['id']}/metrics")
            error = assert_error(answer, 400, "capability_not_supported")
            assert "`samples`" in error["message"]
    finally:
        await clear(root)


async def test_a_driver_that_measures_each_session_alone_is_asked_once_a_minute(root: Path) -> None:
    try:
        async with world(root) as bay:
            alice = await bay.client()
            box = await create(alice)
            await alice.post(f"/v1/sandboxes/{box['id']}/start", params={"wait": 15})
            assert bay.bay.sampler.period_s == 60
            for _ in range(2):
                bay.clock.advance(60)
                await bay.bay.sampler.sample()
            found = await metrics(alice, box)
            assert found["step"] == 60
            assert len(found["points"]) == 2
            assert found["points"][-1]["memory_bytes"] > 0
            assert found["points"][-1]["sent_bytes"] is None
            bay.driver.fail_at = "usage"
            bay.clock.advance(60)
            await bay.bay.sampler.sample()
            bay.driver.fail_at = None
            assert len(await points(alice, box)) == 2
    finally:
        await clear(root)


async def test_the_passes_come_by_themselves(root: Path) -> None:
    driver, clock = Scripted(root / "run"), ManualClock()
    driver.is_asked = True
    clock.advance(9.9)
    try:
        async with world(root, driver, clock=clock) as bay:
            sampler = bay.bay.sampler
            await until(lambda: sampler._passed_at is not None)
    finally:
        await clear(root)
