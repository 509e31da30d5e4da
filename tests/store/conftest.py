"""A database of each kind for the tests of the store."""

from collections.abc import Generator
from pathlib import Path

import postgres_databases
import postgres_server
import pytest

from bay.store.engine import Database
from bay.store.postgres import PostgresDatabase
from bay.store.sqlite import SqliteDatabase

KINDS = ("sqlite", "postgresql")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test of databases runs on each kind, and one that is marked `sqlite` on that kind alone."""
    if "database" in metafunc.fixturenames:
        marked = any(mark.name == "sqlite" for mark in metafunc.definition.iter_markers())
        metafunc.parametrize("database", KINDS[:1] if marked else KINDS, indirect=True)


@pytest.fixture
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[Database]:
    """A database that is not open yet. SQLite's has no file, and PostgreSQL's has its tables."""
    if request.param == "sqlite":
        yield SqliteDatabase(tmp_path / "bay.db")
    elif postgres_server.binaries() is None:
        pytest.skip("PostgreSQL is not installed")
    else:
        with postgres_server.shared().database(postgres_databases.migrate) as url:
            yield PostgresDatabase(url)
