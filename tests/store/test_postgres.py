"""The store on a PostgreSQL that fails: connections cut anywhere, a server that is away, a role without
rights, another Bay. Each test has a database of a real server.
"""

import asyncio
import os
import signal
import sys
import traceback
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import postgres_databases
import postgres_server
import psycopg
import pytest
import structlog
from blockbuster import blockbuster_ctx
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError
from structlog.testing import capture_logs

from bay.errors import (
    BayError,
    DatabaseUnavailable,
    DriverUnavailable,
    InternalError,
    InvalidArgument,
    StorageFull,
)
from bay.store import deferred, metadata, postgres
from bay.store.connection import StoreConnection
from bay.store.deferred import DeferredWrites
from bay.store.engine import Store
from bay.store.lost_commits import may_be_there
from bay.store.postgres import PostgresDatabase

pytestmark = [
    pytest.mark.postgres,
    pytest.mark.anyio,
    pytest.mark.skipif(postgres_server.binaries() is None, reason="PostgreSQL is not installed"),
]

WAIT_S = 30.0
_OURS = "SELECT pid FROM pg_stat_activity WHERE application_name = 'bay' AND datname = current_database()"
_TAKE = "SELECT pg_advisory_lock(6447481, 1)"
_LET_GO = "SELECT pg_advisory_unlock(6447481, 1)"


