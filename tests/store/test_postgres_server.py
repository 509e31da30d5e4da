"""The PostgreSQL server of the tests: each test has a database of its own, and nothing outlives the tests."""

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import postgres_server
import psycopg
import pytest

pytestmark = [
    pytest.mark.postgres,
    pytest.mark.skipif(
        postgres_server.binaries() is None, reason="make setup of the tests installs PostgreSQL"
    ),
]

WAIT_S = 60


def count(url: str) -> int:
    with psycopg.connect(url) as db:
        row = db.execute("SELECT count(*) FROM things").fetchone()
    assert row is not None
    return row[0]


def add_thing(url: str) -> None:
    with psycopg.connect(url) as db:
        db.execute("CREATE TABLE IF NOT EXISTS things (name text)")
        db.execute("INSERT INTO things VALUES ('one')")


def test_each_block_has_a_database_as_it_was_filled_once_and_it_is_dropped() -> None:
    server, filled = postgres_server.shared(), list[str]()

    def fill(url: str) -> None:
        filled.append(url)
        add_thing(url)

    before = server.databases()
    with server.database(fill) as first, server.database(fill) as second:
        add_thing(first)
        assert (count(first), count(second)) == (2, 1)
        kept = psycopg.connect(second)
    with pytest.raises(psycopg.OperationalError):
        kept.execute("SELECT 1")
    kept.close()
    assert len(filled) == 1
    assert server.databases() == before


def test_a_database_is_dropped_when_its_filling_fails() -> None:
    server = postgres_server.shared()
    before = server.databases()

    def fail(_url: str) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), server.database(fail):
        pass
    assert server.databases() == before


def test_an_empty_database_orders_text_by_its_bytes() -> None:
    with postgres_server.shared().database() as url, psycopg.connect(url) as db:
        rows = db.execute("SELECT v FROM (VALUES ('b'), ('B'), ('é'), ('a')) AS t (v) ORDER BY v").fetchall()
    assert [value for (value,) in rows] == ["B", "a", "b", "é"]


def test_a_server_that_is_no_longer_wanted_leaves_no_process_and_no_file() -> None:
    with postgres_server.running() as server:
        ended = of_server(server.directory)
    assert all(has_ended(pidfd) for pidfd in ended)
    assert not server.directory.exists()


_BEGIN = """
import os, sys
sys.path.insert(0, sys.argv[1])
import postgres_server
print(postgres_server.shared().directory, flush=True)
"""
_HOLD = "sys.stdin.read()"
_FORK = """
if (pid := os.fork()) == 0:
    sys.exit()
os.waitpid(pid, 0)
with postgres_server.shared().database():
    print("made", flush=True)
"""


def program(then: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-c", _BEGIN + then, str(Path(postgres_server.__file__).parent)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_server_ends_with_the_process_that_wanted_it_however_that_ends(how: signal.Signals) -> None:
    with program(_HOLD) as holder:
        try:
            assert holder.stdout is not None
            directory = Path(holder.stdout.readline().decode().strip())
            ended = of_server(directory)
        finally:
            holder.send_signal(how)
    assert all(has_ended(pidfd) for pidfd in ended)
    assert not directory.exists()


def of_server(directory: Path) -> list[int]:
    """Descriptors of the server's first process and of its guard."""
    server = int((directory / "data" / "postmaster.pid").read_text().splitlines()[0])
    guard = int(Path(f"/proc/{server}/stat").read_text().rpartition(")")[2].split()[1])
    return [os.pidfd_open(server), os.pidfd_open(guard)]


def has_ended(pidfd: int) -> bool:
    try:
        return bool(select.select([pidfd], [], [], WAIT_S)[0])
    finally:
        os.close(pidfd)


def test_only_the_process_that_wanted_a_server_ends_it() -> None:
    with program(_FORK) as forking:
        said, _ = forking.communicate(timeout=WAIT_S)
    assert said.splitlines()[1:] == [b"made"]
