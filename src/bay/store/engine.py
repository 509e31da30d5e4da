"""The database engine: SQLite in WAL, many readers and one writer.

Rejected: a session or unit-of-work layer. A service opens one transaction with `Store.write()` and hands the
connection to the query functions; reads outside a transaction take `Store.read()`.
"""

import asyncio
import importlib
import os
import sqlite3
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DatabaseError

from bay.errors import DriverUnavailable, InternalError, StorageFull
from bay.store import audit
from bay.store.schema import metadata
from bay.store.sqlite import StoreConnection, make_engine

MIGRATIONS = Path(__file__).parent / "migrations"

_DAMAGE = ("malformed", "not a database", "corrupt")
_READERS = 4
_READER_S = 30.0
_FIX = "stop Bay and put back a backup with `bay admin restore`"

_CHANGES = {"sandboxes": "id", **dict.fromkeys(("sessions", "checkpoints", "services"), "sandbox_id")}
_ROW_OF = {"INSERT": "NEW", "UPDATE": "NEW", "DELETE": "OLD"}
_IMAGE_STATE = (
    "CREATE TEMP TRIGGER image_state AFTER UPDATE OF state ON main.images "
    "BEGIN SELECT bay_changed(id) FROM sandboxes WHERE image_id = NEW.id AND deleted_at IS NULL; END"
)
_TRIGGERS = (
    *(
        f"CREATE TEMP TRIGGER {table}_{change} AFTER {change} ON main.{table} "
        f"BEGIN SELECT bay_changed({row}.{column}); END"
        for table, column in _CHANGES.items()
        for change, row in _ROW_OF.items()
    ),
    "CREATE TEMP TRIGGER event AFTER INSERT ON main.events BEGIN SELECT bay_changed(NEW.sandbox_id); END",
    _IMAGE_STATE,
)
"""They report each row that a statement changes, under any condition. They are the connection's own."""

log = structlog.get_logger("bay.store")


class Store:
    """One database. `open` migrates it, `aclose` lets it go."""

    def __init__(self, path: Path) -> None:
        self._path = path
        reading, writing = _reading_engine(path), _writing_engine(path)
        event.listen(writing, "connect", self._report_changes)
        self._readers = tuple(StoreConnection(reading) for _ in range(_READERS))
        # Readers open no transaction, so there is nothing to roll back when a connection is returned.
        self._idle_readers: asyncio.LifoQueue[StoreConnection] = asyncio.LifoQueue()
        for reader in self._readers:
            self._idle_readers.put_nowait(reader)
        self._writer = StoreConnection(writing)
        # Guards the writer's one connection, so that writers queue here and not in SQLite's busy
        # handler, which polls. Nothing else is awaited while it is held but the database.
        self._write_lock = asyncio.Lock()
        self._changed = set[str]()
        """Sandboxes whose rows the transaction under way has changed, as the database itself reports them."""
        self.on_change: list[Callable[[set[str]], None]] = []
        """Called after each transaction with the ids of sandboxes that were changed or have new events."""

    async def open(self) -> None:
        """Bring the schema up to date. Raises DriverUnavailable when the file is not a sound database."""
        await asyncio.to_thread(_make_private, self._path)
        await asyncio.to_thread(migrate, self._path)

    async def aclose(self) -> None:
        """Close every connection."""
        for connection in (*self._readers, self._writer):
            await connection.aclose()

    @asynccontextmanager
    async def read(self) -> AsyncGenerator[StoreConnection, None]:
        """A connection for reading committed rows. Raises InternalError when the database is damaged."""
        connection = await self._idle_reader()
        try:
            yield connection
        except DatabaseError as error:
            self._raise_if_damaged(error)
            raise
        finally:
            self._idle_readers.put_nowait(connection)

    async def _idle_reader(self) -> StoreConnection:
        try:
            async with asyncio.timeout(_READER_S):
                return await self._idle_readers.get()
        except TimeoutError as error:
            raise InternalError(f"no connection to Bay's database was free for {_READER_S:g} s") from error

    @asynccontextmanager
    async def write(self) -> AsyncGenerator[StoreConnection, None]:
        """The one transaction of a service call: committed at the end, rolled back on any error.
        Listeners of `on_change` have been called when it returns.
        """
        try:
            async with self._write_lock:
                is_whole = False
                try:
                    async with self._writer.transaction():
                        yield self._writer
                        committed = await audit.note(self._writer)
                    committed()
                    is_whole = True
                finally:
                    self._tell_changes(again=not is_whole)
        except DatabaseError as error:
            if "disk is full" in str(error.orig):
                raise StorageFull("Bay's data directory is full; free space on its file system") from error
            self._raise_if_damaged(error)
            raise

    def _report_changes(self, connection: Any, _record: object) -> None:
        connection.create_function("bay_changed", 1, self._note_change)
        cursor = connection.cursor()
        for trigger in _TRIGGERS:
            cursor.execute(trigger)
        cursor.close()

    def _note_change(self, sandbox_id: str | None) -> None:
        if sandbox_id is not None:
            self._changed.add(sandbox_id)

    def _tell_changes(self, *, again: bool) -> None:
        """Call the listeners; `again`: an interrupted transaction, reported with the next one too."""
        changed = self._changed.copy()
        self._changed = changed.copy() if again else set[str]()
        if changed:
            for listener in self.on_change:
                listener(changed)

    def _raise_if_damaged(self, error: DatabaseError) -> None:
        """Report the damage to the caller, and its path to the log only: host paths are no tenant's."""
        if _is_damage(error):
            log.error("store.damaged", database=str(self._path), error=str(error.orig), fix=_FIX)
            raise InternalError("Bay's database is damaged; the operator has to restore a backup") from error