@pytest.fixture(autouse=True)
def all_logs(monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    """Lines of every level, whatever tests before have set up: a logger keeps what it was first used with."""
    before = structlog.get_config()
    structlog.reset_defaults()
    for module in (postgres, deferred):
        monkeypatch.setattr(module, "log", structlog.get_logger("bay.store"))
    yield
    structlog.configure(**before)


@pytest.fixture
def url() -> Generator[str]:
    """A database that has its tables."""
    with postgres_server.shared().database(postgres_databases.migrate) as made:
        yield made


@pytest.fixture
def empty() -> Generator[str]:
    """A database without tables."""
    with postgres_server.shared().database() as made:
        yield made


@pytest.fixture
def admin(url: str) -> Generator[psycopg.Connection[Any]]:
    """A superuser's connection to it."""
    with psycopg.connect(url, autocommit=True) as made:
        yield made


@pytest.fixture
async def store(url: str) -> AsyncGenerator[Store]:
    async with opened(url) as made:
        with blockbuster_ctx(["bay.store"]):
            yield made


@asynccontextmanager
async def opened(url: str) -> AsyncGenerator[Store]:
    """A store on the database, closed after the block."""
    made = Store(PostgresDatabase(url))
    try:
        await made.open()
        yield made
    finally:
        await made.aclose()


async def refused(url: str, kind: type[BayError] = DatabaseUnavailable) -> str:
    """The words with which a store on that database is not opened."""
    with pytest.raises(kind) as caught:
        async with opened(url):
            pass
    return caught.value.message


async def put(store: Store, value: str) -> None:
    """Write the fact of these tests."""
    async with store.write() as db:
        await metadata.set(db, "fact", {"is": value})


async def read(store: Store) -> str | None:
    """The fact of these tests."""
    async with store.read() as db:
        found = await metadata.get(db, "fact")
    return found["is"] if found is not None else None


def cut(admin: psycopg.Connection[Any]) -> None:
    """End Bay's connections at the server, and wait until they are gone."""
    pids = [pid for (pid,) in admin.execute(_OURS)]
    assert pids
    for pid in pids:
        assert admin.execute("SELECT pg_terminate_backend(%s, 10000)", (pid,)).fetchone() == (True,)


async def eventually(act: Callable[[], Awaitable[object]]) -> None:
    """Do it again and again until the database answers."""
    async with asyncio.timeout(WAIT_S):
        while True:
            try:
                await act()
            except DatabaseUnavailable:
                await asyncio.sleep(0.02)
            else:
                return


# Cut connections


async def test_a_reader_that_was_cut_reads_again(store: Store, admin: psycopg.Connection[Any]) -> None:
    await put(store, "kept")
    assert await read(store) == "kept"
    cut(admin)
    assert await read(store) == "kept"
    async with store.read() as db:
        assert await metadata.get(db, "fact") == {"is": "kept"}
        cut(admin)
        assert await metadata.get(db, "fact") == {"is": "kept"}


async def test_a_connection_that_was_cut_twice_in_a_row_is_made_anew(
    store: Store, admin: psycopg.Connection[Any]
) -> None:
    def cut_in_the_middle(db: Connection) -> None:
        cut(admin)
        db.exec_driver_sql("SELECT 1")

    with pytest.raises(DatabaseUnavailable):
        async with store.read() as db:
            await db.run_sync(cut_in_the_middle)
    assert await read(store) is None

    async def write() -> None:
        async with store.write() as db:
            with pytest.raises(DBAPIError):
                await db.run_sync(cut_in_the_middle)
            await metadata.set(db, "fact", {"is": "half"})

    with pytest.raises(DatabaseUnavailable):
        await write()
    assert await read(store) is None
    await put(store, "after")
    assert await read(store) == "after"


async def test_a_cut_before_the_first_statement_of_a_transaction_loses_nothing(
    store: Store, admin: psycopg.Connection[Any], url: str
) -> None:
    await put(store, "first")
    cut(admin)
    await put(store, "second")
    async with store.write() as db:
        cut(admin)
        await metadata.set(db, "fact", {"is": "third"})
    assert await read(store) == "third"
    assert "another Bay" in await refused(url)  # it has the lock again


async def test_a_cut_inside_a_transaction_ends_it_and_nothing_of_it_stays(
    store: Store, admin: psycopg.Connection[Any]
) -> None:
    told: list[set[str]] = []
    store.on_change.append(told.append)
    await put(store, "before")

    async def write() -> None:
        async with store.write() as db:
            await metadata.set(db, "fact", {"is": "lost"})
            cut(admin)
            with pytest.raises(DBAPIError):
                await metadata.set(db, "other", {})
            await metadata.set(db, "other", {})  # no transaction of its own, which would be half of this one

    with pytest.raises(DatabaseUnavailable):
        await write()
    assert await read(store) == "before"
    async with store.read() as db:
        assert await metadata.get(db, "other") is None
    await put(store, "after")
    assert await read(store) == "after"
    assert told == []


async def test_a_cut_at_the_commit_is_told_and_the_next_transaction_is_whole(
    store: Store, admin: psycopg.Connection[Any]
) -> None:
    async def write() -> None:
        async with store.write() as db:
            await metadata.set(db, "fact", {"is": "lost"})
            cut(admin)

    with pytest.raises(DatabaseUnavailable):
        await write()
    assert await read(store) is None
    await put(store, "after")
    assert await read(store) == "after"


async def test_a_transaction_that_is_cancelled_leaves_nothing_after_a_cut(
    store: Store, admin: psycopg.Connection[Any]
) -> None:
    inside = asyncio.Event()

    async def write() -> None:
        async with store.write() as db:
            await metadata.set(db, "fact", {"is": "lost"})
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(write())
    async with asyncio.timeout(WAIT_S):
        await inside.wait()
        cut(admin)
        task.cancel()
        await asyncio.wait([task])
        await put(store, "after")
    assert await read(store) == "after"


# One Bay


async def test_a_second_bay_is_refused_in_words_and_the_first_goes_on(store: Store, url: str) -> None:
    said = await refused(url)
    assert url.partition("?")[0].rpartition("/")[2] in said
    assert "another Bay uses it" in said
    await put(store, "mine")
    await store.aclose()
    async with opened(url) as second:
        assert await read(second) == "mine"


async def test_a_bay_that_lost_its_lock_writes_nothing_until_it_has_it_again(
    store: Store, admin: psycopg.Connection[Any]
) -> None:
    await put(store, "mine")
    cut(admin)
    admin.execute(_TAKE)
    with capture_logs() as logs, pytest.raises(DatabaseUnavailable) as caught:
        await put(store, "stolen")
    assert "just now" in caught.value.message
    assert [line["event"] for line in logs] == ["store.unavailable"]
    assert "another Bay" in logs[0]["reason"]
    assert await read(store) == "mine"
    admin.execute(_LET_GO)
    await eventually(lambda: put(store, "again"))
    assert await read(store) == "again"


async def test_a_reader_cannot_write(store: Store) -> None:
    with pytest.raises(DatabaseUnavailable):
        async with store.read() as db:
            await metadata.set(db, "fact", {"is": "written"})
    assert await read(store) is None


# A standby


@pytest.fixture
def as_standby(admin: psycopg.Connection[Any]) -> Callable[[bool], None]:
    """Have new connections to the database take it for a standby's, or for a primary's again."""
    admin.execute("CREATE FUNCTION pg_is_in_recovery() RETURNS bool LANGUAGE sql AS 'SELECT true'")

    def tell(is_standby: bool) -> None:
        path = "public, pg_catalog" if is_standby else "pg_catalog, public"
        admin.execute(f"ALTER DATABASE {admin.info.dbname} SET search_path = {path}".encode())

    return tell


async def test_a_standby_is_refused_with_the_way_out(url: str, as_standby: Callable[[bool], None]) -> None:
    as_standby(True)
    said = await refused(url)
    assert "the server is a standby" in said
    assert "lead the URL to the primary" in said


async def test_no_connection_is_made_to_a_standby(
    store: Store, admin: psycopg.Connection[Any], as_standby: Callable[[bool], None]
) -> None:
    await put(store, "before")
    assert await read(store) == "before"
    as_standby(True)
    cut(admin)
    with pytest.raises(DatabaseUnavailable):
        await read(store)
    with pytest.raises(DatabaseUnavailable):
        await put(store, "lost")
    as_standby(False)
    await eventually(lambda: put(store, "after"))
    await eventually(lambda: read(store))
    assert await read(store) == "after"


async def test_a_writer_that_may_no_longer_write_is_made_anew(store: Store) -> None:
    read_only = "SET default_transaction_read_only = on"
    async with store.write() as db:
        await db.exec_driver_sql(read_only)
    await put(store, "written")

    async def write() -> None:
        async with store.write() as db:
            await metadata.set(db, "fact", {"is": "lost"})
            await db.exec_driver_sql("SET transaction_read_only = on")
            await metadata.set(db, "fact", {"is": "lost"})

    with pytest.raises(DatabaseUnavailable):
        await write()
    assert await read(store) == "written"
    await put(store, "again")
    assert await read(store) == "again"


async def test_of_a_commit_without_an_answer_all_is_known_when_the_writer_is_back(
    store: Store, admin: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = psycopg.Connection[Any].commit

    def lost(connection: psycopg.Connection[Any]) -> None:
        commit(connection)
        connection.close()
        raise psycopg.OperationalError("the server closed the connection")

    async def in_writer() -> None:
        async with store.write() as db:
            assert await metadata.get(db, "fact") == {"is": "lost"}

    async def may_have(name: str) -> bool:
        return await may_be_there(store, DatabaseUnavailable("lost"), lambda db: metadata.get(db, name))

    with monkeypatch.context() as patch:
        patch.setattr(psycopg.Connection, "commit", lost)
        with pytest.raises(DatabaseUnavailable):
            await put(store, "lost")
    admin.execute(_TAKE)  # as the former writer has it while its commit goes on
    assert (await may_have("fact"), await may_have("other")) == (True, True)
    admin.execute(_LET_GO)
    await eventually(in_writer)
    assert (await may_have("fact"), await may_have("other")) == (True, False)


# Pools and several hosts


@pytest.mark.parametrize("process", ["7", "(random() * 1e9)::int"], ids=["one of all", "another each time"])
async def test_a_pool_that_lends_connections_to_transactions_is_refused(empty: str, process: str) -> None:
    with psycopg.connect(empty, autocommit=True) as admin:
        admin.execute(
            f"CREATE FUNCTION pg_backend_pid() RETURNS int LANGUAGE sql AS 'SELECT {process}'".encode()
        )
        admin.execute(f"ALTER DATABASE {admin.info.dbname} SET search_path = public, pg_catalog".encode())
        assert "pool_mode = session" in await refused(empty)
        count = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
        assert admin.execute(count).fetchone() == (0,)


async def test_the_first_of_several_hosts_that_can_write_is_used(url: str) -> None:
    place, _, directory = url.partition("?host=")
    hosts = f"host=/nowhere:5432&host={directory}:5432&target_session_attrs=read-write"
    async with opened(f"{place}?{hosts}") as store:
        await put(store, "written")
        assert await read(store) == "written"


# A server that is away


@pytest.fixture
def socket(url: str) -> Path:
    """The server's socket."""
    return Path(url.partition("host=")[2]) / ".s.PGSQL.5432"


async def test_a_server_that_is_away_is_unavailable_and_logged_once_until_it_is_back(
    store: Store, admin: psycopg.Connection[Any], socket: Path
) -> None:
    await put(store, "before")
    away = socket.with_name("away")
    socket.rename(away)
    try:
        cut(admin)
        with capture_logs() as logs:
            for _ in range(5):
                with pytest.raises(DatabaseUnavailable):
                    await read(store)
                with pytest.raises(DatabaseUnavailable):
                    await put(store, "lost")
        assert [(line["event"], line["part"]) for line in logs] == [
            ("store.unavailable", "readers"), ("store.unavailable", "writer")
        ]  # fmt: skip
        assert all(str(socket) in line["reason"] for line in logs)
    finally:
        away.rename(socket)
    with capture_logs() as logs:
        await eventually(lambda: put(store, "after"))
        await eventually(lambda: read(store))
    assert {(line["event"], line["part"]) for line in logs} == {
        ("store.available", "readers"), ("store.available", "writer")
    }  # fmt: skip
    assert await read(store) == "after"


async def test_deferred_writes_wait_for_a_server_that_is_away(
    store: Store, admin: psycopg.Connection[Any], socket: Path
) -> None:
    deferred, away = DeferredWrites(store), socket.with_name("away")
    socket.rename(away)
    try:
        cut(admin)
        for value in ("one", "two"):
            deferred.put(lambda db, value=value: metadata.set(db, value, {}))
        with pytest.raises(DatabaseUnavailable):
            await deferred.flush()
    finally:
        away.rename(socket)
    await eventually(deferred.flush)
    async with store.read() as db:
        assert [await metadata.get(db, name) for name in ("one", "two")] == [{}, {}]


async def test_a_server_that_crashed_and_came_back_is_used_again() -> None:
    with postgres_server.running() as server:
        with psycopg.connect(server.url("postgres"), autocommit=True) as admin:
            admin.execute("CREATE DATABASE crashing")
            admin.execute("ALTER DATABASE crashing SET synchronous_commit = on")
        async with opened(server.url("crashing")) as store:
            await put(store, "before")
            assert await read(store) == "before"
            async with store.write() as db:
                backend = (await db.exec_driver_sql("SELECT pg_backend_pid()")).scalar_one()
            os.kill(backend, signal.SIGKILL)  # the server ends all others, and recovers
            await eventually(lambda: put(store, "after"))
            await eventually(lambda: read(store))
            assert await read(store) == "after"
            assert "another Bay" in await refused(server.url("crashing"))


async def test_a_server_that_hangs_keeps_nobody_for_ever(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put(store, "before")
    find = "SELECT pg_backend_pid()"
    async with store.read() as db:
        reader = (await db.exec_driver_sql(find)).scalar_one()
    async with store.write() as db:
        writer = (await db.exec_driver_sql(find)).scalar_one()
    monkeypatch.setattr("bay.store.postgres._TRIP_S", 0.5)
    hung = (reader, writer)
    try:
        for pid in hung:
            os.kill(pid, signal.SIGSTOP)
        async with asyncio.timeout(WAIT_S):
            await eventually(lambda: read(store))
            with pytest.raises(DatabaseUnavailable):
                await put(store, "lost")  # the hung connection has the lock
    finally:
        for pid in hung:
            os.kill(pid, signal.SIGCONT)
    monkeypatch.setattr("bay.store.postgres._TRIP_S", WAIT_S)
    await eventually(lambda: put(store, "after"))
    assert await read(store) == "after"


async def test_a_store_whose_server_hangs_is_closed(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bay.store.postgres._TRIP_S", 0.5)
    async with opened(url) as store, asyncio.timeout(WAIT_S):
        async with store.read() as db:
            pid = (await db.exec_driver_sql("SELECT pg_backend_pid()")).scalar_one()
        os.kill(pid, signal.SIGSTOP)
        try:
            reading = asyncio.create_task(read(store))
            await asyncio.sleep(0)
            reading.cancel()
            await store.aclose()
        finally:
            os.kill(pid, signal.SIGCONT)


async def test_readers_that_are_all_busy_are_a_database_that_is_unavailable(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bay.store.engine._READER_S", 0)
    async with AsyncExitStack() as stack:
        for _ in range(4):
            await stack.enter_async_context(store.read())
        with capture_logs() as logs, pytest.raises(DatabaseUnavailable):
            await read(store)
    assert [line["event"] for line in logs] == ["store.unavailable"]
    assert "no connection was free" in logs[0]["reason"]
    assert await read(store) is None


# Its words


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        ("53100", StorageFull),
        ("53200", DatabaseUnavailable),
        ("53300", DatabaseUnavailable),
        ("42501", DatabaseUnavailable),
        ("57014", DatabaseUnavailable),
        ("40P01", DatabaseUnavailable),
        ("25006", DatabaseUnavailable),
        ("58030", DatabaseUnavailable),
        ("XX001", InternalError),
        ("XX002", InternalError),
        ("23505", DBAPIError),
        ("42P01", DBAPIError),
    ],
)
async def test_each_trouble_of_the_database_has_its_error(
    store: Store, state: str, kind: type[Exception]
) -> None:
    trouble = f"DO $$BEGIN RAISE EXCEPTION 'the reason' USING ERRCODE = '{state}'; END$$"

    async def write() -> None:
        async with store.write() as db:
            await metadata.set(db, "fact", {"is": "lost"})
            await db.exec_driver_sql(trouble)

    with pytest.raises(kind) as caught:
        await write()
    if isinstance(caught.value, BayError):
        assert "the reason" not in caught.value.message
    with pytest.raises(kind):
        async with store.read() as db:
            await db.exec_driver_sql(trouble)
    assert await read(store) is None
    await put(store, "after")


async def test_each_failure_of_a_statement_is_logged_with_the_connection_that_had_it(store: Store) -> None:
    trouble = "DO $$BEGIN RAISE EXCEPTION 'the reason' USING ERRCODE = '57014'; END$$"

    async def fail(opened: AbstractAsyncContextManager[StoreConnection]) -> None:
        async with opened as db:
            await db.exec_driver_sql(trouble)

    with capture_logs() as logs:
        for opened in (store.read(), store.write(), store.read(), store.write()):
            with pytest.raises(DatabaseUnavailable):
                await fail(opened)
    assert [(line["part"], line["reason"]) for line in logs if line["event"] == "store.unavailable"] == [
        ("readers", "the reason"), ("writer", "the reason"), ("readers", "the reason"), ("writer", "the reason")
    ]  # fmt: skip


async def test_too_many_connections_are_said_in_words(empty: str) -> None:
    with psycopg.connect(empty, autocommit=True) as admin:
        role, name = _role(admin, "CONNECTION LIMIT 2"), admin.info.dbname
        try:
            admin.execute(f"ALTER DATABASE {name} OWNER TO {role}".encode())
            async with opened(empty.replace("//bay@", f"//{role}@")) as store:
                await put(store, "written")
                admin.execute(f"ALTER ROLE {role} CONNECTION LIMIT 1".encode())
                with capture_logs() as logs, pytest.raises(DatabaseUnavailable):
                    await read(store)
                assert "too many connections" in logs[0]["reason"]
        finally:
            admin.execute(f"ALTER DATABASE {name} OWNER TO bay".encode())
            admin.execute(f"DROP OWNED BY {role}".encode())
            admin.execute(f"DROP ROLE {role}".encode())


async def test_a_role_without_rights_is_refused_with_the_reason(empty: str) -> None:
    with psycopg.connect(empty, autocommit=True) as admin:
        role = _role(admin)
        try:
            admin.execute("REVOKE CREATE ON SCHEMA public FROM public")
            said = await refused(empty.replace("//bay@", f"//{role}@"))
            assert "permission denied" in said
            assert f"make {role} the owner of the database" in said
        finally:
            admin.execute(f"DROP ROLE {role}".encode())


def _role(admin: psycopg.Connection[Any], options: str = "") -> str:
    name = f"role_{os.getpid()}_{admin.info.dbname}"
    admin.execute(f"CREATE ROLE {name} LOGIN {options}".encode())
    return name


@pytest.mark.parametrize(
    "place",
    [
        "127.0.0.1:1/bay",
        "127.0.0.1:1/bay?nonsense=1",
        "127.0.0.1:1/bay?connect_timeout=soon",
        "nowhere.invalid/x",
    ],
)
async def test_a_password_is_in_no_error_and_no_log(place: str) -> None:
    secret = "hunter2-hunter2"
    database = PostgresDatabase(f"postgresql://bay:{secret}@{place}")
    assert secret not in database.name
    with capture_logs() as logs:
        store = Store(database)
        for act in (store.open, lambda: read(store), lambda: put(store, "x")):
            with pytest.raises(DatabaseUnavailable) as caught:
                await act()
            said = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
            assert secret not in said
        await store.aclose()
    assert secret not in repr(logs)


@pytest.mark.parametrize(
    "url", ["postgresql://bay:hunter2@host:port/x", "postgresql://bay:hunter2@[::1/x", "x"]
)
def test_a_url_that_cannot_be_read_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(InvalidArgument, match="database_url") as caught:
        PostgresDatabase(url)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


def test_without_the_driver_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(InvalidArgument, match=r"'\.\[postgres\]'"):
        PostgresDatabase("postgresql://bay@host/bay")


# Its tables


async def test_a_database_of_a_newer_bay_is_refused(admin: psycopg.Connection[Any], url: str) -> None:
    admin.execute("UPDATE alembic_version SET version_num = '9999'")
    assert "newer Bay" in await refused(url, DriverUnavailable)


async def test_a_database_of_another_program_is_refused_and_left_alone(empty: str) -> None:
    with psycopg.connect(empty, autocommit=True) as admin:
        admin.execute("CREATE TABLE customers (id int)")
        said = await refused(empty)
        assert "not Bay's, such as customers" in said
        assert admin.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall() == [
            ("customers",)
        ]


async def test_a_database_that_is_not_utf_8_is_refused(empty: str) -> None:
    name = "latin"
    with psycopg.connect(empty, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name} ENCODING 'LATIN1' TEMPLATE template0".encode())
        try:
            found = empty.partition("?")
            said = await refused(f"{found[0].rpartition('/')[0]}/{name}?{found[2]}")
        finally:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
    assert "encoding LATIN1" in said


async def test_a_start_that_was_cut_off_leaves_an_empty_database(
    empty: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("bay.store.postgres._TRIGGERS", ("SELECT no_such_function()",))
        assert "no_such_function" in await refused(empty)
    with psycopg.connect(empty) as admin:
        assert admin.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone() == (0,)
    async with opened(empty) as store:
        await put(store, "made")


async def test_triggers_that_were_lost_are_made_again_by_a_start(
    admin: psycopg.Connection[Any], url: str
) -> None:
    find = "SELECT tgname, tgrelid::regclass::text FROM pg_trigger WHERE NOT tgisinternal ORDER BY 2, 1"
    before = admin.execute(find).fetchall()
    assert len(before) == 14
    admin.execute("DROP FUNCTION bay_changed_rows CASCADE")
    async with opened(url):
        assert admin.execute(find).fetchall() == before


async def test_a_tool_reads_beside_a_bay_and_changes_nothing(store: Store, url: str) -> None:
    await put(store, "kept")
    async with PostgresDatabase(url).reading() as db:
        assert await metadata.get(db, "fact") == {"is": "kept"}
    with pytest.raises(DatabaseUnavailable):
        async with PostgresDatabase(url).reading() as db:
            await metadata.set(db, "fact", {"is": "changed"})
    async with store.write() as db:
        await db.exec_driver_sql("UPDATE alembic_version SET version_num = '0001'")
    with pytest.raises(DriverUnavailable, match="another version"):
        async with PostgresDatabase(url).reading():
            pass
    assert await read(store) == "kept"
