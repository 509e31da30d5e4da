"""The move of all rows from a SQLite file to PostgreSQL: every row, once, wherever a move is cut off."""

import asyncio
import os
import subprocess
from collections.abc import Generator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import postgres_server
import psycopg
import pytest
from cli_runner import BIN
from postgres_databases import migrate
from server_harness import clear, create, empty_database, shell, world
from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Connection,
    Float,
    LargeBinary,
    NullPool,
    String,
    Table,
    Text,
    create_engine,
    delete,
    insert,
    select,
)

from bay.errors import BayError, Conflict, DatabaseUnavailable, DriverUnavailable, InvalidArgument
from bay.server import data_dir
from bay.server.data_dir import DATABASE, DATABASE_ID
from bay.server.database import write_id
from bay.server.offline import backup, secrets_key, store_migration
from bay.server.offline.store_migration import Moved, move
from bay.store.schema import UtcDateTime, cargos, facts, metadata
from bay.store.sqlite import make_engine

pytestmark = [
    pytest.mark.postgres,
    pytest.mark.skipif(postgres_server.binaries() is None, reason="PostgreSQL is not installed"),
]

NOW = datetime(2030, 1, 1, 12, 30, 15, 123456, tzinfo=UTC)
COUNT = 3
Rows = dict[str, list[tuple[Any, ...]]]


@pytest.fixture
def data(root: Path) -> Path:
    """A data directory whose database has rows in every table."""
    (root / "data").mkdir()
    (root / "data" / DATABASE).write_bytes(empty_database())
    engine = create_engine(f"sqlite:///{root / 'data' / DATABASE}", poolclass=NullPool)
    with engine.begin() as db:
        for table in metadata.sorted_tables:
            db.execute(insert(table), [dict(row(table, number)) for number in range(1, COUNT + 1)])
        db.execute(delete(cargos).where(cargos.c.seq == COUNT))
    return root / "data"


def row(table: Table, number: int) -> Iterator[tuple[str, Any]]:
    """Values of every kind that a column may have."""
    for column in table.c:
        kind = type(column.type)
        if column.name == "seq":
            yield "seq", number
        elif column.name == "id" or column.foreign_keys:
            # The last cargo is to be deleted, so that its number must not be given again.
            yield column.name, f"id-{min(number, COUNT - 1) if column.name == 'cargo_id' else number}"
        elif column.nullable and number == 2:
            yield column.name, None
        elif kind is JSON:
            yield column.name, {"é\0": [number, None, True, 0.1, "\0"]}
        else:
            values: dict[type, Any] = {
                BigInteger: number + (1 << 40),
                Boolean: number % 2 == 0,
                Float: number / 3,
                LargeBinary: bytes([0, 255, number]),
                UtcDateTime: NOW + timedelta(microseconds=number),
                String: f"{column.name} é\0{number}",
                Text: f"{column.name} é\0{number}",
            }
            yield column.name, values[kind]


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> Generator[str]:
    """An empty PostgreSQL database, which the environment names."""
    with postgres_server.shared().database() as made:
        monkeypatch.setenv("BAY_DATABASE_URL", made)
        yield made


def rows_of(db: Connection) -> Rows:
    """Every row of every table."""
    found: Rows = {}
    for table in metadata.sorted_tables:
        query = select(table).order_by(*table.primary_key.columns)
        found[table.name] = [tuple(one) for one in db.execute(query)]
    return found


def in_file(file: Path) -> Rows:
    with make_engine(file, read_only=True).connect() as db:
        return rows_of(db)


def in_postgres(url: str) -> Rows:
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:", 1), poolclass=NullPool)
    with engine.connect() as db:
        return rows_of(db)


def moved(data: Path, rows: Rows) -> Rows:
    """The rows as PostgreSQL has them after the move."""
    known = (data / DATABASE_ID).read_text().strip()
    told: Rows = {name: [readable(one) for one in found] for name, found in rows.items()}
    added = [(name, {"id": known}) for name in ("data_dir", "moved_from")]
    return {**told, "facts": sorted([*told["facts"], *added])}


def readable(value: Any) -> Any:
    """The value without NUL, which PostgreSQL does not have."""
    if isinstance(value, str):
        return value.replace("\0", "\ufffd")
    if isinstance(value, tuple):
        return tuple(map(readable, cast("tuple[Any, ...]", value)))
    if isinstance(value, list):
        return [readable(part) for part in cast("list[Any]", value)]
    if isinstance(value, dict):
        return {readable(name): readable(member) for name, member in cast("dict[Any, Any]", value).items()}
    return value


