"""PostgreSQL: its connections, its schema, its words for trouble, and the locks of those who use it.

Readers commit each statement by itself and cannot write. The writer's connection holds an advisory lock for
as long as it lives, so a Bay that lost the connection writes nothing until it has the lock again. A statement
is sent again over a new connection where none of its transaction can be lost: a reader's, and the first of a
transaction.

Replicas share that lock, and each of their transactions takes another one for itself, so that their writes
come one after the other, as those of one Bay do: what a transaction reads stays true until it commits, and
the numbers of events are in the order of commits.

Changed sandboxes are noted by triggers in a setting that the transaction alone sees, and read before its
commit. Rejected: NOTIFY, which tells after the commit, when a reader may already have seen an older row in
memory; and temporary triggers as in SQLite, which PostgreSQL lacks for ordinary tables.
"""

import asyncio
import os
import socket
import time
import weakref
from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any, TypeVar

import structlog
from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, event, func, make_url, select
from sqlalchemy.exc import ArgumentError, DBAPIError

from bay.errors import BayError, DatabaseUnavailable, InternalError, InvalidArgument, StorageFull
from bay.hints import extra
from bay.store import versions
from bay.store.connection import StoreConnection, first_line
from bay.store.leases import LEASE
from bay.store.schema import replicas

T = TypeVar("T")
Check = Callable[[Connection, Collection[str], str], None]

OLDEST = 14
"""The oldest major version of the server: it is the first that replaces a trigger in one statement."""

_LOCK = (6_447_481, 1)
"""The advisory lock of the writer: `bay` in ASCII, and 1. Locks of other databases are other locks."""

_WRITING = (6_447_481, 2)
"""The advisory lock of one transaction among those of replicas."""

_STARTING = (6_447_481, 3)
"""The advisory lock of a replica that starts: it makes what all of them share."""

_LOCK_S = 3
_CONNECT_S = 10
_STATEMENT_S = 60
_IDLE_S = 5
"""Seconds without a statement after which a replica's transaction is ended: the others wait for it."""

_TRIP_S = _STATEMENT_S + 15
"""Seconds after which a connection is cut whose server, told to end each statement earlier, says nothing."""

_AGAIN_S = 0.5
"""Seconds in which a refused connection is not tried again: callers that queued are answered at once."""

_FULL = "53100"
_DAMAGED = {"XX001", "XX002"}
_LOCKED = "55P03"
_FORBIDDEN = "42501"
_READS_ONLY = "25006"
_LOST_CLASSES = ("08",)
_LOST = {"57P01", "57P02", "57P03", "57P05", "25P03", "25P04"}
_UNUSABLE_CLASSES = ("08", "53", "57", "58")
_UNUSABLE = {_READS_ONLY, "25P03", "25P04", "28000", "28P01", "3D000", "40001", "40P01", _FORBIDDEN, _LOCKED}
"""SQLSTATEs of a database that cannot serve now: see "PostgreSQL Error Codes" in its manual."""

_NO_STANDBY = (
    "DO $$BEGIN IF pg_is_in_recovery() THEN RAISE EXCEPTION USING "
    f"ERRCODE = '{_READS_ONLY}', MESSAGE = 'the server is a standby, which only reads; lead the URL to the "
    "primary'; END IF; END$$"
)
_SESSION = (
    # A standby has older rows, and an advisory lock there is none of the primary's.
    _NO_STANDBY,
    "SET timezone = 'UTC'",
    f"SET statement_timeout = '{_STATEMENT_S}s'",
    # A server that no longer hears from this host gives the lock to others after half a minute.
    "SET tcp_keepalives_idle = 10",
    "SET tcp_keepalives_interval = 5",
    "SET tcp_keepalives_count = 3",
)
_CONNECT = {
    "connect_timeout": _CONNECT_S,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
    "client_encoding": "utf8",
    "application_name": "bay",
}

