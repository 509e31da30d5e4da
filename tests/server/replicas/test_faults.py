"""Replicas whose database fails: connections that are cut or refused, a server that crashes or is full, a
process that is frozen in a transaction, hosts whose clocks are wrong.
"""

import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime, timedelta
from typing import Any, LiteralString

import postgres_databases
import postgres_server
import psycopg
import pytest
from replica_members import Join, Member, make
from server_harness import WAIT_S, eventually, until, within

from bay.errors import DatabaseUnavailable
from bay.server.replicas.leases import JOBS, NAMES
from bay.store import leases, metadata
from bay.store.engine import Store
from bay.store.postgres import PostgresDatabase

pytestmark = [pytest.mark.anyio, pytest.mark.postgres]

_CONNECTIONS: dict[str, LiteralString] = {
    "writer": "pid IN (SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND (classid, objid) = (6447481, 1))",
    "sender": "query LIKE '%pg_notify%'",
    "listener": "query IN ('LISTEN \"bay\"', 'SELECT 1')",
    "beats": "(query LIKE '%FROM leases%' OR query LIKE '%FROM replicas%')",
}
"""Those of replicas, by what the server knows of each."""

_CUT = (
    "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity "
    "WHERE application_name = 'bay' AND datname = current_database() AND "
)
_HOLDER = """
import asyncio, sys, time
from bay.store.engine import Store
from bay.store.postgres import PostgresDatabase

async def main():
    async with Store(PostgresDatabase(sys.argv[1], shared=True)).write():
        print("inside", flush=True)
        time.sleep(1000)

asyncio.run(main())
"""


@pytest.fixture
def admin(url: str) -> Generator[psycopg.Connection[Any]]:
    """A superuser's connection to the database."""
    with psycopg.connect(url, autocommit=True) as made:
        yield made


async def settled(*members: Member) -> None:
    """Return once these replicas have all parts among them, and know it."""

    async def is_settled() -> bool:
        names = [name for one in members for name in NAMES if one.leases._does(name)]
        return sorted(names) == sorted(NAMES)

    await eventually(is_settled)


async def heard_of(told: Member, by: Member, word: str) -> None:
    """Return once a word of the one has come to the other, which may not listen yet."""
    heard: list[str] = []
    by.bus.hear(word, heard.extend)

    async def is_heard() -> bool:
        told.bus.tell(word)
        await told.bus.told()
        return bool(heard)

    await eventually(is_heard)


async def count_up(one: Member) -> None:
    """Add one to the number of these tests."""
    async with one.store.write() as db:
        fact = await metadata.get(db, "number") or {"is": "0"}
        await metadata.set(db, "number", {"is": str(int(fact["is"]) + 1)})


async def number(one: Member) -> int:
    async with one.store.read() as db:
        return int((await metadata.get(db, "number") or {"is": "0"})["is"])


def cut(admin: psycopg.Connection[Any], which: LiteralString) -> int:
    """End those connections of replicas at the server; how many there were."""
    return len(admin.execute(_CUT + which).fetchall())


@pytest.mark.parametrize("which", _CONNECTIONS)
async def test_a_connection_that_is_cut_while_others_write_loses_nothing(
    member: Join, admin: psycopg.Connection[Any], which: str
) -> None:
    one, two = await member("one"), await member("two")
    for each in (one, two):
        each.begin()
    await settled(one, two)
    await heard_of(one, two, "before")
    done = 0
    for _ in range(5):
        await until(lambda: cut(admin, _CONNECTIONS[which]) > 0)
        for each in (one, two):
            try:
                await within(count_up(each))
                done += 1
            except DatabaseUnavailable:
                assert which == "writer", "it wrote over another connection"
        await settled(one, two)
    assert await number(one) == done
    await heard_of(one, two, "after")
    await heard_of(two, one, "after-2")


async def test_a_cut_inside_a_transaction_ends_it_and_no_lease(
    member: Join, admin: psycopg.Connection[Any]
) -> None:
    one = await member("one")
    one.begin()
    await settled(one)
    before = await epochs(one)
    with pytest.raises(DatabaseUnavailable):
        await cut_inside(one, admin)
    assert await number(one) == 0
    await count_up(one)
    assert await number(one) == 1
    assert await epochs(one) == before


async def cut_inside(one: Member, admin: psycopg.Connection[Any]) -> None:
    async with one.store.write() as db:
        await metadata.set(db, "number", {"is": "100"})
        cut(admin, _CONNECTIONS["writer"])
        await metadata.get(db, "number")


async def epochs(one: Member) -> dict[str, int]:
    async with one.store.read() as db:
        return {lease.name: lease.epoch for lease in await leases.all_of(db)}


async def test_after_a_crash_of_the_server_all_that_was_missed_is_looked_at() -> None:
    with postgres_server.running() as server:
        with psycopg.connect(server.url("postgres"), autocommit=True) as admin:
            admin.execute("CREATE DATABASE crashing")
            admin.execute("ALTER DATABASE crashing SET synchronous_commit = on")
        url = server.url("crashing")
        postgres_databases.migrate(url)
        async with members(url, "one", "two") as (one, two):
            await settled(one, two)
            for each in (one, two):
                each.bus.on_gap.append(each.shards.clear)  # what was looked at before does not count
                each.bus.on_gap.append(each.leases.look_again)  # as a Bay does
            gaps = {each: each.gaps for each in (one, two)}
            async with one.store.write() as db:
                backend = (await db.exec_driver_sql("SELECT pg_backend_pid()")).scalar_one()
            os.kill(backend, signal.SIGKILL)  # the server ends all others, and recovers

            def is_looked_at() -> bool:
                seen = [shard for each in (one, two) for what, shard in each.shards if what == "recheck"]
                return set(seen) >= set(NAMES) - set(JOBS)

            await until(lambda: all(each.gaps > before for each, before in gaps.items()))
            await until(is_looked_at)
            await settled(one, two)

            async def is_written() -> bool:
                try:
                    await count_up(one)
                except DatabaseUnavailable:  # for a moment after the last refusal
                    return False
                return True

            await eventually(is_written)
            await heard_of(two, one, "after")


