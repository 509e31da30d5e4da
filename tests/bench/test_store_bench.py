"""The benchmark of the store, with few samples."""

from typing import Any

import postgres_server
import pytest
from bench.base import Bench
from bench.figures import Absent, Figure, Ratio
from bench.store import store
from psycopg import connect

pytestmark = pytest.mark.host

ACTS = (
    *("an event written", "an exec kept", "a sandbox found"),
    *("50 sandboxes listed", "20 events written at once"),
)


def small() -> Bench:
    nobody: Any = None
    return Bench(nobody, nobody, None, scale=0.002)


def test_sqlite_alone_is_measured_without_the_address_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BENCH_DATABASE_URL", raising=False)
    *figures, absent = store(small())
    assert [(type(one), getattr(one, "name", "")) for one in figures] == [
        (Figure, f"{act}, SQLite") for act in ACTS
    ]
    assert isinstance(absent, Absent)


def test_both_are_measured_and_nothing_is_left_in_the_database(monkeypatch: pytest.MonkeyPatch) -> None:
    if postgres_server.binaries() is None:
        pytest.skip("PostgreSQL is not installed")
    with postgres_server.shared().database() as url:
        monkeypatch.setenv("BENCH_DATABASE_URL", url)
        found = store(small())
        assert [type(one) for one in found] == [Figure, Figure, Ratio] * len(ACTS)
        with connect(url) as db:
            assert db.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone() == (0,)