_IS_USABLE = (
    # A replica that was cut off may come back to a schema which was made for a newer one meanwhile.
    'DO $$DECLARE present text COLLATE "C"; fact json; BEGIN '
    "IF to_regclass('alembic_version') IS NULL THEN RETURN; END IF; "
    "SELECT version_num INTO present FROM alembic_version; IF present <= '{own}' THEN RETURN; END IF; "
    "SELECT value INTO fact FROM facts WHERE name = '{fact}'; "
    "IF fact->>'version' = present AND fact->>'oldest' <= '{own}' COLLATE \"C\" THEN RETURN; END IF; "
    "RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = 'a newer Bay has migrated it to version ' || present || "
    "', which this one does not know; its own is {own}. Run the newer Bay'; END$$"
)
_WRITERS = (
    "SELECT coalesce(host(client_addr), 'this host') FROM pg_locks JOIN pg_stat_activity USING (pid) "
    "WHERE locktype = 'advisory' AND granted AND pid <> pg_backend_pid() AND datname = current_database() "
    "AND (classid, objid, objsubid) = (%s, %s, 2) ORDER BY 1"
)
_TABLES = "SELECT tablename FROM pg_tables WHERE schemaname = current_schema()"
_CHANGED = "SELECT current_setting('bay.changed', true)"
_NOTE = (
    "PERFORM set_config('bay.changed', concat_ws(chr(10), current_setting('bay.changed', true), ids), true) "
    "FROM (SELECT string_agg(DISTINCT {column}, chr(10)) AS ids FROM {rows}) AS found WHERE ids IS NOT NULL"
)
_NOTERS = {
    "bay_changed_sandboxes": _NOTE.format(column="id", rows="changed"),
    "bay_changed_rows": _NOTE.format(column="sandbox_id", rows="changed"),
    "bay_changed_image": _NOTE.format(
        column="id", rows="sandboxes WHERE image_id = NEW.id AND deleted_at IS NULL"
    ),
}
_NOTER_OF = {
    "sandboxes": "bay_changed_sandboxes",
    **dict.fromkeys(("sessions", "checkpoints", "services"), "bay_changed_rows"),
}
_ROWS_OF = {"insert": "NEW", "update": "NEW", "delete": "OLD"}
_IMAGE_STATE = (
    "CREATE OR REPLACE TRIGGER bay_state AFTER UPDATE OF state ON images "
    "FOR EACH ROW EXECUTE FUNCTION bay_changed_image()"
)
_TRIGGERS = (
    *(
        f"CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$BEGIN {noting}; RETURN NULL; END$$"
        for name, noting in _NOTERS.items()
    ),
    *(
        f"CREATE OR REPLACE TRIGGER bay_{change} AFTER {change} ON {table} REFERENCING {rows} TABLE AS changed "
        f"FOR EACH STATEMENT EXECUTE FUNCTION {noter}()"
        for table, noter in (*_NOTER_OF.items(), ("events", "bay_changed_rows"))
        for change, rows in _ROWS_OF.items()
        if table != "events" or change == "insert"
    ),
    _IMAGE_STATE,
)
"""They report each row that a statement changes, once for all of them: one at a time would be quadratic."""

log = structlog.get_logger("bay.store")


