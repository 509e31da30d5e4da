"""A database for the event loop: a connection has a thread of its own, and a statement is one trip to it.

The trip begins the transaction if need be, executes, and fetches every row, so that the loop reads them from
memory. Rejected: SQLAlchemy's asyncio engine, whose greenlets and several trips a statement took three times
the processor time; SQLite on the event loop, which a slow disk would stop.
"""

import asyncio
import weakref
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple, overload

from sqlalchemy import Connection, CursorResult, Engine, Executable
from sqlalchemy.exc import DBAPIError

from bay.meters import Meters

if TYPE_CHECKING:
    from sqlalchemy.sql.selectable import TypedReturnsRows

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
Parameters = Mapping[str, Any] | Sequence[Mapping[str, Any]] | None
_Trip = tuple[asyncio.Future[Any], Callable[[], Any]]


class StoreConnection:
    """A connection that is opened by its first statement. Used by one task at a time."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._connection: Connection | None = None
        self._trips: SimpleQueue[_Trip | None] | None = None
        self.tallies: list[Callable[[Meters], None]] = []
        """Counts of the transaction under way, which are made once it is committed."""

    def tally(self, count: Callable[[Meters], None]) -> None:
        """Have `count` called once the transaction is committed; it is forgotten with one that fails."""
        self.tallies.append(count)

    @overload
    async def execute(
        self, statement: "TypedReturnsRows[*Ts]", parameters: Parameters = None
    ) -> "CursorResult[*Ts]": ...

    @overload
    async def execute(
        self, statement: Executable, parameters: Parameters = None, *, preserve_rowcount: bool = False
    ) -> "CursorResult[*tuple[Any, ...]]": ...

    async def execute(
        self, statement: Executable, parameters: Parameters = None, *, preserve_rowcount: bool = False
    ) -> "CursorResult[*tuple[Any, ...]]":
        """The result of one statement, whose rows are in memory. Raises what SQLAlchemy does."""
        options = {"preserve_rowcount": True} if preserve_rowcount else None
        return await self._trip(
            lambda: self._run(lambda db: db.execute(statement, parameters, execution_options=options))
        )

    async def exec_driver_sql(
        self, statement: str, parameters: tuple[Any, ...] | None = None
    ) -> "CursorResult[*tuple[Any, ...]]":
        """The same of a statement in the database's own words."""
        return await self._trip(lambda: self._run(lambda db: db.exec_driver_sql(statement, parameters)))

    async def run_sync(self, act: Callable[[Connection], T]) -> T:
        """The result of `act`, called in the thread with the connection itself. It may take any time."""
        return await self._long_trip(lambda: self._run(act))

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[None]:
        """A transaction of the block's statements: committed at its end, rolled back on any error."""
        try:
            yield
            await self._trip(self._commit)
        except BaseException:
            # When this is cancelled, too, it still comes before the next transaction's statements.
            await asyncio.shield(self._trip(self._undo))
            raise

    async def aclose(self) -> None:
        """Close it after the trips under way; a later statement opens it again."""
        if self._trips is not None:
            await self._trip(self._close)
            self._trips.put(None)
            self._trips = None

    def _run(self, act: Callable[[Connection], T]) -> T:
        return act(self._opened())

    def _commit(self) -> None:
        self._opened().commit()

    def _opened(self) -> Connection:
        if self._connection is None:
            self._connection = self._engine.connect()
        return self._connection

    def _undo(self) -> None:
        connection = self._opened()
        connection.rollback()
        connection.connection.rollback()  # after a commit that failed, SQLAlchemy sends none

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _trip(self, act: Callable[[], T]) -> asyncio.Future[T]:
        """A trip of one statement, which may have a deadline."""
        return self._long_trip(act)

    def _long_trip(self, act: Callable[[], T]) -> asyncio.Future[T]:
        """Call `act` in the thread, after all that was asked of it before; also when the caller is gone."""
        if self._trips is None:
            trips = SimpleQueue[_Trip | None]()
            Thread(target=_travel, args=(trips,), name="bay-store", daemon=True).start()
            weakref.finalize(self, trips.put, None)
            self._trips = trips
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._trips.put((done, act))
        return done


def _travel(trips: "SimpleQueue[_Trip | None]") -> None:
    while (trip := trips.get()) is not None:
        done, act = trip
        result, error = _outcome(act)
        with suppress(RuntimeError):  # the loop is closed
            done.get_loop().call_soon_threadsafe(_settle, done, result, error)
        del trip, done, act, result, error  # not kept until the next one


def _outcome(act: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    try:
        return act(), None
    except BaseException as error:  # noqa: BLE001 — the caller's, whatever it is
        return None, error


def _settle(done: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if done.cancelled():
        return
    if error is None:
        done.set_result(result)
    else:
        done.set_exception(error)


def first_line(error: DBAPIError) -> str:
    """The first line of the database's own words; the others may show values of rows."""
    return str(error.orig).strip().partition("\n")[0]
