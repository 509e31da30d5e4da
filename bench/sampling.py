"""The cost of sampling 200 and 1,000 sandboxes, and of keeping what it finds.

The control groups and the links are real, and the rows are as Bay has them; no container runs in them. Links
are made in a network namespace of its own. BENCH_DATABASE_URL names an empty PostgreSQL database, as for
`store`. A pass is every ten seconds, so that one per cent of a core is 100 ms of processor time for it.
"""

import asyncio
import os
import tempfile
import time
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import AsyncExitStack, closing, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import cast

from sqlalchemy import BigInteger, Column, Float, Integer, MetaData, Table, insert

from bay import __version__
from bay.cargo.base import CargoBackend
from bay.clock import ManualClock
from bay.drivers.base import Driver, Handle, SessionSample
from bay.drivers.oci import cgroup_samples
from bay.drivers.oci.cgroups import MOUNT
from bay.images.base import ImageLibrary
from bay.linux import namespaces
from bay.linux.threads import in_new_thread
from bay.network.slots import device_of
from bay.network.veth import Traffic, VethLinks
from bay.server.replicas.bus import Bus
from bay.server.replicas.leases import ReplicaLeases
from bay.server.samples.points import KEEP_S, ROW_S, STEP_S, STEPS, SamplePoint, pack
from bay.server.samples.rolling import Rolling
from bay.server.samples.sampler import Sampler
from bay.server.sessions.core import Core
from bay.store import samples, schema
from bay.store.deferred import DeferredWrites
from bay.store.engine import Database, Store
from bay.store.postgres import PostgresDatabase
from bay.store.samples import SampleRow
from bay.store.sqlite import SqliteDatabase
from bay.tracing import Tracing
from bench.base import Bench
from bench.figures import Absent, Figure, Result
from bench.listing import rows_of
from bench.network_world import ip
from bench.store import URL, drop_all

COUNTS, MINUTES = (200, 1_000), 15
PLAIN_SANDBOXES = 100
"""Those of which a month of plain rows is written, to compare."""
NOW = datetime(2030, 1, 1, tzinfo=UTC)
PARENT = "/bay-bench-sampling"
INSTANCE = "fffe"
_LEAST_COUNT = 2

_METADATA = MetaData()
_FIGURES = SamplePoint._fields[1:]
_PLAIN = Table(
    "plain_samples",
    _METADATA,
    Column("sandbox_seq", BigInteger, primary_key=True, autoincrement=False),
    Column("step", Integer, primary_key=True, autoincrement=False),
    Column("at", BigInteger, primary_key=True, autoincrement=False),
    *(Column(name, Float(53)) for name in _FIGURES),
    sqlite_with_rowid=False,
)


Traffics = Callable[[], Mapping[int, Traffic]]


class BenchHost:
    """A driver's part in a pass, on groups and links that the benchmark made."""

    def __init__(self, traffics: Traffics) -> None:
        self._traffics = traffics

    async def samples(self, handles: Sequence[Handle]) -> Mapping[str, SessionSample]:
        """As the driver `oci` does it."""
        names = [handle.session_id for handle in handles]
        read = await in_new_thread(lambda: cgroup_samples.read_all(PARENT, names))
        traffics = await in_new_thread(self._traffics)
        return {
            name: replace(sample, received_bytes=link.received_bytes, sent_bytes=link.sent_bytes)
            for (name, sample), link in zip(read.items(), traffics.values(), strict=True)
        }


def sampling(bench: Bench) -> list[Result]:
    """Processor time of a pass with its share of the writing, of a roll-up, and the bytes of rows."""
    found: list[Result] = []
    url = os.environ.get(URL)
    for full in COUNTS:
        count = max(_LEAST_COUNT, bench.count(full))
        with _groups(count) as sessions, _links(count) as traffics:
            with tempfile.TemporaryDirectory(prefix="bay-bench-") as folder:
                database = SqliteDatabase(Path(folder) / "bay.db")
                found += asyncio.run(_measure(database, "SQLite", full, sessions, traffics))
            if url is not None:
                found += asyncio.run(_measure(PostgresDatabase(url), "PostgreSQL", full, sessions, traffics))
    with tempfile.TemporaryDirectory(prefix="bay-bench-") as folder:
        plain = bench.count(PLAIN_SANDBOXES)
        found += asyncio.run(_sizes(SqliteDatabase(Path(folder) / "bay.db"), "SQLite", plain))
    if url is None:
        return [*found, Absent("PostgreSQL", f"{URL} is not set")]
    return [*found, *asyncio.run(_sizes(PostgresDatabase(url), "PostgreSQL", plain))]