class PostgresDatabase:
    """The database at a URL `postgresql://…`. Raises InvalidArgument for one that cannot be read.

    `check` may refuse to open it, by raising a BayError: it is called before any table is made or migrated,
    in the same transaction, with the names of the tables that are there and `name`, and blocks.
    `shared`: with other replicas, and with no Bay that is none.
    """

    def __init__(self, url: str, check: Check | None = None, *, shared: bool = False) -> None:
        self._url = _parsed(url)
        self._check = check
        self.is_shared = shared
        self.name = _shown(self._url)
        self._reading = self._engine(_begin_reader, isolation_level="AUTOCOMMIT")
        self._stating = (
            self._engine(_begin_stating, isolation_level="AUTOCOMMIT") if shared else self._reading
        )
        told = self.name, self._url
        self._trouble, self._writers_trouble = _Trouble("readers", *told), _Trouble("writer", *told)

    async def open(self, writer: StoreConnection) -> None:
        """Take the lock, and make or migrate the tables. Raises DatabaseUnavailable, also beside another
        Bay, DriverUnavailable for the tables of a newer one, and what `check` does.
        """
        self._trouble.is_told = self._writers_trouble.is_told = True
        try:
            await self._check_pool(writer)
            async with writer.transaction():
                await self.begin(writer)
                await writer.run_sync(self._bring_up_to_date)
        except DBAPIError as error:
            raise self._writers_trouble.unusable(error) from None
        finally:
            self._trouble.is_told = self._writers_trouble.is_told = False

    async def _check_pool(self, writer: StoreConnection) -> None:
        """Raises DatabaseUnavailable where two transactions of a connection have two servers' processes, or
        two connections have one: a pool lends them out, and the lock is nobody's.
        """
        reader = self.reader()
        try:
            first, other = await _process_of(writer), await _process_of(reader)
            second = await _process_of(writer)
        finally:
            await reader.aclose()
        if first != second or other == first:
            raise DatabaseUnavailable(
                f"a pool before the database {self.name} gives each transaction another connection; set it to "
                "its session mode (`pool_mode = session` of PgBouncer), or lead the URL to the server"
            )

    def reader(self) -> StoreConnection:
        """A connection that cannot write."""
        return _PostgresConnection(self._reading, self._trouble)

    def writer(self, note_change: Callable[[str], None]) -> StoreConnection:
        """The connection for transactions, which holds the lock."""
        begin = _begin_replica if self.is_shared else _begin_writer
        engine = self._engine(begin, isolation_level="READ COMMITTED")
        return _PostgresConnection(engine, self._writers_trouble, note_change)

    def stater(self) -> StoreConnection:
        """A replica's connection for statements that each commit by themselves, and wait for no writer."""
        return _PostgresConnection(self._stating, self._trouble)

    @asynccontextmanager
    async def starting(self, _writer: StoreConnection) -> AsyncGenerator[None]:
        """The block of one replica that starts, while no other does."""
        if not self.is_shared:
            yield
            return
        connection = self.stater()  # the writer's own would count as a replica's that lives
        try:
            self._trouble.is_told = True
            try:
                await connection.exec_driver_sql(f"SELECT pg_advisory_lock({_STARTING[0]}, {_STARTING[1]})")
            except DBAPIError as error:
                raise self._trouble.unusable(error) from None
            finally:
                self._trouble.is_told = False
            yield
        finally:
            await connection.aclose()

    async def begin(self, writer: StoreConnection) -> None:
        """Have a transaction of a replica wait for its turn among those of all."""
        if self.is_shared:
            await writer.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_WRITING[0]}, {_WRITING[1]})")

    async def hear(self, channel: str) -> AsyncGenerator[str]:
        """The messages on `channel` from now on, over a connection of its own; the first is empty and means
        that it is there. Raises DatabaseUnavailable when that cannot be made, or is lost.
        """
        connection, heard = self.stater(), list[str]()
        try:
            listening = await connection.run_sync(lambda db: _listen(db, channel, heard))
            yield ""
            async with aclosing(_readable(listening.fileno())) as readable:
                async for _ in readable:
                    # The driver takes messages in with the answer to any statement.
                    if await connection.run_sync(_used_by_statement) is not listening:
                        raise _generic()
                    told, heard[:] = heard[:], []
                    for message in told:
                        yield message
        except DBAPIError as error:
            raise self._trouble.unusable(error) from None
        finally:
            await connection.aclose()

    def error_of(self, error: DBAPIError, *, of_writer: bool) -> BayError | None:
        """The reason is in the log only: addresses and names of the operator's hosts are no tenant's."""
        state = _state(error)
        if state == _FULL:
            return StorageFull("the disk of Bay's database is full; free space on its server")
        if state in _DAMAGED:
            log.error("store.damaged", database=self.name, error=first_line(error))
            return InternalError("Bay's database is damaged; the operator has to restore a backup")
        if _is_lost(error) or state in _UNUSABLE or state.startswith(_UNUSABLE_CLASSES):
            return (self._writers_trouble if of_writer else self._trouble).unusable(error)
        return None

    def busy_error(self, wait_s: float) -> DatabaseUnavailable:
        """A server that does not answer keeps every reader."""
        return self._trouble.silent(wait_s)

    @asynccontextmanager
    async def reading(self) -> AsyncGenerator[StoreConnection]:
        """A connection that can only read, also while a Bay uses the database; nothing is made or migrated.
        Raises DatabaseUnavailable, and DriverUnavailable for a database of another version.
        """
        self._trouble.is_told = True
        connection = self.reader()
        try:
            await versions.check_newest(connection, self.name)
            yield connection
        except DBAPIError as error:
            raise self._trouble.unusable(error) from None
        finally:
            await connection.aclose()

    def _engine(self, begin: Callable[[Any, object], None], **options: Any) -> Engine:
        given: dict[str, Any] = {
            name: value for name, value in _CONNECT.items() if name not in self._url.query
        }
        try:
            engine = create_engine(
                self._url,
                poolclass=NullPool,
                connect_args=given,
                hide_parameters=True,  # rows of tenants are no words for a log
                use_native_hstore=False,
                **options,
            )
        except ModuleNotFoundError:
            raise InvalidArgument(f"the store on PostgreSQL needs psycopg; {extra('postgres')}") from None
        event.listen(engine, "connect", begin)
        return engine

    def _bring_up_to_date(self, connection: Connection) -> None:
        version = int(connection.exec_driver_sql("SHOW server_version_num").scalar_one()) // 10_000
        if version < OLDEST:
            raise DatabaseUnavailable(
                f"the server of {self.name} is PostgreSQL {version}; Bay needs {OLDEST} or newer"
            )
        encoding = connection.exec_driver_sql("SHOW server_encoding").scalar()
        if encoding != "UTF8":
            raise DatabaseUnavailable(
                f"the database {self.name} has the encoding {encoding}; make it with ENCODING 'UTF8'"
            )
        tables = connection.exec_driver_sql(_TABLES).scalars().all()
        if tables and "alembic_version" not in tables:
            raise DatabaseUnavailable(
                f"the database {self.name} has tables that are not Bay's, such as {min(tables)}; "
                "give Bay a database of its own"
            )
        if self._check is not None:
            self._check(connection, tables, self.name)
        if self.is_shared and versions.runs_beside(connection, tables):
            return  # its triggers are the newer Bay's, too
        connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
        if steps := versions.outstanding(connection, tables, self.name):
            if self.is_shared and not all(step.is_beside for step in steps):
                self._check_is_alone(connection, tables)
            versions.note_oldest(connection, steps)
        versions.bring_up_to_date(connection, tables, self.name)
        for statement in _TRIGGERS:
            connection.exec_driver_sql(statement)

    def _check_is_alone(self, connection: Connection, tables: Collection[str]) -> None:
        """Raises DatabaseUnavailable while another replica lives, or keeps its connection. None can make one
        from now on before the transaction has ended.
        """
        alive = list[str]()
        if replicas.name in tables:
            columns, lives = replicas.c, replicas.c.beat_at > func.clock_timestamp() - LEASE
            found = connection.execute(select(columns.id, columns.version).where(lives).order_by(columns.id))
            alive = [f"{row.id} ({row.version})" for row in found]
        if not alive and not _took(connection, f"pg_try_advisory_xact_lock({_LOCK[0]}, {_LOCK[1]})"):
            hosts = connection.exec_driver_sql(_WRITERS, _LOCK).scalars()
            alive = [f"one on {host}, which says nothing" for host in hosts] or ["one that has just ended"]
        if alive:
            raise DatabaseUnavailable(
                f"the migrations of this Bay leave no older replica of the database {self.name} running; stop "
                f"all of them at once, then start this version: {', '.join(alive)}; one that was killed "
                f"counts for {LEASE.total_seconds():g} s"
            )


