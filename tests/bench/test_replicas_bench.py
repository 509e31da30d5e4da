"""The benchmark of several Bays, with few samples."""

from typing import Any

import postgres_server
import pytest
from bench.base import Bench
from bench.figures import Absent, Figure, Ratio
from bench.replicas import MOST, replicas
from psycopg import connect

pytestmark = [pytest.mark.host, pytest.mark.long]


def small() -> Bench:
    nobody: Any = None
    return Bench(nobody, nobody, None, scale=0.01)


def test_without_a_database_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BENCH_DATABASE_URL", raising=False)
    [absent] = replicas(small())
    assert isinstance(absent, Absent)


@pytest.mark.timeout(300)
def test_all_is_measured_and_nothing_is_left_in_the_database(monkeypatch: pytest.MonkeyPatch) -> None:
    if postgres_server.binaries() is None:
        pytest.skip("PostgreSQL is not installed")
    with postgres_server.shared().database() as url:
        monkeypatch.setenv("BENCH_DATABASE_URL", url)
        found = replicas(small())
        wakes, takeovers = [Figure, Figure, Ratio], [Figure, Figure]
        assert [type(one) for one in found] == [Figure, Figure] * MOST + wakes + takeovers
        with connect(url) as db:
            assert db.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone() == (0,)