def test_every_row_of_every_table_is_moved_and_the_file_is_put_aside(data: Path, url: str) -> None:
    before = in_file(data / DATABASE)
    assert all(len(found) >= COUNT - 1 for found in before.values())
    done = move(data)
    assert done.rows == {name: len(found) for name, found in before.items()}
    assert in_postgres(url) == moved(data, before)
    assert done.file == data / "bay.db.moved"
    assert sorted(path.name for path in data.iterdir()) == ["bay.db.moved", "bay.lock", DATABASE_ID]
    assert in_file(done.file) == before


def test_numbers_that_were_given_before_are_not_given_again(data: Path, url: str) -> None:
    move(data)
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:", 1), poolclass=NullPool)
    with engine.begin() as db:
        values = {"id": "new", "owner": "a", "backend": "b", "created_at": NOW, "last_accessed_at": NOW}
        assert db.execute(insert(cargos), values).inserted_primary_key == (COUNT + 1,)


@pytest.mark.parametrize(
    "at", ["_copy_all", "_copy_table", "_go_on_counting", "write_id", "finish_id", "_put_aside"]
)
def test_a_move_that_is_cut_off_is_finished_by_the_next(
    data: Path, url: str, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, calls = in_file(data / DATABASE), 0
    as_it_is = getattr(store_migration, at)

    def cut(*given: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 7 or at in ("_copy_all", "write_id", "finish_id", "_put_aside"):
            raise SystemExit(at)
        return as_it_is(*given)

    with monkeypatch.context() as patch:
        patch.setattr(store_migration, at, cut)
        with pytest.raises(SystemExit, match=at):
            move(data)
    is_committed = at in ("finish_id", "_put_aside")
    assert in_file(data / DATABASE) == before
    assert bool(in_postgres(url)["cargos"]) == is_committed
    if is_committed:
        with pytest.raises(DriverUnavailable, match="PostgreSQL"):
            data_dir.check(data, data / DATABASE)
    assert move(data).rows == {name: len(found) for name, found in before.items()}
    assert in_postgres(url) == moved(data, before)
    assert not (data / DATABASE).exists()


@pytest.mark.anyio
async def test_a_move_that_was_cut_off_before_its_commit_lets_no_bay_start_until_it_is_finished(
    data: Path, url: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(path: Path, text: str) -> None:
        write_id(path, text)
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(store_migration, "write_id", cut)
        with pytest.raises(SystemExit):
            await asyncio.to_thread(move, data)
    assert in_postgres(url)["facts"] == []
    with pytest.raises(DriverUnavailable, match="finish it with `bay admin migrate-store`"):
        data_dir.check(data, data / DATABASE)
    with pytest.raises(DriverUnavailable, match="move them with `bay admin migrate-store`"):
        async with world(root, database_url=url):
            pass
    with monkeypatch.context() as patch:
        patch.delenv("BAY_DATABASE_URL")
        with pytest.raises(DriverUnavailable, match="finish it with `bay admin migrate-store`"):
            await asyncio.to_thread(secrets_key.rotate, data)
    before = in_file(data / DATABASE)
    await asyncio.to_thread(move, data)
    assert in_postgres(url) == moved(data, before)
    assert sorted(path.name for path in data.iterdir() if path.name.startswith("database")) == [DATABASE_ID]


def test_a_move_whose_commit_is_not_answered_is_finished_by_the_next(
    data: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, commit = in_file(data / DATABASE), psycopg.Connection[Any].commit

    def lost(connection: psycopg.Connection[Any]) -> None:
        commit(connection)
        connection.close()
        raise psycopg.OperationalError("the server closed the connection")

    with monkeypatch.context() as patch:

        def last(path: Path, text: str) -> None:
            write_id(path, text)
            patch.setattr(psycopg.Connection, "commit", lost)

        patch.setattr(store_migration, "write_id", last)
        with pytest.raises(DatabaseUnavailable):
            move(data)
    assert in_file(data / DATABASE) == before
    assert bool(in_postgres(url)["cargos"])
    with pytest.raises(DriverUnavailable, match="finish it with `bay admin migrate-store`"):
        data_dir.check(data, data / DATABASE)
    done = move(data)
    assert done.rows == {name: len(found) for name, found in before.items()}
    assert in_postgres(url) == moved(data, before)
    assert in_file(done.file) == before


def test_the_new_name_of_the_file_is_on_the_disk_when_a_move_ends(
    data: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = list[list[str]]()

    def sync(path: Path) -> None:
        assert path == data
        synced.append(sorted(one.name for one in path.iterdir()))

    monkeypatch.setattr(store_migration, "sync_directory", sync)
    move(data)
    assert synced == [["bay.db.moved", "bay.lock", DATABASE_ID]]


def test_after_the_move_a_bay_on_the_file_refuses_to_start(data: Path, url: str) -> None:
    move(data)
    with pytest.raises(DriverUnavailable, match="BAY_DATABASE_URL"):
        data_dir.check(data, data / DATABASE)
    with pytest.raises(Conflict, match="nothing is to be moved"):
        move(data)


def test_a_database_that_has_rows_is_left_alone(data: Path, url: str) -> None:
    migrate(url)
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:", 1), poolclass=NullPool)
    with engine.begin() as db:
        db.execute(insert(facts), {"name": "event_id_key", "value": "x"})
    with pytest.raises(Conflict, match="has rows already"):
        move(data)
    assert in_postgres(url)["facts"] == [("event_id_key", "x")]
    assert sorted(path.name for path in data.iterdir()) == [DATABASE, "bay.lock"]


def test_a_move_without_a_url_or_a_server_or_beside_a_bay_changes_nothing(
    data: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = store_migration.lock_data_dir(data)
    with pytest.raises(Conflict, match="another Bay"):
        move(data)
    os.close(lock)
    monkeypatch.setenv("BAY_DATABASE_URL", url.replace("?host=", "?host=/nowhere"))
    with pytest.raises(BayError, match="cannot use the database"):
        move(data)
    monkeypatch.delenv("BAY_DATABASE_URL")
    with pytest.raises(InvalidArgument, match="BAY_DATABASE_URL"):
        move(data)
    assert sorted(path.name for path in data.iterdir()) == [DATABASE, "bay.lock"]


def test_backup_and_restore_refuse_and_name_pg_dump(data: Path, url: str, tmp_path: Path) -> None:
    move(data)
    with pytest.raises(Conflict, match="pg_dump"):
        backup.backup(tmp_path / "new.tar", data, with_files=False)
    with pytest.raises(Conflict, match="pg_dump"):
        backup.restore(tmp_path / "old.tar", data, force=True)


def test_the_command_says_what_it_has_moved(data: Path, url: str) -> None:
    command = [BIN, "admin", "migrate-store", "--data-dir", str(data)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["TABLE", "ROWS"]
    assert ["cargos", str(COUNT - 1)] in [line.split() for line in lines]
    assert lines[-1].endswith(f"; the former file is {data / 'bay.db.moved'}")
    assert url.partition("?")[0].rpartition("/")[2] in lines[-1]


@pytest.mark.anyio
async def test_a_database_on_which_a_bay_was_started_has_rows_of_its_own(root: Path, url: str) -> None:
    async with world(root, database_url=url):
        pass
    (root / "data" / DATABASE).write_bytes(empty_database())
    with pytest.raises(Conflict, match="has rows already"):
        await asyncio.to_thread(move, root / "data")
    assert (root / "data" / DATABASE).exists()


@pytest.mark.anyio
async def test_a_bay_goes_on_in_postgresql_with_all_that_it_had(root: Path, url: str) -> None:
    async with world(root, database_url=None) as bay:
        alice = await bay.client("alice")
        key = bay.keys
        await alice.put("/v1/secrets/TOKEN", json={"value": "kept"})
        box = await create(alice, name="web", labels={"team": "a"}, secrets=[{"name": "TOKEN"}])
        await shell(alice, box["id"], "echo said > note")
    done: Moved = await asyncio.to_thread(move, root / "data")
    assert done.rows["sandboxes"] == 1
    rotated = await asyncio.to_thread(secrets_key.rotate, root / "data")
    assert (rotated.sealed, rotated.unreadable) == (1, ())
    async with world(root, database_url=url) as bay:
        bay.keys.update(key)
        alice = await bay.client("alice")
        assert (await shell(alice, "web", "cat note; echo $TOKEN"))["output"] == "said\nkept\n"
        newer = await create(alice)
        listed = (await alice.get("/v1/sandboxes")).json()["items"]
        assert [item["id"] for item in listed] == [box["id"], newer["id"]]
    await clear(root)


@pytest.mark.anyio
async def test_a_rotation_with_the_database_of_another_bay_loses_no_key(data: Path, url: str) -> None:
    (data / data_dir.SECRETS_KEY_FILE).write_bytes(b"")
    with pytest.raises(DriverUnavailable, match="does not belong"):
        await asyncio.to_thread(secrets_key.rotate, data)
    with psycopg.connect(url) as db:
        assert db.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone() == (0,)
    migrate(url)
    with pytest.raises(DriverUnavailable, match="does not belong"):
        await asyncio.to_thread(secrets_key.rotate, data)
    assert (data / data_dir.SECRETS_KEY_FILE).read_bytes() == b""
