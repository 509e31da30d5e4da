"""`/health/ready`: whether a balancer may send calls here."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import psycopg
import pytest
from server_harness import World, assert_error, eventually, until

import bay as bay_package
from bay.errors import DatabaseUnavailable
from bay.server.maintenance.readiness import Readiness
from bay.server.replicas.bus import Bus
from bay.server.replicas.leases import ReplicaLeases
from bay.store.connection import StoreConnection
from bay.store.engine import Database, Store
from bay.store.postgres import PostgresDatabase

pytestmark = pytest.mark.anyio


async def test_a_bay_that_is_alone_is_ready_without_a_word_on_replicas(bay: World) -> None:
    answer = await (await bay.open_client()).get("/health/ready")
    assert answer.json() == {"status": "ok", "version": bay_package.__version__}


async def test_a_replica_is_ready_with_its_own_share(two: list[World]) -> None:
    clients = [await replica.open_client() for replica in two]
    admin = await two[0].client("root", "admin")

    async def agree() -> bool:
        rows = {
            one["id"]: (one["shards"], one["jobs"])
            for one in (await admin.get("/v1/replicas")).json()["items"]
        }
        ready = [(await client.get("/health/ready")).json() for client in clients]
        return {one.get("replica"): (one.get("shards"), one.get("jobs")) for one in ready} == rows

    await eventually(agree)
    answer = (await clients[0].get("/health/ready")).json()
    assert answer.keys() == {"status", "version", "replica", "shards", "jobs"}


class CutDatabase:
    """The database of a replica, whose bus hears until it is cut."""

    def __init__(self, database: Database) -> None:
        assert isinstance(database, PostgresDatabase)
        self._database = database
        self.cut = asyncio.Event()

    def stater(self) -> StoreConnection:
        return self._database.stater()

    async def hear(self, channel: str, /) -> AsyncGenerator[str]:
        if not self.cut.is_set():
            yield channel[:0]
            await self.cut.wait()
        raise DatabaseUnavailable("it is cut")


async def failing(readiness: Readiness) -> list[str]:
    """The parts that fail."""
    try:
        await readiness.check()
    except DatabaseUnavailable as error:
        return error.details["failing"]
    return []


async def test_a_replica_that_never_said_that_it_lives_is_not_ready(two: list[World]) -> None:
    own = two[0].bay
    silent = ReplicaLeases(
        own.store, CutDatabase(own.database), own.bus, replica_id="replica-silent", version="", clock=None
    )
    await until(lambda: own.leases.is_live and own.bus.hears)
    assert await failing(Readiness(store=own.store, leases=own.leases, bus=own.bus)) == []
    assert await failing(Readiness(store=own.store, leases=silent, bus=own.bus)) == ["leases"]


async def test_a_replica_whose_bus_is_cut_is_not_ready(two: list[World]) -> None:
    own = two[0].bay
    database = CutDatabase(own.database)
    bus = Bus(own.store, database, own.leases.me)
    readiness = Readiness(store=own.store, leases=own.leases, bus=bus)
    assert await failing(readiness) == ["bus"]
    running = asyncio.create_task(bus.run())
    try:
        await until(lambda: bus.hears)
        assert await failing(readiness) == []
        database.cut.set()
        await until(lambda: not bus.hears)
        assert await failing(readiness) == ["bus"]
    finally:
        running.cancel()
        await asyncio.wait([running])


async def test_a_replica_whose_database_is_away_is_not_ready(two: list[World]) -> None:
    own = two[0].bay
    nowhere = Store(PostgresDatabase("postgresql://bay@/none?host=/nonexistent", shared=True))
    assert await failing(Readiness(store=nowhere, leases=own.leases, bus=own.bus)) == ["database"]
    await nowhere.aclose()


@pytest.mark.postgres
async def test_a_replica_without_its_database_answers_503_with_all_that_fails(
    two: list[World], url: str
) -> None:
    client = await two[0].open_client()
    socket = Path(url.partition("host=")[2]) / ".s.PGSQL.5432"
    away = socket.with_name("away")

    async def fails() -> set[str]:
        answer = await client.get("/health/ready")
        return set() if answer.status_code == 200 else {*answer.json()["error"]["details"]["failing"]}

    async def is_ready() -> bool:
        return not await fails()

    async def all_fail() -> bool:
        return await fails() == {"database", "leases", "bus"}

    await eventually(is_ready)
    with psycopg.connect(url, autocommit=True) as admin:
        socket.rename(away)
        try:
            admin.execute(
                "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE application_name = 'bay' "
                "AND datname = current_database()"
            )
            await eventually(all_fail)
            error = assert_error(await client.get("/health/ready"), 503, "database_unavailable")
            assert url.partition("host=")[2] not in error["message"]
        finally:
            away.rename(socket)
    await eventually(is_ready)
