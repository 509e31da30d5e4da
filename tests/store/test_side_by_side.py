"""Replicas of two versions on one PostgreSQL database: which migrations leave the older ones running. A
version is a directory of migrations here; the older one is the present Bay's.
"""

from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import postgres_databases
import postgres_server
import psycopg
import pytest
from made_up_versions import OWN, MadeUpVersions

from bay.errors import BayError, DatabaseUnavailable, DriverUnavailable
from bay.store import leases, metadata, versions
from bay.store.engine import Store
from bay.store.postgres import PostgresDatabase

pytestmark = [
    pytest.mark.postgres,
    pytest.mark.anyio,
    pytest.mark.skipif(postgres_server.binaries() is None, reason="PostgreSQL is not installed"),
]

Releases = Callable[[str], None]


@pytest.fixture
def url() -> Generator[str]:
    """A database that has the tables of the present Bay."""
    with postgres_server.shared().database(postgres_databases.migrate) as made:
        yield made


@pytest.fixture
def admin(url: str) -> Generator[psycopg.Connection[Any]]:
    """A superuser's connection to it."""
    with psycopg.connect(url, autocommit=True) as made:
        yield made


@pytest.fixture
def be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Releases:
    """Makes this process the Bay of a version, which is new where it was not named before. At the end of a
    new one's name stands `b` when its last migration says that older ones run beside it.
    """
    made = MadeUpVersions(tmp_path)

    def become(release: str) -> None:
        version = release.rstrip("b")
        if version not in made.of:
            made.add(version, is_beside=release.endswith("b"))
        monkeypatch.setattr(versions, "MIGRATIONS", made.of[version])

    return become


@asynccontextmanager
async def opened(url: str, name: str | None = None, *, shared: bool = True) -> AsyncGenerator[Store]:
    """A store on the database, closed after the block; `name`: of the replica whose row it makes."""
    made = Store(PostgresDatabase(url, shared=shared))
    try:
        async with made.starting():
            await made.open()
        if name is not None:
            async with made.write() as db:
                await leases.join(db, name, "http://one", "0.1.0")
        yield made
    finally:
        await made.aclose()


async def refused(url: str, kind: type[BayError] = DatabaseUnavailable, *, shared: bool = True) -> str:
    """The words with which a store on that database is not opened."""
    with pytest.raises(kind) as caught:
        async with opened(url, shared=shared):
            pass
    return caught.value.message


async def put(store: Store, value: str) -> None:
    """Write the fact of these tests, as both versions do."""
    async with store.write() as db:
        await metadata.set(db, "fact", {"is": value})


async def read(store: Store) -> str | None:
    """The fact of these tests."""
    async with store.read() as db:
        found = await metadata.get(db, "fact")
    return found["is"] if found is not None else None


def version(admin: psycopg.Connection[Any]) -> str:
    """The version of the database."""
    (found,) = admin.execute("SELECT version_num FROM alembic_version").fetchone() or ("",)
    return found


async def test_a_newer_replica_migrates_beside_an_older_one_and_both_go_on(
    admin: psycopg.Connection[Any], url: str, be: Releases
) -> None:
    async with opened(url, "older") as older:
        be("9001b")
        async with opened(url, "newer") as newer:
            assert version(admin) == "9001"
            await put(older, "by the older")
            assert await read(newer) == "by the older"
            await put(newer, "by the newer")
            assert await read(older) == "by the newer"


async def test_a_migration_that_older_replicas_cannot_use_is_refused_with_those_that_live(
    admin: psycopg.Connection[Any], url: str, be: Releases
) -> None:
    async with opened(url, "older-1") as older, opened(url, "older-2"):
        be("9001")
        said = await refused(url)
        assert "older-1 (0.1.0), older-2 (0.1.0)" in said
        assert "\n" not in said
        assert "all of them at once" in said
        assert version(admin) == OWN
        await put(older, "still written")


async def test_one_such_migration_among_several_is_enough(
    admin: psycopg.Connection[Any], url: str, be: Releases
) -> None:
    async with opened(url, "older"):
        be("9001")
        be("9002b")
        assert "older (0.1.0)" in await refused(url)
        assert version(admin) == OWN


async def test_it_runs_once_the_others_have_ended(
    admin: psycopg.Connection[Any], url: str, be: Releases
) -> None:
    async with opened(url, "older") as older, older.write() as db:
        await leases.leave(db, "older")
    be("9001")
    async with opened(url) as newer:
        await put(newer, "written")
    assert version(admin) == "9001"