@asynccontextmanager
async def members(url: str, *names: str) -> AsyncGenerator[list[Member]]:
    """Replicas that work until the block ends."""
    made = [await make(url, name) for name in names]
    try:
        for one in made:
            one.begin()
        yield made
    finally:
        for one in made:
            await one.aclose()


@contextmanager
def holder(url: str) -> Generator[int]:
    """A process in the midst of a replica's transaction; its id."""
    process = subprocess.Popen([sys.executable, "-c", _HOLDER, url], stdout=subprocess.PIPE, bufsize=0)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"inside\n"
        yield process.pid
    finally:
        process.kill()
        process.wait(WAIT_S)
        if process.stdout is not None:
            process.stdout.close()


async def test_a_process_that_is_frozen_inside_a_transaction_keeps_the_others_a_few_seconds(
    member: Join, url: str
) -> None:
    one = await member("one")
    one.begin()
    await settled(one)
    with holder(url) as pid:
        os.kill(pid, signal.SIGSTOP)
        await within(count_up(one))
        assert await number(one) == 1
        await settled(one)


async def test_a_database_that_is_full_ends_the_leases_and_they_come_back(
    member: Join, admin: psycopg.Connection[Any]
) -> None:
    one = await member("one")
    one.begin()
    await settled(one)
    before = await epochs(one)
    admin.execute(
        "CREATE FUNCTION is_full() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN "
        "RAISE EXCEPTION USING ERRCODE = '53100', MESSAGE = 'No space left on device'; END$$"
    )
    admin.execute("CREATE TRIGGER full_disk BEFORE UPDATE ON leases FOR EACH ROW EXECUTE FUNCTION is_full()")
    one.leases._until = 0.0  # it is over
    one.leases._look.set()
    assert not any(one.leases._does(name) for name in NAMES)
    one.shards.clear()
    admin.execute("DROP FUNCTION is_full CASCADE")
    await settled(one)
    await until(lambda: {shard for what, shard in one.shards if what == "recheck"} == set(NAMES) - set(JOBS))
    assert await epochs(one) == before


async def test_leases_and_times_are_the_databases_where_the_clock_of_a_host_is_wrong(
    member: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await member("one")
    with monkeypatch.context() as wrong:
        wrong.setattr(
            "bay.server.replicas.clock.utc_now", lambda: datetime.now().astimezone() + timedelta(days=9)
        )
        two = await member("two")
    for each in (one, two):
        each.begin()
    await settled(one, two)
    for each in (one, two):
        async with each.store.read() as db:
            assert each.leases._clock is not None
            assert abs(await leases.now(db) - each.leases._clock()) < timedelta(hours=1)
            assert {replica.id for replica in await leases.living(db)} == {"one", "two"}
    before = await epochs(one)
    one.leases._look.set()
    await settled(one, two)
    assert await epochs(one) == before


# Too many connections


@contextmanager
def limited(admin: psycopg.Connection[Any], url: str, most: int) -> Generator[tuple[str, str]]:
    """A role that uses the tables and may have so many connections, and its URL."""
    role = f"role_{os.getpid()}_{admin.info.dbname}"
    admin.execute(f"CREATE ROLE {role} LOGIN CONNECTION LIMIT {most}".encode())
    admin.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}".encode())
    try:
        yield role, url.replace("//bay@", f"//{role}@")
    finally:
        cut(admin, "true")
        admin.execute(f"DROP OWNED BY {role}".encode())
        admin.execute(f"DROP ROLE {role}".encode())


async def test_a_start_without_a_free_connection_says_so_in_one_line(
    admin: psycopg.Connection[Any], url: str
) -> None:
    with limited(admin, url, 1) as (_, own):
        store = Store(PostgresDatabase(own, shared=True))
        try:
            with pytest.raises(DatabaseUnavailable, match="too many connections") as caught:
                async with store.starting():
                    await store.open()
        finally:
            await store.aclose()
        assert "\n" not in caught.value.message


async def test_a_replica_that_gets_no_connection_goes_on_once_there_is_one(
    admin: psycopg.Connection[Any], url: str
) -> None:
    with limited(admin, url, 20) as (role, own):
        async with members(own, "one") as (one,):
            await settled(one)
            await count_up(one)
            admin.execute(f"ALTER ROLE {role} CONNECTION LIMIT 0".encode())
            assert cut(admin, "true") > 2
            with pytest.raises(DatabaseUnavailable):
                await count_up(one)
            gaps = one.gaps
            admin.execute(f"ALTER ROLE {role} CONNECTION LIMIT 20".encode())
            await until(lambda: one.gaps > gaps)
            await settled(one)

            async def is_written() -> bool:
                try:
                    await count_up(one)
                except DatabaseUnavailable:
                    return False
                return True

            await eventually(is_written)
            assert await number(one) == 2
