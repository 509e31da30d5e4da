"""The bus: over it replicas tell what they have changed, and ask one another what each has in memory.

The database's NOTIFY carries it, on connections of its own and never inside a transaction of Bay's: a commit
with a NOTIFY takes a lock of the whole server. So the bus is fast and may lose a message, when its sender
dies between the two. All that hear it also look for themselves from time to time.
"""

import asyncio
import json
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Generator
from contextlib import aclosing, contextmanager, suppress
from functools import partial
from typing import Any, Protocol

import structlog
from sqlalchemy.exc import DataError, ProgrammingError, SQLAlchemyError

from bay.backoff import Backoff
from bay.errors import BayError
from bay.store import leases
from bay.store.connection import StoreConnection
from bay.store.engine import Store

log = structlog.get_logger("bay.replicas")

CHANNEL = "bay"
ANSWER_S = 2.0
"""After so many seconds a replica that has not answered is not waited for."""

_BYTES = 7_000
"""Of one message: the database carries fewer than 8,000."""
_BACKOFF = Backoff(0.1, 5.0)
_DEAF_S = 10.0
"""After so many seconds without its own signs of life the bus takes its connection for dead."""
_SIGN_S = 3.0

Hear = Callable[[list[str]], None]
Answer = Callable[[str], Awaitable[Any]]
"""Gives a value of JSON. One that is too long for a message is told as null: not known."""


class SharedDatabase(Protocol):
    """The database as the bus uses it."""

    def stater(self) -> StoreConnection:
        """A connection for statements that each commit by themselves."""
        ...

    def hear(self, channel: str, /) -> AsyncGenerator[str]:
        """The messages on `channel` from now on; the first is empty and means that it is heard. Raises
        DatabaseUnavailable when the connection cannot be made, or is lost.
        """
        ...