class _Trouble:
    """The words for a database that cannot serve: to the log, and to callers without the reason."""

    def __init__(self, part: str, name: str, url: URL) -> None:
        self._part = part
        self._name = name
        self._password, self._role = _password(url), url.username
        self._logged: str | None = None
        self._until = 0.0
        self.is_told = False
        """Whether the reason goes to the caller, who is the operator, and not into the log."""

    def unusable(self, error: DBAPIError) -> DatabaseUnavailable:
        """The error for one who could not use the database."""
        return self._unusable(self._reason(error))

    def refused(self, error: DBAPIError) -> DatabaseUnavailable:
        """The same for a connection that could not be made: logged once until one is made, or for another
        reason. For a moment the next are refused at once.
        """
        self._until = time.monotonic() + _AGAIN_S
        reason = self._reason(error)
        if not self.is_told:
            if reason == self._logged:
                return _generic()
            self._logged = reason
        return self._unusable(reason)

    def silent(self, wait_s: float) -> DatabaseUnavailable:
        """The same where no statement has been answered for so many seconds."""
        return self._unusable(f"no connection was free for {wait_s:g} s: the database answers too slowly")

    def check(self) -> None:
        """Raises DatabaseUnavailable just after a refused connection."""
        if not self.is_told and time.monotonic() < self._until:
            raise _generic()

    def over(self) -> None:
        """A connection was made."""
        if self._logged is not None:
            self._logged = None
            log.info("store.available", database=self._name, part=self._part)

    def _unusable(self, reason: str) -> DatabaseUnavailable:
        if self.is_told:
            return DatabaseUnavailable(f"cannot use the database {self._name}: {reason}")
        log.error("store.unavailable", database=self._name, part=self._part, reason=reason)
        return _generic()

    def _reason(self, error: DBAPIError) -> str:
        if _state(error) == _LOCKED:
            return (
                "another Bay uses it (its writer's lock is held); stop that one, give each a database of "
                "its own, or set `replicas` for all"
            )
        said = first_line(error)
        if _state(error) == _FORBIDDEN:
            said += f"; make {self._role or 'the role'} the owner of the database"
        return said.replace(self._password, "***") if self._password else said


