"""The database: its migrations, what it enforces, and what it does when it cannot."""

import asyncio
import sqlite3
from collections.abc import AsyncGenerator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from blockbuster import blockbuster_ctx
from sqlalchemy import create_engine, delete, event, insert, select, update
from sqlalchemy.exc import DatabaseError, IntegrityError

from bay.errors import BY_CODE, BadRequest, DriverUnavailable, StorageFull
from bay.models import Exec, Failure, to_wire
from bay.store import cargos, claims, events, execs, keys, sandboxes, sessions
from bay.store import connection as store_connection
from bay.store import metadata as store_metadata
from bay.store.connection import StoreConnection
from bay.store.engine import Database, Store
from bay.store.records import (
    ApiKey,
    Claim,
    Filters,
    KeptFailure,
    RestoreFailure,
    SandboxRecord,
    SessionRecord,
)
from bay.store.schema import events as events_table
from bay.store.schema import facts as facts_table
from bay.store.schema import metadata
from bay.store.schema import sandboxes as sandboxes_table
from bay.store.schema import sessions as sessions_table
from bay.store.sqlite import SqliteDatabase, migrate
from bay.store.upgrade import upgrade
from bay.store.versions import MIGRATIONS, newest_version

pytestmark = [pytest.mark.anyio, pytest.mark.pure]

NOW = datetime(2030, 1, 1, 12, 30, 15, 123456, tzinfo=UTC)
SANDBOX = SandboxRecord(
    seq=1, id="sandbox-1", owner="alice", name="box", profile="p", image="host", isolation="container",
    cargo_id="ws-1", env={"A": "b"}, labels={"x": "y"}, target="running", generation=0, error=None,
    idle_timeout=5, idle_expires_at=NOW, expires_at=NOW, created_at=NOW, deleted_at=None, session=None,
)  # fmt: skip
SESSION = SessionRecord(
    id="sess-1", sandbox_id="sandbox-1", generation=1, driver="fake", phase="starting", token="t", handle=None,
    end_reason=None, created_at=NOW, started_at=None, ended_at=None,
)  # fmt: skip
EXEC = Exec(
    id="exec-1", argv=("true",), pid=1, tty=False, state="running", exit_code=None, signal=None, started_at=NOW,
    ended_at=None, output_bytes=0, first_offset=0,
)  # fmt: skip


@pytest.fixture
async def store(database: Database) -> AsyncGenerator[Store]:
    made = Store(database)
    await made.open()
    with blockbuster_ctx(["bay.store"]):
        yield made
    await made.aclose()


async def add_sandbox(store: Store, *records: SandboxRecord) -> None:
    async with store.write() as db:
        for record in records:
            if await cargos.find(db, record.owner, record.cargo_id) is None:
                values = {"id": record.cargo_id, "owner": record.owner, "backend": "directory"}
                await cargos.add(db, {**values, "created_at": NOW, "last_accessed_at": NOW})
            await sandboxes.add(db, record)


async def test_an_error_that_a_row_keeps_is_raised_again_with_all_that_it_says(store: Store) -> None:
    errors = [
        cls(f"{cls.code} of the “test”", details={"ids": ["a"]}) for cls in {*BY_CODE.values(), BadRequest}
    ]
    of_newer_bay = replace(KeptFailure.of(BadRequest("it is new"), NOW), code="unheard_of", status=418)
    kept = [*(KeptFailure.of(error, NOW) for error in errors), of_newer_bay]
    failures = tuple(RestoreFailure(number=number, failure=failure) for number, failure in enumerate(kept))
    await add_sandbox(store, SANDBOX)
    async with store.write() as db:
        await sandboxes.change(db, SANDBOX.id, restore_failures=to_wire(failures))
    async with store.read() as db:
        found = await sandboxes.get(db, SANDBOX.id)
    assert found is not None
    assert found.restore_failures == failures
    *again, newer = (failure.failure.error() for failure in found.restore_failures)
    said = [(e.code, e.status, e.message, e.details, e.retryable, e.exit_code) for e in again]
    assert said == [(e.code, e.status, e.message, e.details, e.retryable, e.exit_code) for e in errors]
    assert (newer.status, newer.message) == (418, "it is new")


