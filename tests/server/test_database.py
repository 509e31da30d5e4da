"""A Bay on PostgreSQL: its database and its data directory belong together, and it outlives an outage."""

import asyncio
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from pathlib import Path

import postgres_databases
import postgres_server
import psycopg
import pytest
from server_harness import World, assert_error, clear, create, eventually, settings_in, shell, world

from bay.errors import DriverUnavailable, InvalidArgument
from bay.server import data_dir
from bay.server.database import bind, make_database, sqlite_file, write_id
from bay.server.settings import read
from bay.store import metadata
from bay.store.engine import Store

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(postgres_server.binaries() is None, reason="PostgreSQL is not installed"),
]


@pytest.fixture
def url() -> Generator[str]:
    """A database that has its tables."""
    with postgres_server.shared().database(postgres_databases.migrate) as made:
        yield made


@asynccontextmanager
async def bay_on(url: str, root: Path) -> AsyncGenerator[World]:
    """A Bay below `root` with that database, and nothing of it left."""
    try:
        async with world(root, database_url=url) as running:
            yield running
    finally:
        await clear(root)


def tables(url: str) -> int:
    """The number of tables in that database."""
    with psycopg.connect(url) as db:
        found = db.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone()
    assert found is not None
    return found[0]


async def refusal(url: str, root: Path) -> str:
    """The words with which a Bay does not start there."""
    with pytest.raises(DriverUnavailable) as caught:
        async with bay_on(url, root):
            pass
    return caught.value.message


# Which database


def test_the_setting_chooses_the_database_and_is_never_shown(tmp_path: Path) -> None:
    plain = read(data_dir=tmp_path)
    assert make_database(plain).name == str(sqlite_file(plain)) == f"{tmp_path}/bay.db"
    url = "postgresql://bay:hunter2@db.example.com:5433/rows?sslmode=require"
    given = read(data_dir=tmp_path, database_url=url)
    assert make_database(given).name == "postgresql://bay@db.example.com:5433/rows"
    assert sqlite_file(given) is None
    assert "hunter2" not in repr(given) + str(given.model_dump())


@pytest.mark.parametrize("url", ["mysql://bay:hunter2@host/x", "/var/lib/bay.db", "sqlite:///x"])
def test_a_url_of_another_database_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(InvalidArgument, match="BAY_DATABASE_URL is no URL of PostgreSQL") as caught:
        read(database_url=url)
    assert "hunter2" not in caught.value.message


# What belongs together


async def test_a_database_and_a_data_directory_are_bound_by_the_first_start(root: Path, url: str) -> None:
    async with bay_on(url, root) as bay:
        async with bay.bay.store.read() as db:
            fact = await metadata.get(db, "data_dir")
        path = root / "data" / "database.id"
        assert fact == {"id": path.read_text().strip()}
        assert path.stat().st_mode & 0o777 == 0o600
        await create(await bay.client())
    async with bay_on(url, root) as bay:
        assert len((await (await bay.client()).get("/v1/sandboxes")).json()["items"]) == 1


async def test_a_database_of_another_data_directory_is_refused_with_the_way_out(root: Path, url: str) -> None:
    first, second = root / "a", root / "b"
    first.mkdir()
    second.mkdir()
    async with bay_on(url, first):
        pass
    said = await refusal(url, second)
    assert "belongs to another data directory" in said
    known = (first / "data" / "database.id").read_text()
    assert known.strip() in said
    assert not (second / "data" / "database.id").exists()
    (second / "data" / "database.id").write_text(known)
    async with bay_on(url, second):
        pass


async def opened(url: str, data: Path, driver: str = "kubernetes") -> None:
    """The database, opened and let go as a Bay with that data directory does."""
    settings = read(data_dir=data, database_url=url, driver=driver)
    store = Store(make_database(settings))
    try:
        await store.open()
        await bind(store, settings)
    finally:
        await store.aclose()


async def test_a_new_directory_belongs_to_any_database_where_it_keeps_no_files(
    tmp_path: Path, url: str
) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        for _ in range(2):
            await opened(url, tmp_path / name)
    with pytest.raises(DriverUnavailable, match="belongs to another data directory"):
        await opened(url, tmp_path / "other", driver="oci")
    (tmp_path / "other" / "database.id").write_text("0" * 24)
    with pytest.raises(DriverUnavailable, match="belongs to another data directory"):
        await opened(url, tmp_path / "other")


async def test_a_directory_of_another_database_is_none_also_where_it_keeps_no_files(
    tmp_path: Path, url: str
) -> None:
    await opened(url, tmp_path)
    with (
        postgres_server.shared().database(postgres_databases.migrate) as empty,
        pytest.raises(DriverUnavailable, match="belongs to another; check BAY_DATABASE_URL"),
    ):
        await opened(empty, tmp_path)


async def test_an_empty_database_beside_workspaces_is_refused_and_they_stay(root: Path, url: str) -> None:
    async with bay_on(url, root) as bay:
        place = bay.workspace(await create(await bay.client(), wait=20, profile="eager"))
        assert place.is_dir()
    with postgres_server.shared().database(postgres_databases.migrate) as empty:
        assert "has no row of the workspaces" in await refusal(empty, root)
    assert place.is_dir()
    async with bay_on(url, root):
        assert place.is_dir()