class _PostgresConnection(StoreConnection):
    """A connection that is made again when it was lost. `note_change` is the writer's."""

    # All fields are the thread's alone but the socket.

    def __init__(
        self, engine: Engine, trouble: _Trouble, note_change: Callable[[str], None] | None = None
    ) -> None:
        super().__init__(engine)
        self._trouble = trouble
        self._note_change = note_change
        self._socket: socket.socket | None = None
        """The socket of the connection by another number, which nobody else closes: see `_cut`."""
        self._end_of_socket: weakref.finalize[..., _PostgresConnection] | None = None
        """Closes it, at the latest when this is forgotten without an end."""
        self._is_inside = False
        """Whether the transaction under way has sent a statement."""
        self._lost: DBAPIError | None = None
        """The loss of a connection inside a transaction, which ends it: no later statement may begin anew."""

    def _run(self, act: Callable[[Connection], T]) -> T:
        if self._lost is not None:
            raise self._lost
        connection = self._opened()
        was_inside, self._is_inside = self._is_inside, self._note_change is not None
        try:
            return act(connection)
        except DBAPIError as error:
            if not self._is_gone(error):
                raise
            self._drop()
            if was_inside:
                self._lost = error
                raise
        return self._run_again(act)

    def _run_again(self, act: Callable[[Connection], T]) -> T:
        try:
            return act(self._opened())
        except DBAPIError as error:
            if self._is_gone(error):
                self._drop()
                if self._note_change is not None:
                    self._lost = error
            raise

    def _is_gone(self, error: DBAPIError) -> bool:
        """Whether only another connection can serve: a writer's that may no longer write is none."""
        return _is_lost(error) or (self._note_change is not None and _state(error) == _READS_ONLY)

    def _commit(self) -> None:
        if self._lost is not None:
            raise self._lost
        if not self._is_inside:
            return
        connection = self._opened()
        if self._note_change is not None:
            for sandbox_id in (connection.exec_driver_sql(_CHANGED).scalar() or "").split("\n"):
                if sandbox_id:
                    self._note_change(sandbox_id)
        connection.commit()
        self._is_inside = False

    def _undo(self) -> None:
        self._is_inside, self._lost = False, None
        if self._connection is None:
            return
        try:
            self._connection.rollback()
            # After a commit that failed, SQLAlchemy sends none; a connection that was lost is none of ours.
            if not self._connection.invalidated:
                self._connection.connection.rollback()
        except DBAPIError:
            self._drop()
            return
        if self._connection.invalidated:
            self._drop()

    def _opened(self) -> Connection:
        if self._connection is None:
            self._trouble.check()
            try:
                self._connection = self._engine.connect()
            except DBAPIError as error:
                # Without its cause: a trace of the driver's has the address, and the password near it.
                raise self._trouble.refused(error) from None
            self._socket = _socket_of(self._connection)
            self._end_of_socket = weakref.finalize(self, self._socket.close)
            self._trouble.over()
        return self._connection

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(DBAPIError):
                connection.invalidate()
            with suppress(DBAPIError):
                connection.close()
        self._let_socket_go()

    def _close(self) -> None:
        try:
            super()._close()
        except DBAPIError:
            self._drop()
        self._let_socket_go()

    def _let_socket_go(self) -> None:
        self._socket = None
        if self._end_of_socket is not None:
            self._end_of_socket()

    def _trip(self, act: Callable[[], T]) -> asyncio.Future[T]:
        done = super()._trip(act)
        deadline = asyncio.get_running_loop().call_later(_TRIP_S, self._cut)
        done.add_done_callback(lambda _: deadline.cancel())
        return done

    def _cut(self) -> None:
        """Have the thread find its connection lost, from outside of it."""
        if (kept := self._socket) is not None:
            with suppress(OSError):
                kept.shutdown(socket.SHUT_RDWR)