# Migrations


def test_the_schema_is_the_sum_of_the_migrations(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/bay.db")
    with engine.begin() as connection:
        upgrade(connection, str(tmp_path / "bay.db"))
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
    engine.dispose()
    migrate(tmp_path / "made.db")
    assert declared(tmp_path / "bay.db") == declared(tmp_path / "made.db")
    assert version(tmp_path / "bay.db") == version(tmp_path / "made.db") == newest_version()


def version(path: Path) -> str:
    with closing(sqlite3.connect(path)) as db:
        return str(db.execute("SELECT version_num FROM alembic_version").fetchone()[0])


def make_of_version(path: Path, revision: str) -> None:
    """A database as an older Bay left it."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    engine.dispose()


def test_an_old_database_gets_the_migrations_that_it_lacks(tmp_path: Path) -> None:
    path = tmp_path / "bay.db"
    make_of_version(path, "0005")
    migrate(path)
    migrate(tmp_path / "made.db")
    assert version(path) == newest_version()
    assert declared(path) == declared(tmp_path / "made.db")


def test_checkpoints_of_an_old_database_are_numbered_as_they_came(tmp_path: Path) -> None:
    path = tmp_path / "bay.db"
    make_of_version(path, "0020")
    rows = [("a", 0), ("b", 0), ("a", 1), ("a", 0)]
    with sqlite3.connect(path) as db:
        for place, (sandbox, hidden) in enumerate(rows):
            db.execute(
                "INSERT INTO checkpoints (id, owner, sandbox_id, kind, auto, hidden, persist, image, state, "
                "created_at) VALUES (?, 'alice', ?, 'files', 0, ?, 'workspace', 'host', 'ready', '2030-01-01')",
                (f"ckpt-{place}", sandbox, hidden),
            )
    db.close()
    migrate(path)
    with sqlite3.connect(path) as db:
        found = db.execute("SELECT number FROM checkpoints ORDER BY seq").fetchall()
    db.close()
    assert found == [(1,), (1,), (None,), (2,)]


def declared(path: Path) -> dict[str, set[str]]:
    """Columns, indexes and their conditions as SQLite has them, whatever the order and the white space."""
    with sqlite3.connect(path) as db:
        rows = db.execute("SELECT name, sql FROM sqlite_master WHERE name != 'alembic_version'").fetchall()
    db.close()
    inside = {name: (sql or "").partition("(")[2] for name, sql in rows if not name.startswith("sqlite_")}
    return {name: {" ".join(part.split()).rstrip(" )") for part in sql.split(",")} for name, sql in inside.items()
            if "alembic" not in name}  # fmt: skip


def test_an_upgrade_may_be_repeated(tmp_path: Path) -> None:
    migrate(tmp_path / "bay.db")
    before = declared(tmp_path / "bay.db")
    migrate(tmp_path / "bay.db")
    assert declared(tmp_path / "bay.db") == before


@pytest.mark.parametrize("statements", range(1, 18, 3))
def test_an_upgrade_that_is_cut_off_anywhere_is_made_by_the_next_start(
    tmp_path: Path, statements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bay.db"
    left = statements

    def count(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        nonlocal left
        left -= statement.lstrip().startswith(("CREATE", "INSERT"))
        if left < 0:
            raise DriverUnavailable("killed")

    from_migrate = create_engine

    def watched(*args: Any, **kwargs: Any) -> Any:
        engine = from_migrate(*args, **kwargs)
        event.listen(engine, "before_cursor_execute", count)
        return engine

    monkeypatch.setattr("bay.store.sqlite.create_engine", watched)
    with pytest.raises(DriverUnavailable, match="killed"):
        migrate(path)
    monkeypatch.undo()
    migrate(path)
    assert "sandboxes" in declared(path)


async def test_a_database_of_a_newer_bay_is_left_alone_with_a_clear_word(tmp_path: Path) -> None:
    path = tmp_path / "bay.db"
    migrate(path)
    with sqlite3.connect(path) as db:
        db.execute("UPDATE alembic_version SET version_num = '9999'")
    db.close()
    with pytest.raises(DriverUnavailable, match="newer Bay"):
        await Store(SqliteDatabase(path)).open()


@pytest.mark.parametrize("damage", ["garbage", "middle", "directory", "missing"])
async def test_a_damaged_database_is_refused_with_a_clear_word(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "bay.db"
    match damage:
        case "garbage":
            path.write_bytes(b"this is no database" * 1000)
        case "directory":
            path.mkdir()
        case "missing":
            path = tmp_path / "nowhere" / "bay.db"
        case _:
            migrate(path)
            data = bytearray(path.read_bytes())
            data[4096 * 2 : 4096 * 5] = b"\xff" * 4096 * 3
            path.write_bytes(data)
    with pytest.raises(DriverUnavailable, match=str(path)):
        await Store(SqliteDatabase(path)).open()


# What the database enforces


async def test_a_sandbox_has_one_live_session_at_most(store: Store) -> None:
    await add_sandbox(store, SANDBOX)
    async with store.write() as db:
        await sessions.add(db, SESSION)
    second = replace(SESSION, id="sess-2", generation=2)
    with pytest.raises(IntegrityError):
        async with store.write() as db:
            await sessions.add(db, second)
    async with store.write() as db:
        await sessions.change(db, SESSION.id, phase="ended", ended_at=NOW)
        await sessions.add(db, second)
    async with store.read() as db:
        found = await sandboxes.get(db, SANDBOX.id)
        assert found == replace(SANDBOX, session=second)
        assert await sessions.live_ids(db) == {"sess-2"}


async def test_a_name_is_unique_among_an_owners_sandboxes_that_are_not_deleted(store: Store) -> None:
    await add_sandbox(store, SANDBOX, replace(SANDBOX, seq=2, id="sandbox-2", owner="bob", cargo_id="ws-2"))
    twin = replace(SANDBOX, seq=3, id="sandbox-3")
    with pytest.raises(IntegrityError):
        await add_sandbox(store, twin)
    async with store.write() as db:
        await sandboxes.change(db, SANDBOX.id, deleted_at=NOW)
    await add_sandbox(store, twin)
    async with store.read() as db:
        by_name = await sandboxes.find(db, "alice", "box")
        by_id = await sandboxes.find(db, "alice", SANDBOX.id)
    assert by_name is not None
    assert by_id is not None
    assert (by_name.id, by_id.deleted_at) == ("sandbox-3", NOW)


async def test_nameless_sandboxes_are_not_in_each_others_way(store: Store) -> None:
    nameless = replace(SANDBOX, name=None), replace(SANDBOX, seq=2, id="sandbox-2", name=None)
    await add_sandbox(store, *nameless)
    async with store.read() as db:
        kept = [await sandboxes.find(db, "alice", record.id) for record in nameless]
    assert [found and (found.id, found.name) for found in kept] == [("sandbox-1", None), ("sandbox-2", None)]


async def test_rows_that_point_nowhere_are_refused(store: Store) -> None:
    with pytest.raises(IntegrityError):
        async with store.write() as db:
            await sandboxes.add(db, replace(SANDBOX, cargo_id="ws-none"))
    with pytest.raises(IntegrityError):
        async with store.write() as db:
            await sessions.add(db, SESSION)


async def test_a_key_is_known_once(store: Store) -> None:
    key = ApiKey(
        id="key-1",
        owner="a",
        name="n",
        hash="h",
        scope="admin",
        created_at=NOW,
        expires_at=None,
        revoked_at=None,
    )
    async with store.write() as db:
        await keys.add(db, key)
        await keys.add(db, replace(key, id="key-2", hash="h2", expires_at=NOW, scope="read"))
    with pytest.raises(IntegrityError):
        async with store.write() as db:
            await keys.add(db, replace(key, id="key-3"))
    async with store.read() as db:
        assert [k.id for k in await keys.all_valid(db, NOW)] == ["key-1"]
        assert await keys.any_admin(db, NOW)


# Queries


async def test_what_is_written_is_read_again_to_the_microsecond(store: Store) -> None:
    failure = Failure(code="c", message="m", at=NOW)
    await add_sandbox(store, SANDBOX)
    async with store.write() as db:
        await sandboxes.change_target(db, SANDBOX.id, old=("running",), new="stopped", error=failure)
    async with store.read() as db:
        assert await sandboxes.get(db, SANDBOX.id) == replace(SANDBOX, target="stopped", error=failure)
        assert await sandboxes.get(db, "sandbox-9") is None


async def test_a_target_is_changed_only_from_what_it_was_thought_to_be(store: Store) -> None:
    await add_sandbox(store, replace(SANDBOX, target="deleted"))
    async with store.write() as db:
        await sandboxes.change_target(db, SANDBOX.id, old=("running",), new="stopped")
    async with store.read() as db:
        found = await sandboxes.get(db, SANDBOX.id)
    assert found is not None
    assert found.target == "deleted"


async def test_an_idle_sandbox_is_stopped_only_while_its_clock_says_so(store: Store) -> None:
    await add_sandbox(store, SANDBOX)
    async with store.write() as db:
        assert not await sandboxes.idle_out(db, SANDBOX.id, NOW.replace(microsecond=0), "paused")
        assert await sandboxes.idle_out(db, SANDBOX.id, NOW, "paused")
        assert not await sandboxes.idle_out(db, SANDBOX.id, NOW, "paused")


async def test_rows_are_due_once_their_time_has_come(store: Store) -> None:
    early = NOW.replace(microsecond=0)
    await add_sandbox(
        store,
        replace(SANDBOX, idle_expires_at=None),
        replace(SANDBOX, seq=2, id="idle", name=None, expires_at=None),
        replace(SANDBOX, seq=3, id="cold", name=None, expires_at=None, target="stopped"),
        replace(SANDBOX, seq=4, id="gone", name=None, deleted_at=NOW),
        replace(SANDBOX, seq=5, id="forever", name=None, expires_at=None, idle_expires_at=None),
    )
    async with store.read() as db:
        assert await sandboxes.due(db, early, timedelta(0)) == []
        assert sorted(r.id for r in await sandboxes.due(db, NOW, timedelta(0))) == ["idle", "sandbox-1"]
        assert [r.id for r in await sandboxes.due(db, NOW, timedelta(minutes=1))] == ["idle"]
        assert {r.id for r in await sandboxes.unsettled(db)} == {"sandbox-1", "idle", "forever"}


async def test_another_owners_rows_are_never_found(store: Store) -> None:
    await add_sandbox(store, SANDBOX)
    async with store.read() as db:
        assert await sandboxes.find(db, "bob", SANDBOX.id) is None
        assert await sandboxes.find(db, "bob", "box") is None
        assert await cargos.find(db, "bob", SANDBOX.cargo_id) is None
        assert await claims.find(db, "bob", "k") is None
        page = await sandboxes.page(db, "bob", Filters(), now=NOW, after=0, limit=10)
        assert (page.items, page.next_cursor) == ((), None)


async def test_an_exec_is_saved_by_its_own_session_alone_and_until_it_ended(store: Store) -> None:
    await add_sandbox(store, SANDBOX, replace(SANDBOX, seq=2, id="sandbox-2", name=None))
    ended = replace(EXEC, state="exited", exit_code=0, ended_at=NOW)
    async with store.write() as db:
        await sessions.add(db, SESSION)
        await sessions.add(db, replace(SESSION, id="sess-2", sandbox_id="sandbox-2"))
        await execs.add(db, "sandbox-1", "sess-1", EXEC)
        await execs.add(db, "sandbox-2", "sess-2", EXEC)  # ids are unique in their sandbox
        await execs.save(db, "sess-2", ended)
        assert await execs.get(db, "sandbox-1", EXEC.id) == (EXEC, "sess-1")
        assert await execs.get(db, "sandbox-2", EXEC.id) == (ended, "sess-2")
        await execs.save(db, "sess-2", replace(ended, exit_code=9))
        assert await execs.get(db, "sandbox-2", EXEC.id) == (ended, "sess-2")
        assert await execs.any_active(db, "sess-1")
        assert not await execs.any_active(db, "sess-2")
        await execs.lose_running(db, "sess-1", NOW)
        await execs.lose_running(db, "sess-2", NOW)
        assert await execs.get(db, "sandbox-1", EXEC.id) == (
            replace(EXEC, state="lost", ended_at=NOW),
            "sess-1",
        )
        assert await execs.get(db, "sandbox-2", EXEC.id) == (ended, "sess-2")
    async with store.write() as db:
        assert not await execs.add(db, "sandbox-1", "sess-1", EXEC)


async def test_claims_are_kept_for_their_time(store: Store) -> None:
    claim = Claim(owner="a", key="k", request_hash="h", resource_id="r", answer={"a": 1}, created_at=NOW)
    async with store.write() as db:
        await claims.add(db, claim)
        await claims.add(db, replace(claim, owner="b", answer=None))
        await claims.forget(db, NOW)
        assert await claims.find(db, "a", "k") == claim
        assert await claims.find(db, "b", "k") == replace(claim, owner="b", answer=None)
        await claims.forget(db, NOW.replace(year=2031))
        assert await claims.find(db, "a", "k") is None


async def test_events_keep_their_order(store: Store) -> None:
    await add_sandbox(store, SANDBOX)
    async with store.write() as db:
        for number in range(3):
            await events.add(db, SANDBOX, "sandbox.started", NOW, number=number)
        rows = (await db.execute(select(events_table.c.seq, events_table.c.data).order_by("seq"))).all()
    assert [tuple(r) for r in rows] == [(n + 1, {"number": n}) for n in range(3)]


# Transactions


async def test_a_transaction_that_fails_leaves_nothing(store: Store) -> None:
    async def fail() -> None:
        async with store.write() as db:
            await events.add(db, SANDBOX, "sandbox.created", NOW)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await fail()
    assert await count(store, "events") == 0


async def test_a_transaction_whose_caller_is_cancelled_leaves_nothing_and_lets_others_write(
    store: Store,
) -> None:
    inside = asyncio.Event()

    async def write() -> None:
        async with store.write() as db:
            await events.add(db, SANDBOX, "sandbox.created", NOW)
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(write())
    async with asyncio.timeout(5):
        await inside.wait()
        task.cancel()
        await asyncio.wait([task])
        async with store.write() as db:
            await events.add(db, SANDBOX, "sandbox.started", NOW)
    assert await count(store, "events") == 1


async def test_writers_queue_and_readers_do_not_wait_for_them(store: Store) -> None:
    await add_sandbox(store, SANDBOX)
    async with asyncio.timeout(5), store.write() as db:
        await sandboxes.change(db, SANDBOX.id, name="changed")
        async with store.read() as reader:
            seen = await sandboxes.get(reader, SANDBOX.id)
        assert seen == SANDBOX  # what is committed

    async def add() -> None:
        async with store.write() as db:
            found = await sandboxes.get(db, SANDBOX.id)
            assert found is not None
            await sandboxes.change(db, SANDBOX.id, generation=found.generation + 1)

    async with asyncio.timeout(20):
        await asyncio.gather(*(add() for _ in range(50)))
    async with store.read() as db:
        found = await sandboxes.get(db, SANDBOX.id)
    assert found is not None
    assert (found.generation, found.name) == (50, "changed")


@pytest.mark.sqlite
async def test_a_full_disk_is_storage_full_and_passes(store: Store) -> None:
    async with store.write() as db:
        pages = (await db.exec_driver_sql("PRAGMA page_count")).scalar_one()
        await db.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StorageFull):
        async with store.write() as db:
            await events.add(db, SANDBOX, "sandbox.created", NOW, filler="x" * 100_000)
    async with store.write() as db:
        await db.exec_driver_sql("PRAGMA max_page_count = 100000")
        await events.add(db, SANDBOX, "sandbox.created", NOW, filler="x" * 100_000)
    assert await count(store, "events") == 1


async def test_other_faults_of_the_database_are_not_called_full(store: Store) -> None:
    with pytest.raises(DatabaseError):
        async with store.write() as db:
            await db.exec_driver_sql("SELECT * FROM nothing")


async def test_changed_sandboxes_are_told_after_the_commit_whatever_changed_of_them(store: Store) -> None:
    told: list[set[str]] = []
    store.on_change.append(told.append)
    box, *others = [replace(SANDBOX, seq=n, id=f"sandbox-{n}", name=None) for n in range(1, 4)]
    await add_sandbox(store, box, *others)
    async with store.write() as db:
        await sessions.add(db, SESSION)
        await sandboxes.change(db, "sandbox-2", name="two")
        assert told == [{"sandbox-1", "sandbox-2", "sandbox-3"}]
    async with store.write() as db:
        await events.add(db, box, "sandbox.started", NOW)
    async with store.write() as db:
        await db.execute(delete(sessions_table))
    async with store.write() as db:
        await db.execute(update(sandboxes_table).values(idle_timeout=9))
    async with store.write() as db:
        await store_metadata.set(db, "fact", {})
    assert told[1:] == [
        {"sandbox-1", "sandbox-2"}, {"sandbox-1"}, {"sandbox-1"}, {"sandbox-1", "sandbox-2", "sandbox-3"},
    ]  # fmt: skip


async def count(store: Store, table: str) -> int:
    async with store.read() as db:
        return (await db.exec_driver_sql(f"SELECT count(*) FROM {table}")).scalar_one()  # noqa: S608


@pytest.mark.parametrize("many", [False, True])
async def test_a_transaction_that_fails_leaves_nothing_whatever_its_first_statement(
    store: Store, many: bool
) -> None:
    rows: list[dict[str, Any]] = [{"name": f"fact-{number}", "value": {}} for number in range(3)]

    async def fail() -> None:
        async with store.write() as db:
            await db.execute(insert(facts_table), rows if many else rows[0])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    async with store.read() as db:
        assert await store_metadata.get(db, "fact-0") is None
    async with store.write():
        pass  # one that does nothing holds up nobody
    async with store.write() as db:
        await db.execute(insert(facts_table), rows)
    async with store.read() as db:
        assert await store_metadata.get(db, "fact-2") == {}


async def add_thing(store: Store, thing: int, other: sqlite3.Connection | None = None) -> None:
    """Write one, which `other` must not see, and fail, where `other` is given."""
    async with store.write() as db:
        await db.exec_driver_sql("INSERT INTO things VALUES (?)", (thing,))
        if other is not None:
            assert other.execute("SELECT thing FROM things").fetchall() == []
            raise ValueError("refused")


@pytest.mark.sqlite
async def test_a_transaction_that_could_not_begin_does_not_spoil_the_next_ones(
    store: Store, tmp_path: Path
) -> None:
    async with store.write() as db:
        await db.exec_driver_sql("CREATE TABLE things (thing)")
        await db.exec_driver_sql("PRAGMA busy_timeout = 50")
    with closing(sqlite3.connect(tmp_path / "bay.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(DatabaseError, match="locked"):
            await add_thing(store, 1)
        other.execute("ROLLBACK")
        with pytest.raises(ValueError, match="refused"):
            await add_thing(store, 2, other)
        assert other.execute("SELECT thing FROM things").fetchall() == []


@pytest.mark.sqlite
async def test_a_commit_that_failed_leaves_no_transaction_open(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object) -> None:
        raise sqlite3.OperationalError("database is locked")

    async with store.write() as db:
        await db.exec_driver_sql("CREATE TABLE things (thing)")
    with monkeypatch.context() as patch:
        patch.setattr(store._writer._engine.dialect, "do_commit", refuse)
        with pytest.raises(DatabaseError, match="locked"):
            await add_thing(store, 1)
    await add_thing(store, 2)
    async with store.read() as db:
        assert [row.thing for row in await db.exec_driver_sql("SELECT thing FROM things")] == [2]


async def test_a_host_that_refuses_a_thread_is_asked_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refused(store_connection.Thread):
        def start(self) -> None:
            raise RuntimeError("can't start new thread")

    connection = StoreConnection(store._readers[0]._engine)
    with monkeypatch.context() as patch:
        patch.setattr(store_connection, "Thread", Refused)
        with pytest.raises(RuntimeError):
            await connection.exec_driver_sql("SELECT 1")
    assert (await connection.exec_driver_sql("SELECT 1")).scalar() == 1
    await connection.aclose()