def _make_private(path: Path) -> None:
    # It holds the secrets of sessions. SQLite gives the files beside it the same mode.
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        path.chmod(0o600)
    except IsADirectoryError as error:
        raise DriverUnavailable(f"the database {path} is damaged (it is a directory); {_FIX}") from error
    except OSError as error:
        raise DriverUnavailable(f"cannot write the database {path}: {error.strerror}") from error


def migrate(path: Path) -> None:
    """Make the tables, or run the migrations that the database at `path` has not seen, all or none. Blocking.

    Alembic is loaded for an old database alone: it takes a tenth of Bay's start.
    """
    engine = create_engine(URL.create("sqlite", database=str(path)))
    event.listen(engine, "connect", _prepare)
    engine.dialect.do_begin = _begin_immediate
    try:
        with engine.connect() as connection:
            _check_sound(connection, path)
            tables = _tables(connection)
            if not tables:
                _make_tables(connection)
            elif "alembic_version" not in tables or _version(connection) != newest_version():
                importlib.import_module("bay.store.upgrade").upgrade(connection, path)
            connection.commit()
    except DatabaseError as error:
        if _is_damage(error):
            raise DriverUnavailable(f"the database {path} is damaged ({error.orig}); {_FIX}") from error
        raise DriverUnavailable(f"cannot use the database {path}: {error.orig}") from error
    finally:
        engine.dispose()


@asynccontextmanager
async def reading(path: Path) -> AsyncGenerator[StoreConnection]:
    """A connection that can only read, also while a Bay uses the database; nothing is made or migrated.
    Raises DriverUnavailable for a database of another version, and for what is none.
    """
    connection = StoreConnection(make_engine(path, read_only=True))
    try:
        found = (await connection.exec_driver_sql("SELECT version_num FROM alembic_version")).scalar()
        if found != await asyncio.to_thread(newest_version):
            raise DriverUnavailable(
                f"the database {path} is of another version of Bay; start `bay serve` once, which migrates it"
            )
        yield connection
    except DatabaseError as error:
        raise DriverUnavailable(f"cannot read the database {path}: {error.orig}") from error
    finally:
        await connection.aclose()


def newest_version() -> str:
    """The version of the last migration, which its file's name begins with."""
    return max(file.name for file in (MIGRATIONS / "versions").glob("[0-9]*.py")).partition("_")[0]


def _tables(connection: Connection) -> Sequence[str]:
    return connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'table'").scalars().all()


def _version(connection: Connection) -> str | None:
    return connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()


def _make_tables(connection: Connection) -> None:
    """The tables of a new database, as the sum of the migrations makes them."""
    metadata.create_all(connection, checkfirst=False)
    connection.exec_driver_sql("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")
    connection.exec_driver_sql("INSERT INTO alembic_version VALUES (?)", (newest_version(),))


def _check_sound(connection: Connection, path: Path) -> None:
    verdict = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar()
    if verdict != "ok":
        found = str(verdict).splitlines()[-1]
        raise DriverUnavailable(f"the database {path} is damaged ({found}); {_FIX}")


def _is_damage(error: DatabaseError) -> bool:
    return any(words in str(error.orig) for words in _DAMAGE)


def _reading_engine(path: Path) -> Engine:
    engine = make_engine(path)
    event.listen(engine, "connect", _prepare)
    return engine


def _writing_engine(path: Path) -> Engine:
    engine = make_engine(path)
    event.listen(engine, "connect", _prepare)
    engine.dialect.do_begin = _begin_immediate
    return engine


def _prepare(connection: Any, _record: object) -> None:
    # The driver's own implicit BEGIN would be deferred; transactions are begun by us or not at all.
    connection.isolation_level = None
    cursor: sqlite3.Cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON", "busy_timeout=5000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_immediate(dbapi_connection: Any) -> None:
    # Not by the event: SQLAlchemy's connection, which we keep, begins nothing more once a listener raises.
    dbapi_connection.execute("BEGIN IMMEDIATE")