async def test_an_empty_database_beside_a_filled_file_is_refused_and_stays_empty(
    root: Path, url: str
) -> None:
    async with world(root, database_url=None):
        pass
    key = (root / "data" / data_dir.KEY_FILE).read_bytes()
    with postgres_server.shared().database() as empty:
        assert "bay admin migrate-store" in await refusal(empty, root)
        assert tables(empty) == 0
    assert "bay admin migrate-store" in await refusal(url, root)
    assert (root / "data" / data_dir.KEY_FILE).read_bytes() == key
    assert not (root / "data" / data_dir.DATABASE_ID).exists()
    (root / "data" / data_dir.DATABASE).rename(root / "away")
    async with bay_on(url, root):
        pass


async def test_an_empty_database_is_refused_where_the_directory_belongs_to_another(
    root: Path, url: str
) -> None:
    async with bay_on(url, root):
        pass
    kept = (root / "data" / data_dir.DATABASE_ID).read_text()
    with postgres_server.shared().database() as empty:
        assert "belongs to another; check BAY_DATABASE_URL" in await refusal(empty, root)
        assert tables(empty) == 0
        assert (root / "data" / data_dir.DATABASE_ID).read_text() == kept
        (root / "data" / data_dir.DATABASE_ID).unlink()
        async with bay_on(empty, root):
            pass


async def test_a_database_of_another_data_directory_is_not_migrated(root: Path, url: str) -> None:
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute("""INSERT INTO facts (name, value) VALUES ('data_dir', '{"id": "theirs"}')""")
        admin.execute("DROP FUNCTION bay_changed_rows CASCADE")
        admin.execute("UPDATE alembic_version SET version_num = '9999'")
        count = "SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal"
        before = admin.execute(count).fetchone()
        assert "belongs to another data directory" in await refusal(url, root)
        assert admin.execute(count).fetchone() == before


@pytest.mark.parametrize("committed", [False, True])
async def test_a_first_start_that_was_cut_off_is_finished_by_the_next(
    root: Path, url: str, committed: bool
) -> None:
    settings_in(root, database_url=url)
    noted = root / "data" / "database.id.new"
    write_id(root / "data" / data_dir.DATABASE_ID, "0" * 24)
    if committed:
        with psycopg.connect(url, autocommit=True) as admin:
            admin.execute(
                "INSERT INTO facts (name, value) VALUES ('data_dir', %s)", (f'{{"id": "{"0" * 24}"}}',)
            )
    with pytest.raises(DriverUnavailable, match="was cut off"):
        data_dir.check(root / "data", root / "data" / "bay.db")
    async with bay_on(url, root) as bay, bay.bay.store.read() as db:
        fact = await metadata.get(db, "data_dir")
    assert fact == {"id": (root / "data" / data_dir.DATABASE_ID).read_text().strip()}
    assert (fact == {"id": "0" * 24}) == committed
    assert not noted.exists()


async def test_an_id_that_was_half_written_is_no_id(root: Path, url: str) -> None:
    settings_in(root, database_url=url)
    noted = root / "data" / "database.id.new"
    noted.write_bytes(b"\0" * 25)
    async with bay_on(url, root):
        assert not noted.exists()


async def test_a_data_directory_whose_rows_are_in_postgresql_is_not_opened_with_a_file(
    root: Path, url: str
) -> None:
    async with bay_on(url, root):
        pass
    data_dir.check(root / "data", None)
    with pytest.raises(DriverUnavailable, match="set BAY_DATABASE_URL"):
        data_dir.check(root / "data", root / "data" / "bay.db")


async def test_the_file_of_the_binding_is_no_other_program_s(root: Path, url: str) -> None:
    settings_in(root, database_url=url)
    (root / "data" / "database.id").write_bytes(b"\xff\xfe")
    assert "cannot read" in await refusal(url, root)


# An outage


async def test_a_bay_and_its_sandboxes_outlive_an_outage_of_the_database(root: Path, url: str) -> None:
    socket = Path(url.partition("host=")[2]) / ".s.PGSQL.5432"
    away = socket.with_name("away")
    with psycopg.connect(url, autocommit=True) as admin:
        async with bay_on(url, root) as bay:
            alice = await bay.client()
            box = (await create(alice, wait=20, profile="eager"))["id"]
            assert (await shell(alice, box, "echo before"))["output"] == "before\n"
            socket.rename(away)
            try:
                admin.execute(
                    "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE application_name = 'bay' "
                    "AND datname = current_database()"
                )
                assert_error(await alice.post("/v1/sandboxes", json={}), 503, "database_unavailable")
                assert_error(await alice.get("/v1/sandboxes"), 503, "database_unavailable")
                ready = await alice.get("/health/ready")
                assert_error(ready, 503, "database_unavailable")
                assert (await alice.get("/health")).status_code == 200
                bay.clock.advance(3)
                await asyncio.gather(*(alice.get("/v1/sandboxes") for _ in range(20)))
            finally:
                away.rename(socket)

            async def answers() -> bool:
                return (await alice.get("/health/ready")).status_code == 200

            await eventually(answers)

            async def makes() -> bool:
                return (await alice.post("/v1/sandboxes", json={})).status_code == 201

            await eventually(makes)
            assert (await shell(alice, box, "echo after"))["output"] == "after\n"
            assert len((await alice.get("/v1/sandboxes")).json()["items"]) == 2