def _socket_of(connection: Connection) -> socket.socket:
    driver: Any = connection.connection.dbapi_connection
    return socket.socket(fileno=os.dup(driver.fileno()))


def _listen(connection: Connection, channel: str, heard: list[str]) -> Any:
    """Add to `heard` what is told on the channel; the driver's connection."""

    def hear(told: Any) -> None:
        heard.append(told.payload)

    driver: Any = connection.connection.dbapi_connection
    driver.add_notify_handler(hear)
    connection.exec_driver_sql(f'LISTEN "{channel}"')
    return driver


def _used_by_statement(connection: Connection) -> Any:
    connection.exec_driver_sql("SELECT 1")
    return connection.connection.dbapi_connection


async def _readable(descriptor: int) -> AsyncGenerator[None]:
    """Yield whenever there is something to read. It is watched between two yields alone: a connection that is
    lost is closed by its thread, and the next socket of the process may have the same number.
    """
    loop = asyncio.get_running_loop()
    while True:
        some = asyncio.Event()
        loop.add_reader(descriptor, some.set)
        try:
            await some.wait()
        finally:
            loop.remove_reader(descriptor)
        yield


def _took(connection: Connection, lock: str) -> bool:
    """Try the lock for a moment: that of a connection that was cut is let go of a little later."""
    for _ in range(_LOCK_S * 10):
        if connection.exec_driver_sql(f"SELECT {lock}").scalar():
            return True
        connection.exec_driver_sql("SELECT pg_sleep(0.1)")
    return False


async def _process_of(connection: StoreConnection) -> int:
    """The process of the server that has run one transaction of the connection."""
    async with connection.transaction():
        return (await connection.exec_driver_sql("SELECT pg_backend_pid()")).scalar_one()


def _generic() -> DatabaseUnavailable:
    return DatabaseUnavailable("Bay's database cannot be used just now; try again later")


def _begin_reader(connection: Any, _record: object) -> None:
    _begin(connection, (*_SESSION, "SET default_transaction_read_only = on"))


def _is_usable() -> str:
    return _IS_USABLE.replace("{own}", versions.newest_version()).replace("{fact}", versions.FACT)


def _begin_stating(connection: Any, _record: object) -> None:
    _begin(connection, (*_SESSION, _is_usable()))


def _begin_replica(connection: Any, _record: object) -> None:
    lock = f"SELECT pg_advisory_lock_shared({_LOCK[0]}, {_LOCK[1]})"
    idle = f"SET idle_in_transaction_session_timeout = '{_IDLE_S}s'"
    locked = f"SET lock_timeout = '{_LOCK_S}s'", lock, "SET lock_timeout = 0"
    _begin(connection, (*_SESSION, idle, *locked, _is_usable()))


def _begin_writer(connection: Any, _record: object) -> None:
    # It waits a little: the lock of a connection that was cut is let go of a moment later.
    lock = f"SELECT pg_advisory_lock({_LOCK[0]}, {_LOCK[1]})"
    _begin(connection, (*_SESSION, f"SET lock_timeout = '{_LOCK_S}s'", lock, "SET lock_timeout = 0"))


def _begin(connection: Any, statements: tuple[str, ...]) -> None:
    try:
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
        connection.commit()
    except BaseException:
        connection.close()
        raise


def _state(error: DBAPIError) -> str:
    return getattr(error.orig, "sqlstate", None) or ""


def _is_lost(error: DBAPIError) -> bool:
    """Whether the connection is gone, and no fault of the statement."""
    state = _state(error)
    return error.connection_invalidated or state in _LOST or state.startswith(_LOST_CLASSES)


def _parsed(url: str) -> URL:
    try:
        return make_url(url).set(drivername="postgresql+psycopg")
    except (ArgumentError, ValueError):
        # Without its cause, which has the URL and so the password.
        raise InvalidArgument(
            "setting database_url: must be a URL such as postgresql://bay:PASSWORD@db.example.com/bay"
        ) from None


def _password(url: URL) -> str | None:
    given = url.password or url.query.get("password")
    return given if isinstance(given, str) else None


def _shown(url: URL) -> str:
    """The URL for logs and errors: without password and options, but with the host in them."""
    host = url.host or url.query.get("host") or ""
    place = host if isinstance(host, str) else ",".join(host)
    user = f"{url.username}@" if url.username else ""
    port = f":{url.port}" if url.port else ""
    return f"postgresql://{user}{place}{port}/{url.database or ''}"
