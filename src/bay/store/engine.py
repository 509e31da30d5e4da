"""The store on a database of either kind: many readers and one writer.

Rejected: a session or unit-of-work layer. A service opens one transaction with `Store.write()` and hands the
connection to the query functions; reads outside a transaction take `Store.read()`.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

from sqlalchemy.exc import DBAPIError

from bay.errors import BayError
from bay.meters import Meters
from bay.store import audit, fences
from bay.store.connection import StoreConnection

_READERS = 4
_READER_S = 30.0


class Database(Protocol):
    """The part of the store that each kind of database does its own way."""

    name: str
    """Where it is, for the operator: without a password."""

    is_shared: bool
    """Whether other processes write to it too."""

    def starting(self, writer: StoreConnection, /) -> AbstractAsyncContextManager[None]:
        """The block of one process that starts, while no other one that shares the database does."""
        ...

    async def begin(self, writer: StoreConnection, /) -> None:
        """The first of each transaction: wait for its turn among those of other processes."""
        ...

    async def open(self, writer: StoreConnection, /) -> None:
        """Make its tables, or migrate them. Raises a BayError with the way out."""
        ...

    def reader(self) -> StoreConnection:
        """A new connection, not open yet, on which each statement reads what is committed."""
        ...

    def writer(self, note_change: Callable[[str], None], /) -> StoreConnection:
        """The connection for transactions. `note_change` hears the id of each sandbox whose rows a
        transaction changed, in the connection's thread, before the commit.
        """
        ...

    def reading(self) -> AbstractAsyncContextManager[StoreConnection]:
        """A connection for a tool, which can only read, also while a Bay uses the database; nothing is made
        or migrated. Raises DriverUnavailable or DatabaseUnavailable, also for one of another version.
        """
        ...

    def error_of(self, error: DBAPIError, /, *, of_writer: bool) -> BayError | None:
        """The error of the writer's connection, or a reader's, in Bay's words; None for what is no fault of
        the database, such as a broken rule.
        """
        ...

    def busy_error(self, wait_s: float, /) -> BayError:
        """The error for one who waited so long for a reader that answers."""
        ...


class Store:
    """One database. `open` migrates it, `aclose` lets it go."""

    def __init__(self, database: Database, meters: Meters | None = None) -> None:
        self._database = database
        self.meters = meters or Meters()
        self._read_meter = _ConnectionMeter(self.meters, "read")
        self._write_meter = _ConnectionMeter(self.meters, "write")
        self._changed = set[str]()
        """Sandboxes whose rows the transaction under way has changed, as the database itself reports them."""
        self._readers = tuple(database.reader() for _ in range(_READERS))
        # Readers open no transaction, so there is nothing to roll back when a connection is returned.
        self._idle_readers: asyncio.LifoQueue[StoreConnection] = asyncio.LifoQueue()
        for reader in self._readers:
            self._idle_readers.put_nowait(reader)
        self._writer = database.writer(self._note_change)
        # Guards the writer's one connection, so that writers queue here and not in the database: SQLite's
        # busy handler polls. Nothing else is awaited while it is held but the database.
        self._write_lock = asyncio.Lock()
        self.on_change: list[Callable[[set[str]], None]] = []
        """Called after each transaction with the ids of sandboxes that were changed or have new events."""

    @property
    def is_shared(self) -> bool:
        """Whether other processes write to the database too, so that no row may be kept in memory."""
        return self._database.is_shared

    def starting(self) -> AbstractAsyncContextManager[None]:
        """The block of one process that starts, while no other one that shares the database does."""
        return self._database.starting(self._writer)

    async def open(self) -> None:
        """Bring the schema up to date. Raises DriverUnavailable when the database cannot serve."""
        await self._database.open(self._writer)

    async def aclose(self) -> None:
        """Close every connection."""
        for connection in (*self._readers, self._writer):
            await connection.aclose()

    @asynccontextmanager
    async def read(self) -> AsyncGenerator[StoreConnection, None]:
        """A connection for reading committed rows. Raises InternalError when the database is damaged, and
        what `Database.busy_error` gives after half a minute without one.
        """
        asked = time.perf_counter()
        connection = await self._idle_reader()
        began = self._read_meter.begin(asked)
        try:
            yield connection
        except DBAPIError as error:
            self._read_meter.failures.inc()
            self._raise_in_words(error, of_writer=False)
            raise
        finally:
            self._idle_readers.put_nowait(connection)
            self._read_meter.end(began)

    async def _idle_reader(self) -> StoreConnection:
        try:
            async with asyncio.timeout(_READER_S):
                return await self._idle_readers.get()
        except TimeoutError as error:
            raise self._database.busy_error(_READER_S) from error

    @asynccontextmanager
    async def write(self) -> AsyncGenerator[StoreConnection, None]:
        """The one transaction of a service call: committed at the end, rolled back on any error.
        Listeners of `on_change` have been called when it returns. Raises LeaseLost, before the block, for
        work under a lease that this process no longer has.
        """
        asked = time.perf_counter()
        try:
            async with self._write_lock:
                is_whole, began = False, self._write_meter.begin(asked)
                try:
                    async with self._writer.transaction():
                        await self._database.begin(self._writer)
                        await fences.check(self._writer)
                        yield self._writer
                        committed = await audit.note(self._writer)
                    committed()
                    is_whole = True
                finally:
                    self._write_meter.end(began)
                    self._count_tallies(committed=is_whole)
                    self._tell_changes(again=not is_whole)
        except DBAPIError as error:
            self._write_meter.failures.inc()
            self._raise_in_words(error, of_writer=True)
            raise

    def _note_change(self, sandbox_id: str) -> None:
        self._changed.add(sandbox_id)

    def _count_tallies(self, *, committed: bool) -> None:
        tallies = self._writer.tallies
        if committed:
            for count in tallies:
                count(self.meters)
        tallies.clear()

    def _tell_changes(self, *, again: bool) -> None:
        """Call the listeners; `again`: an interrupted transaction, reported with the next one too."""
        changed = self._changed.copy()
        self._changed = changed.copy() if again else set[str]()
        if changed:
            for listener in self.on_change:
                listener(changed)

    def _raise_in_words(self, error: DBAPIError, *, of_writer: bool) -> None:
        if (known := self._database.error_of(error, of_writer=of_writer)) is not None:
            raise known from error


class _ConnectionMeter:
    """Times the connections of one kind: how long each was waited for, and how long it was held."""

    def __init__(self, meters: Meters, kind: str) -> None:
        self._waited = meters.store_wait_seconds.labels(kind)
        self._held = meters.store_seconds.labels(kind)
        self.failures = meters.store_failures.labels(kind)

    def begin(self, asked: float) -> float:
        """It is there; the present time."""
        began = time.perf_counter()
        self._waited.observe(began - asked)
        return began

    def end(self, began: float) -> None:
        """It is given back."""
        self._held.observe(time.perf_counter() - began)