class Bus:
    """Tells and hears messages of a kind, and questions with a yes or a no, or to one replica with any short
    answer. `is_shared` is False for a Bay that is alone: it tells nobody, and each answer is its own.
    """

    _group: asyncio.TaskGroup
    """Parent of the tasks that answer, while `run` runs."""

    def __init__(self, store: Store, database: SharedDatabase | None, replica_id: str) -> None:
        self.is_shared = database is not None
        self._store = store
        self._database = database
        self._me = replica_id
        self._hear: dict[str, list[Hear]] = {}
        self._answer: dict[str, Answer] = {}
        self._to_tell: dict[str, dict[str, None]] = {}
        """Items by kind, each once, in order."""
        self._messages: list[str] = []
        self._some = asyncio.Event()
        self._is_quiet = asyncio.Event()
        """Set once everything was told."""
        self._asked: dict[str, dict[str, asyncio.Future[Any]]] = {}
        """Questions under way: an answer for each replica."""
        self._silent: set[str] = set()
        """Replicas that left a question unanswered and were not heard since: not waited for again."""
        self.hears = database is None
        """Whether messages come: this replica's own signs within `_DEAF_S`, if nothing else."""
        self._failures = 0
        """How often in a row nothing could be heard."""
        self.on_gap: list[Callable[[], None]] = []
        """Called when messages may have been missed."""

    def hear(self, kind: str, take: Hear) -> None:
        """Call `take` with the items that other replicas tell of that kind."""
        self._hear.setdefault(kind, []).append(take)

    def answer(self, kind: str, find: Answer) -> None:
        """Answer questions of that kind, other replicas' and this one's, with the result of `find`."""
        self._answer[kind] = find

    def tell(self, kind: str, items: Collection[str] = ("",)) -> None:
        """Tell all other replicas, soon and together with what else there is. Call it after the commit."""
        if self.is_shared and items:
            self._to_tell.setdefault(kind, {}).update(dict.fromkeys(items))
            self._wake_sender()

    async def told(self) -> None:
        """Return once all that was to be told is on its way, within a bound."""
        self._some.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_S):
                await self._is_quiet.wait()

    async def any(self, kind: str, item: str) -> bool:
        """Whether any replica that lives answers yes, this one first. One that does not answer may have
        meant yes.
        """
        return await self.whether(kind, item) is not False

    async def whether(self, kind: str, item: str) -> bool | None:
        """The same, but None when none answers yes, and one that lives does not answer."""
        if await self.own(kind, item):
            return True
        if not self.is_shared:
            return False
        answers = await self._ask_others(kind, item)
        return True if True in answers else None if None in answers else False

    async def all(self, kind: str, item: str = "") -> bool:
        """Have every replica answer, and return whether all of them have, and answered yes."""
        own = bool(await self.own(kind, item))
        if not self.is_shared:
            return own
        return all([own, *await self._ask_others(kind, item)])

    async def own(self, kind: str, item: str) -> Any:
        """The answer of this replica."""
        return await self._answer[kind](item)

    async def of(self, replica_id: str, kind: str, item: str, within_s: float = ANSWER_S) -> Any:
        """The answer of one other replica; None when there is none in time, or it is too long."""
        with self._expecting([replica_id]) as (question, awaited):
            self._send({"k": kind, "q": question, "i": item, "to": replica_id})
            await asyncio.wait(awaited.values(), timeout=within_s)
            return next((one.result() for one in awaited.values() if one.done()), None)

    async def others(self, kind: str, item: str) -> list[Any]:
        """The answers of the other replicas, but for those that give none in time, or too long a one."""
        if not self.is_shared:
            return []
        async with self._store.read() as db:
            others = [one.id for one in await leases.living(db) if one.id != self._me]
        heard = [one for one in others if one not in self._silent]
        answers = await asyncio.gather(*(self.of(one, kind, item) for one in heard))
        return [one for one in answers if one is not None]

    async def _ask_others(self, kind: str, item: str) -> list[bool | None]:
        """The answers of the other replicas; None stands for one that gives none in time."""
        async with self._store.read() as db:
            others = [one.id for one in await leases.living(db) if one.id != self._me]
        if not others:
            return []
        with self._expecting(others) as (question, awaited):
            self._send({"k": kind, "q": question, "i": item})
            if heard := [one for name, one in awaited.items() if name not in self._silent]:
                await asyncio.wait(heard, timeout=ANSWER_S)
            self._silent.update(name for name, one in awaited.items() if not one.done())
            return [bool(one.result()) if one.done() else None for one in awaited.values()]

    @contextmanager
    def _expecting(self, replicas: Collection[str]) -> Generator[tuple[str, dict[str, asyncio.Future[Any]]]]:
        loop = asyncio.get_running_loop()
        question = secrets.token_hex(8)
        awaited = self._asked[question] = {one: loop.create_future() for one in replicas}
        try:
            yield question, awaited
        finally:
            del self._asked[question]

    async def run(self) -> None:
        """Carry messages until cancelled."""
        if self._database is None:
            return
        async with asyncio.TaskGroup() as self._group:
            for part in (self._send_always(self._database), self._listen_always(self._database)):
                self._group.create_task(part)
            self._group.create_task(self._give_signs())

    def _send(self, message: dict[str, Any]) -> None:
        self._messages.append(json.dumps({"f": self._me, **message}, separators=(",", ":")))
        self._wake_sender()

    def _wake_sender(self) -> None:
        self._is_quiet.clear()
        self._some.set()

    async def _send_always(self, database: SharedDatabase) -> None:
        connection = database.stater()
        try:
            while True:
                await self._some.wait()
                self._some.clear()
                waiting = [*self._messages, *self._waiting()]
                self._messages, self._to_tell = [], {}
                for message in waiting:
                    await self._deliver(connection, message)
                if not self._some.is_set():
                    self._is_quiet.set()
        finally:
            await connection.aclose()

    async def _deliver(self, connection: StoreConnection, message: str) -> None:
        failures = 0
        while True:
            try:
                await leases.notify(connection, CHANNEL, [message])
            except (DataError, ProgrammingError):
                log.exception("bus.refused", characters=len(message))  # it would be, however often it is told
                return
            except (BayError, SQLAlchemyError) as error:
                failures += 1
                log.warning("bus.untold", failures=failures, error=type(error).__name__)
                await asyncio.sleep(_BACKOFF.pause(failures))
            else:
                return

    def _waiting(self) -> list[str]:
        """All that is to be told, in messages that are not too long."""
        messages: list[str] = []
        for kind, items in self._to_tell.items():
            part, size = list[str](), 0
            for item in items:
                bytes_of_item = len(json.dumps(item)) + 1
                if part and size + bytes_of_item > _BYTES:
                    messages.append(self._message(kind, part))
                    part, size = [], 0
                part.append(item)
                size += bytes_of_item
            messages.append(self._message(kind, part))
        return messages

    def _message(self, kind: str, items: list[str]) -> str:
        return json.dumps({"f": self._me, "k": kind, "t": items}, separators=(",", ":"))

    async def _listen_always(self, database: SharedDatabase) -> None:
        self._failures = 0
        while True:
            self._failures += 1
            try:
                await self._listen(database)
            except BayError:
                log.info("bus.lost", failures=self._failures)
            except Exception:
                log.exception("bus.failed")
            self.hears = False
            await asyncio.sleep(_BACKOFF.pause(self._failures))

    async def _listen(self, database: SharedDatabase) -> None:
        async with aclosing(database.hear(CHANNEL)) as told:
            while True:
                try:
                    async with asyncio.timeout(_DEAF_S):
                        payload = await anext(told)
                except TimeoutError:
                    log.warning("bus.deaf")
                    return
                self.hears = True
                if payload:
                    self._take(payload)
                else:
                    self._failures = 0
                    self.tell("sign")  # from now on others can ask it again
                    for missed in self.on_gap:
                        missed()

    async def _give_signs(self) -> None:
        """Be heard by oneself: a connection that is cut without a word says nothing either."""
        while True:
            await asyncio.sleep(_SIGN_S)
            self.tell("sign")  # once, also after hours without a database

    def _take(self, payload: str) -> None:
        message = json.loads(payload)
        sender = message["f"]
        self._silent.discard(sender)
        if "a" in message:
            awaited = self._asked.get(message["a"], {}).get(sender)
            if awaited is not None and not awaited.done():
                awaited.set_result(message["y"])
        elif sender == self._me or message.get("to", self._me) != self._me:
            return
        elif "q" in message:
            self._group.create_task(self._reply(message))
        else:
            for take in self._hear.get(message["k"], ()):
                take(message["t"])

    async def _reply(self, message: dict[str, Any]) -> None:
        try:
            found = await self.own(message["k"], message["i"])
        except Exception:
            log.exception("bus.unanswered", kind=message["k"])
            if "to" not in message:
                return  # who asks all takes silence for the safe answer
            found = None
        if len(json.dumps(found)) > _BYTES:
            log.warning("bus.too_long", kind=message["k"])
            found = None
        self._send({"a": message["q"], "y": found})


class SharedEvent(asyncio.Event):
    """An event that is set in every replica when one sets it; each clears its own."""

    def __init__(self, bus: Bus, name: str) -> None:
        super().__init__()
        self._tell = partial(bus.tell, f"event:{name}")
        bus.hear(f"event:{name}", lambda _: self.set_here())

    def set(self) -> None:
        """Set it here at once, and in the others soon."""
        self.set_here()
        self._tell()

    def set_here(self) -> None:
        """Set it in this replica alone."""
        super().set()