async def test_a_replica_that_was_killed_counts_until_its_time_is_over(
    admin: psycopg.Connection[Any], url: str, be: Releases
) -> None:
    async with opened(url, "killed"):
        pass
    be("9001")
    assert "killed (0.1.0)" in await refused(url)
    admin.execute("UPDATE replicas SET beat_at = now() - interval '11 s'")
    async with opened(url):
        assert version(admin) == "9001"


async def test_a_replica_that_says_nothing_but_keeps_its_connection_counts_too(
    admin: psycopg.Connection[Any], url: str, be: Releases, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bay.store.postgres._LOCK_S", 1)
    async with opened(url, "frozen") as frozen:
        admin.execute("UPDATE replicas SET beat_at = now() - interval '11 s'")
        be("9001")
        assert "one on this host, which says nothing" in await refused(url)
        be(OWN)
        await put(frozen, "written after all")


async def test_an_older_replica_starts_again_beside_a_newer_one(
    admin: psycopg.Connection[Any], url: str, be: Releases
) -> None:
    triggers = "SELECT oid, proname, prosrc FROM pg_proc WHERE proname LIKE 'bay%%' ORDER BY 1"
    be("9001b")
    async with opened(url, "newer") as newer:
        admin.execute(
            "CREATE OR REPLACE FUNCTION bay_changed_image() RETURNS trigger LANGUAGE plpgsql AS "
            "$$BEGIN RETURN NULL; END$$"
        )
        before = admin.execute(triggers).fetchall()
        be(OWN)
        async with opened(url, "older") as older:
            assert version(admin) == "9001"
            assert admin.execute(triggers).fetchall() == before
            await put(older, "by the older")
            assert await read(newer) == "by the older"


async def test_the_oldest_version_that_may_start_is_kept_over_several_roll_outs(
    url: str, be: Releases
) -> None:
    for release in ("9001b", "9002b"):
        be(release)
        async with opened(url):
            pass
    be(OWN)
    async with opened(url) as older:
        await put(older, "two behind")
        assert await read(older) == "two behind"


async def test_after_a_migration_that_it_cannot_use_an_older_replica_is_refused(
    url: str, be: Releases
) -> None:
    for release in ("9001b", "9002"):
        be(release)
        async with opened(url):
            pass
    be(OWN)
    said = await refused(url)
    assert "a newer Bay has migrated it to version 9002" in said
    assert "\n" not in said


async def test_a_bay_that_is_no_replica_is_refused_a_newer_database_as_ever(url: str, be: Releases) -> None:
    be("9001b")
    async with opened(url):
        pass
    be(OWN)
    assert "newer Bay" in await refused(url, DriverUnavailable, shared=False)


async def test_replicas_that_start_at_once_do_not_count_as_those_that_live(
    admin: psycopg.Connection[Any], url: str, be: Releases
) -> None:
    be("9001")
    waiting = Store(PostgresDatabase(url, shared=True))
    try:
        async with opened(url, "first"), waiting.starting():
            await waiting.open()
            await put(waiting, "second")
    finally:
        await waiting.aclose()
    assert version(admin) == "9001"


async def test_a_replica_that_was_cut_off_writes_nothing_to_a_schema_that_it_cannot_use(
    admin: psycopg.Connection[Any], url: str, be: Releases
) -> None:
    async with opened(url) as older:
        await put(older, "before")
        pids = (
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'bay' AND datname = current_database()"
        )
        for (pid,) in admin.execute(pids).fetchall():
            assert admin.execute("SELECT pg_terminate_backend(%s, 10000)", (pid,)).fetchone() == (True,)
        be("9001")
        async with opened(url) as newer:
            be(OWN)
            with pytest.raises(DatabaseUnavailable):
                await put(older, "lost")
            assert await read(newer) == "before"


async def test_a_tool_of_an_older_version_reads_a_database_that_it_can_use(url: str, be: Releases) -> None:
    be("9001b")
    async with opened(url) as newer:
        await put(newer, "by the newer")
        be(OWN)
        async with PostgresDatabase(url).reading() as db:
            assert await metadata.get(db, "fact") == {"is": "by the newer"}


async def test_a_tool_of_an_older_version_refuses_another(url: str, be: Releases) -> None:
    be("9001")
    async with opened(url):
        be(OWN)
        with pytest.raises(DriverUnavailable, match="another version"):
            async with PostgresDatabase(url).reading():
                pass
