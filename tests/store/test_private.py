"""The database holds secrets, so nobody else on the host may read it."""

from pathlib import Path

import pytest

from bay.errors import DriverUnavailable
from bay.store.engine import Store
from bay.store.sqlite import SqliteDatabase

pytestmark = [pytest.mark.anyio, pytest.mark.pure]


async def modes(directory: Path) -> dict[str, int]:
    """The mode of every file, while the database is open and its companions are there."""
    store = Store(SqliteDatabase(directory / "bay.db"))
    await store.open()
    try:
        async with store.write() as db:
            await db.exec_driver_sql("SELECT 1")
            return {path.name: path.stat().st_mode & 0o777 for path in directory.iterdir()}
    finally:
        await store.aclose()


async def test_every_file_of_the_database_is_its_owners_alone(tmp_path: Path) -> None:
    found = await modes(tmp_path)
    assert {"bay.db", "bay.db-wal", "bay.db-shm"} <= found.keys()
    assert set(found.values()) == {0o600}


async def test_a_database_that_was_open_to_others_is_closed(tmp_path: Path) -> None:
    (tmp_path / "bay.db").touch(0o644)
    assert set((await modes(tmp_path)).values()) == {0o600}


async def test_a_link_in_the_databases_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "bay.db").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DriverUnavailable, match=r"bay\.db"):
        await Store(SqliteDatabase(tmp_path / "bay.db")).open()
    assert not (tmp_path / "elsewhere").exists()
