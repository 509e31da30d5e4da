"""aiosqlite with fewer trips between the event loop and its thread.

aiosqlite sends make, execute, fetch and close of a cursor to the connection's thread one by one, at about
0.13 ms each on an idle machine, which was half the time of an exec. Here the trip that executes fetches the
rows, and work in memory stays on the loop. Statements of one connection never overlap: SQLAlchemy hands it to
one task at a time and awaits each call. Rejected: SQLite on the event loop, which a slow disk would stop.
"""

import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import aiosqlite
from aiosqlite.context import contextmanager

_ITER_CHUNK_SIZE = 64

BEGIN = "BEGIN IMMEDIATE"
"""Makes no trip of its own: it goes with the first statement of its transaction."""


class _SqliteCursor(aiosqlite.Cursor):
    _fetched: list[Any]

    async def execute(self, sql: str, parameters: Iterable[Any] | None = None) -> aiosqlite.Cursor:
        connection = cast("_SqliteConnection", self._conn)
        if sql == BEGIN:
            connection.is_beginning = True
            self._fetched = []
            return self
        in_thread = cast("Any", self._conn)._execute
        self._fetched = await in_thread(self._execute_and_fetch, sql, parameters or ())
        return self

    async def executemany(self, sql: str, parameters: Iterable[Iterable[Any]]) -> aiosqlite.Cursor:
        await cast("Any", self._conn)._execute(self._begin)
        return await super().executemany(sql, parameters)

    async def fetchall(self) -> Iterable[sqlite3.Row]:
        return self._fetched

    async def close(self) -> None:
        self._cursor.close()

    def _execute_and_fetch(self, sql: str, parameters: Any) -> list[Any]:
        self._begin()
        self._cursor.execute(sql, parameters)
        return self._cursor.fetchall() if self._cursor.description else []

    def _begin(self) -> None:
        connection = cast("_SqliteConnection", self._conn)
        if connection.is_beginning:
            self._cursor.execute(BEGIN)
            connection.is_beginning = False


class _SqliteConnection(aiosqlite.Connection):
    is_beginning = False
    """Whether a transaction begins with the next statement."""

    async def rollback(self) -> None:
        self.is_beginning = False
        await super().rollback()

    async def commit(self) -> None:
        self.is_beginning = False
        await super().commit()

    @contextmanager
    async def cursor(self) -> aiosqlite.Cursor:
        return _SqliteCursor(self, self._conn.cursor())

    def __del__(self) -> None:
        # A task that is cancelled while it opens a connection drops it at any point. Closing it is all that
        # is left to do, and no reason for the parent class's warning.
        if self._connection is not None:
            cast("Any", self).stop()


def connect(path: Path) -> aiosqlite.Connection:
    """An unopened connection to the database at `path`; awaiting it opens it."""
    connection = _SqliteConnection(lambda: sqlite3.connect(path, check_same_thread=False), _ITER_CHUNK_SIZE)
    cast("Any", connection)._thread.daemon = True  # as SQLAlchemy does with the connections it makes
    return connection
