"""SQLite in WAL: its connections, its migration, its words for damage, and who may read its file."""

import asyncio
import os
import sqlite3
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

import structlog
from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, event
from sqlalchemy.exc import DatabaseError, DBAPIError

from bay.errors import BayError, DriverUnavailable, InternalError, StorageFull
from bay.store import versions
from bay.store.connection import StoreConnection, first_line

_DAMAGE = ("malformed", "not a database", "corrupt")
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


class SqliteDatabase:
    """The database in the file `path`."""

    is_shared = False

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = str(path)
        self._reading = _reading_engine(path)  # one for all readers: they share what is compiled

    async def open(self, _writer: StoreConnection) -> None:
        """Make or migrate it. Raises DriverUnavailable when the file is not a sound database."""
        await asyncio.to_thread(_make_private, self.path)
        await asyncio.to_thread(migrate, self.path)

    @asynccontextmanager
    async def starting(self, _writer: StoreConnection) -> AsyncGenerator[None]:
        """The data directory's lock has seen to it."""
        yield

    async def begin(self, _writer: StoreConnection) -> None:
        """There are no others."""

    def reader(self) -> StoreConnection:
        """A connection that opens no transaction."""
        return StoreConnection(self._reading)

    def writer(self, note_change: Callable[[str], None]) -> StoreConnection:
        """The connection for transactions; it tells of each change as the statement makes it."""
        engine = _writing_engine(self.path)
        event.listen(engine, "connect", partial(_report_changes, note_change))
        return StoreConnection(engine)

    def error_of(self, error: DBAPIError, *, of_writer: bool) -> BayError | None:
        """Damage is told to the caller, and its path to the log only: host paths are no tenant's."""
        if "disk is full" in str(error.orig):
            return StorageFull("Bay's data directory is full; free space on its file system")
        if not _is_damage(error):
            return None
        log.error("store.damaged", database=self.name, error=first_line(error), fix=_FIX)
        return InternalError("Bay's database is damaged; the operator has to restore a backup")

    def busy_error(self, wait_s: float) -> InternalError:
        """A file that is read always answers, so it is Bay that reads too much."""
        return InternalError(f"no connection to Bay's database was free for {wait_s:g} s")

    @asynccontextmanager
    async def reading(self) -> AsyncGenerator[StoreConnection]:
        """A connection that can only read, also while a Bay uses the database; nothing is made or migrated.
        Raises DriverUnavailable for a database of another version, and for what is none.
        """
        connection = StoreConnection(make_engine(self.path, read_only=True))
        try:
            await versions.check_newest(connection, self.name)
            yield connection
        except DatabaseError as error:
            raise DriverUnavailable(f"cannot read the database {self.path}: {error.orig}") from error
        finally:
            await connection.aclose()


def _report_changes(note_change: Callable[[str], None], connection: Any, _record: object) -> None:
    def note(sandbox_id: str | None) -> None:
        if sandbox_id is not None:
            note_change(sandbox_id)

    connection.create_function("bay_changed", 1, note)
    cursor = connection.cursor()
    for trigger in _TRIGGERS:
        cursor.execute(trigger)
    cursor.close()


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
    """Make the tables of the file `path`, or run the migrations that it lacks, all or none. Blocking."""
    engine = create_engine(URL.create("sqlite", database=str(path)))
    event.listen(engine, "connect", _prepare)
    engine.dialect.do_begin = _begin_immediate
    try:
        with engine.connect() as connection:
            _check_sound(connection, path)
            versions.bring_up_to_date(connection, _tables(connection), str(path))
            connection.commit()
    except DatabaseError as error:
        if _is_damage(error):
            raise DriverUnavailable(f"the database {path} is damaged ({error.orig}); {_FIX}") from error
        raise DriverUnavailable(f"cannot use the database {path}: {error.orig}") from error
    finally:
        engine.dispose()


def _tables(connection: Connection) -> Sequence[str]:
    return connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'table'").scalars().all()


def _check_sound(connection: Connection, path: Path) -> None:
    verdict = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar()
    if verdict != "ok":
        found = str(verdict).splitlines()[-1]
        raise DriverUnavailable(f"the database {path} is damaged ({found}); {_FIX}")


def _is_damage(error: DBAPIError) -> bool:
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


def make_engine(path: Path, *, read_only: bool = False) -> Engine:
    """The maker of connections to the database at `path`; each may be used by several threads in turn."""
    place = f"file:{quote(str(path))}" + ("?mode=ro" if read_only else "")

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(place, uri=True, check_same_thread=False, factory=_FetchingConnection)

    return create_engine("sqlite://", creator=connect, poolclass=NullPool)


class _FetchingCursor(sqlite3.Cursor):
    """Reads the disk in `execute` alone."""

    _rows: Iterator[Any] = iter(())

    def execute(self, sql: str, parameters: Any = (), /) -> "_FetchingCursor":
        super().execute(sql, parameters)
        self._rows = iter(super().fetchall() if self.description else ())
        return self

    def fetchone(self) -> Any:
        return next(self._rows, None)

    def fetchmany(self, size: int | None = 1) -> list[Any]:
        return list(islice(self._rows, size))

    def fetchall(self) -> list[Any]:
        return list(self._rows)


class _FetchingConnection(sqlite3.Connection):
    def cursor(self, factory: Any = _FetchingCursor) -> Any:
        return super().cursor(factory)