async def _measure(
    database: Database, kind: str, full: int, sessions: Sequence[str], traffics: Traffics
) -> list[Result]:
    clock, kept = ManualClock(NOW), Store(database)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(kept.aclose)
        await kept.open()
        stack.push_async_callback(drop_all, kept)
        await _fill(kept, sessions)
        bus = Bus(kept, None, "replica-bench")
        leases = ReplicaLeases(kept, None, bus, replica_id="replica-bench", version=__version__, clock=None)
        core = Core(
            store=kept, deferred=DeferredWrites(kept), driver=cast("Driver", BenchHost(traffics)),
            cargo=cast("CargoBackend", None), images=cast("ImageLibrary", None), profiles={}, clock=clock,
            meters=kept.meters, tracing=Tracing(),
        )  # fmt: skip
        sampler = Sampler(core, leases, bus)

        async def one_pass() -> None:
            clock.advance(STEP_S)
            await sampler.sample()

        await one_pass()  # reads the handles
        took = [await _processor_ms(one_pass) for _ in range(MINUTES * ROW_S[STEP_S] // STEP_S)]
        await sampler.write()
        clock.advance(ROW_S[STEPS[1]])
        rolled = await _processor_ms(Rolling(core).roll_up)
    name = f"{full} sandboxes, {kind}"
    mean = sum(took) / len(took)
    return [
        Figure(f"a pass over {name}", "ms", tuple(took), "processor time; one in six writes"),
        Figure(f"sampling {name}", "% of a core", (mean / (STEP_S * 10),)),
        Figure(f"a roll-up of {name}", "ms", (rolled,), "processor time, once in 15 minutes"),
    ]


async def _fill(kept: Store, sessions: Sequence[str]) -> None:
    """A sandbox for each session, which runs."""
    made = [next(rows_of(number, NOW)) for number in range(1, len(sessions) + 1)]
    for rows, session in zip(made, sessions, strict=True):
        handle = Handle(driver="oci", session_id=session, data={"id_base": 65536}).to_json()
        rows[schema.sessions] |= {"id": session, "phase": "running", "ended_at": None, "end_reason": None}
        rows[schema.sessions]["handle"] = handle
    async with kept.write() as db:
        for table in (schema.cargos, schema.sandboxes, schema.sessions):
            await db.execute(insert(table), [rows[table] for rows in made])


@contextmanager
def _groups(count: int) -> Generator[list[str]]:
    """Control groups as those of sessions, in each hierarchy that counts something."""
    kinds = ("cpuacct", "memory", "blkio")
    hierarchies = [MOUNT] if (MOUNT / "cgroup.controllers").exists() else [MOUNT / kind for kind in kinds]
    names = [f"sess-{number:024x}" for number in range(count)]
    made: list[Path] = []
    try:
        for hierarchy in hierarchies:
            made.append(hierarchy / PARENT.lstrip("/"))
            made[-1].mkdir()
            if hierarchy == MOUNT:
                (made[-1] / "cgroup.subtree_control").write_text("+cpu +memory +io")
            for name in names:
                made.append(hierarchy / PARENT.lstrip("/") / name)
                made[-1].mkdir()
        yield names
    finally:
        for group in reversed(made):
            with suppress(FileNotFoundError):
                group.rmdir()


@contextmanager
def _links(count: int) -> Generator[Traffics]:
    """Links of so many slots in a network namespace that ends with them, and the way to read all of them."""
    fd = namespaces.inside_new(lambda: os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))
    try:
        names = (device_of(INSTANCE, number) for number in range(1, count + 1))
        commands = (f"link add {name} type veth peer name {name[3:]}" for name in names)
        ip(*commands, into=f"/proc/{os.getpid()}/fd/{fd}")
        with closing(namespaces.inside(fd, lambda: VethLinks(INSTANCE, ipv6=False))) as links:
            yield lambda: namespaces.inside(fd, links.traffic_of_all)
    finally:
        os.close(fd)


async def _sizes(database: Database, kind: str, plain: int) -> list[Result]:
    """Bytes and milliseconds of all that is kept of a sandbox after a month: packed, and a row a point."""
    kept = Store(database)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(kept.aclose)
        await kept.open()
        stack.push_async_callback(drop_all, kept)
        empty = await _bytes(kept, kind)
        packed_ms = await _wall_ms(lambda: _add_packed(kept, plain))
        packed = await _bytes(kept, kind) - empty
        async with kept.write() as db:
            await db.run_sync(_METADATA.create_all)
        before = await _bytes(kept, kind)
        plain_ms = await _wall_ms(lambda: _add_plain(kept, plain))
        rows = await _bytes(kept, kind) - before
        async with kept.write() as db:
            await db.run_sync(_METADATA.drop_all)
    return [
        Figure(f"a month of a sandbox, packed, {kind}", "KiB", (packed / plain / 1024,)),
        Figure(f"a month of a sandbox, a row a point, {kind}", "KiB", (rows / plain / 1024,)),
        Figure(f"writing that month, packed, {kind}", "ms", (packed_ms / plain,)),
        Figure(f"writing that month, a row a point, {kind}", "ms", (plain_ms / plain,)),
    ]


async def _bytes(kept: Store, kind: str) -> int:
    pages = "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"
    whole = "SELECT pg_database_size(current_database())"
    async with kept.read() as db:
        return (await db.exec_driver_sql(pages if kind == "SQLite" else whole)).scalar_one()


async def _add_packed(kept: Store, count: int) -> None:
    """As they come: all sandboxes in each transaction."""
    for step in STEPS:
        in_row = ROW_S[step] // step
        for start in range(0, KEEP_S[step], ROW_S[step]):
            made = [
                SampleRow(number, step, start, pack(_busy(number, start, step, in_row)))
                for number in range(1, count + 1)
            ]
            async with kept.write() as db:
                await samples.add(db, made)


async def _add_plain(kept: Store, count: int) -> None:
    add = insert(_PLAIN)
    for step in STEPS:
        for start in range(0, KEEP_S[step], step):
            points = [(number, _busy(number, start, step, 1)[0]) for number in range(1, count + 1)]
            rows = [{"sandbox_seq": number, "step": step, **one._asdict()} for number, one in points]
            async with kept.write() as db:
                await db.execute(add, rows)


def _busy(sandbox: int, start: int, step: int, count: int) -> list[SamplePoint]:
    """Points of a sandbox that is never still: figures that compress badly, always the same."""
    random = Random(sandbox << 32 | start)  # noqa: S311 - no secret

    def point(at: int) -> SamplePoint:
        memory = random.randrange(1 << 28) // 4096 * 4096
        return SamplePoint(
            at=at, samples=step // STEP_S, seconds=step + random.random(), cpu_usec=random.randrange(step * 1_000_000),
            cpus_max=random.random(), memory_bytes=memory, memory_max_bytes=memory + random.randrange(1 << 20),
            memory_cache_bytes=memory // 2, disk_bytes=10_000_000, read_bytes=random.randrange(1 << 20),
            written_bytes=random.randrange(1 << 24), received_bytes=random.randrange(1 << 20),
            sent_bytes=random.randrange(1 << 20), execs=1, execs_max=2,
        )  # fmt: skip

    return [point(start + number * step) for number in range(count)]


async def _wall_ms(act: Callable[[], Awaitable[object]]) -> float:
    began = time.perf_counter()
    await act()
    return (time.perf_counter() - began) * 1000


async def _processor_ms(act: Callable[[], Awaitable[object]]) -> float:
    began = time.process_time()
    await act()
    return (time.process_time() - began) * 1000
