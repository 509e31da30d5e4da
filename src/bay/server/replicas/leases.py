"""Leases: which replica does which part of the work. A Bay that is alone does all, and takes none.

The parts are the shards of sandboxes and the jobs that one replica does for all. Every replica that lives has
its share by rendezvous hashing, so that one that comes or goes moves few. A part whose replica should be
another one is let go of once its work is at rest.
"""

import asyncio
import hashlib
import zlib
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import structlog
from sqlalchemy.exc import SQLAlchemyError

from bay.clock import since_boot
from bay.errors import BayError
from bay.server.replicas.bus import ANSWER_S, Bus, SharedDatabase
from bay.server.replicas.clock import DatabaseClock
from bay.store import leases
from bay.store.connection import StoreConnection
from bay.store.engine import Store
from bay.store.fences import LeaseLost, WriteFence, fenced, present
from bay.store.records import ReplicaRecord

log = structlog.get_logger("bay.replicas")

SHARDS = 16
JOBS = ("pool", "webhooks", "retention", "usage", "images", "templates", "checkpoints", "pushes")
"""Those that one replica does for all."""

_BEAT_S = 3.0
_AGAIN_S = 0.5
_JOINED, _FREE = "joined", "free"

TakeOver = Callable[[], Awaitable[None]]
Shards = Callable[[Sequence[str]], Awaitable[None]]


def shard_of(sandbox_id: str) -> str:
    """The lease of the shard that a sandbox belongs to."""
    return f"shard:{zlib.crc32(sandbox_id.encode()) % SHARDS:02}"


NAMES = (*(f"shard:{number:02}" for number in range(SHARDS)), *JOBS)


def _now() -> float:
    """Seconds, also those in which the host slept: the database has counted them."""
    return since_boot().total_seconds()


@dataclass(slots=True)
class _Held:
    """A lease of this replica's. `is_ready`: whether its work may be done, after `take` and before `rest`."""

    epoch: int
    is_ready: bool = False


def parted(names: Iterable[str]) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """The numbers of the shards among these leases, and the jobs, each in order."""
    found = set(names)
    shards = (number for number in range(SHARDS) if f"shard:{number:02}" in found)
    return tuple(shards), tuple(job for job in JOBS if job in found)


class _Job:
    """Whether this replica does a job, as two events of which one is set; and whether nothing of it runs."""

    def __init__(self) -> None:
        self.gained, self.lost, self.resting = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.lost.set()
        self.resting.set()

    def gain(self) -> None:
        self.lost.clear()
        self.gained.set()

    def lose(self) -> None:
        self.gained.clear()
        self.lost.set()


class ReplicaLeases:
    """The leases of this replica. `database` is None for a Bay that is alone."""

    def __init__(
        self,
        store: Store,
        database: SharedDatabase | None,
        bus: Bus,
        *,
        replica_id: str,
        version: str,
        clock: DatabaseClock | None,
    ) -> None:
        self.me = replica_id
        self._store = store
        self._database = database
        self._bus = bus
        self._version = version
        self._clock = clock
        self._url = ""
        self._held: dict[str, _Held] = {}
        self._until = 0.0
        """When the leases end unless they are renewed (see `_now`)."""
        self._living: list[ReplicaRecord] = []
        self._renewed = asyncio.Event()
        self._is_taking = False
        self._is_unsure = False
        """Whether pokes may have been missed."""
        self._look = asyncio.Event()
        self.take: Shards
        """Called with shards that this replica has now, before their work begins."""
        self.rest: Shards
        """Called with shards that go to another replica: returns once their work is at rest."""
        self.drop: Shards
        """Called with shards that are lost, or let go of: what is kept in memory of them is wrong by now."""
        self.recheck: Shards
        """Called with shards of which pokes may have been missed."""
        self.on_beat: list[Callable[[], Awaitable[None]]] = []
        self._jobs = {name: _Job() for name in JOBS}
        bus.hear(_JOINED, lambda _: self._look.set())
        bus.hear(_FREE, lambda _: self._look.set())

    def owns(self, sandbox_id: str) -> bool:
        """Whether this replica acts on the sandbox."""
        return self._database is None or self._does(shard_of(sandbox_id))

    def holds(self, name: str) -> bool:
        """Whether this replica works under that lease."""
        return self._database is None or self._does(name)

    def work(self) -> list[str]:
        """The leases under which this replica works just now; all for a Bay that is alone."""
        return [name for name in NAMES if self.holds(name)]

    @property
    def is_live(self) -> bool:
        """Whether this replica has said that it lives, and its leases have not ended since."""
        return self._database is None or _now() < self._until

    def _does(self, name: str) -> bool:
        held = self._held.get(name)
        return held is not None and held.is_ready and _now() < self._until

    @contextmanager
    def working_on(self, sandbox_id: str) -> Generator[None]:
        """Work on a sandbox whose shard this replica has, or is about to have; else LeaseLost is raised."""
        with self._working(shard_of(sandbox_id)):
            yield

    def check(self, sandbox_id: str) -> None:
        """Raises LeaseLost when the sandbox's shard may be another's by now: before each act on the host."""
        name, fence = shard_of(sandbox_id), present()
        held = self._held.get(name)
        is_anew = fence is not None and held is not None and held.epoch != fence.epoch
        if is_anew or not self.owns(sandbox_id):
            raise LeaseLost(name)

    @contextmanager
    def _working(self, name: str) -> Generator[None]:
        if self._database is None:
            yield
            return
        held = self._held.get(name)
        if held is None:
            raise LeaseLost(name)
        with fenced(WriteFence(name, self.me, held.epoch)):
            yield

    async def do(
        self, name: str, run: Callable[[], Coroutine[None, None, None]], take_over: TakeOver | None = None
    ) -> None:
        """Run a job whenever it is this replica's, until cancelled; it is cancelled when it no longer is, and
        when its lease is not renewed in time. One that returns has nothing to do, and is not run again before
        the lease has been another's.
        `take_over` comes before each run of a replica's: one that is alone has done it when it started.
        """
        if self._database is None:
            await run()
            return
        job = self._jobs[name]
        while True:
            await job.gained.wait()
            if not self._does(name):
                self._renewed.clear()
                await self._renewed.wait()
                continue
            try:
                with self._working(name):
                    working = asyncio.create_task(_taken_over(run, take_over))
            except LeaseLost:
                await job.lost.wait()
                continue
            job.resting.clear()
            try:
                await self._do_while_held(name, job, working)
            finally:
                job.resting.set()

    async def _do_while_held(self, name: str, job: _Job, working: asyncio.Task[None]) -> None:
        lost = asyncio.create_task(job.lost.wait())
        try:
            while not (working.done() or lost.done()) and (left_s := self._until - _now()) > 0:
                await asyncio.wait((working, lost), timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            if working.done() and not working.cancelled():
                if (error := working.exception()) is not None:
                    log.error("job.failed", job=name, exc_info=error)
                    await asyncio.sleep(_AGAIN_S)
                else:  # a job that returns has nothing to do, such as pushes without a bucket
                    await asyncio.wait((lost,))
        finally:
            working.cancel()
            lost.cancel()
            await asyncio.wait((working, lost))

    def look_again(self) -> None:
        """Pokes may have been missed: look at all that is this replica's."""
        self._is_unsure = True
        self._look.set()

    def living(self) -> list[ReplicaRecord]:
        """The replicas that lived at the last beat."""
        return self._living

    async def ask_owner(
        self, sandbox_id: str, kind: str, item: str | None = None, within_s: float = ANSWER_S
    ) -> Any:
        """The answer of the replica that acts on the sandbox, this one or another, to `item`, by default
        the sandbox's id; None when there is none in time, or that replica has changed meanwhile.
        """
        return await self.ask_holder(shard_of(sandbox_id), kind, item or sandbox_id, within_s)

    async def ask_holder(self, name: str, kind: str, item: str, within_s: float = ANSWER_S) -> Any:
        """The same of the replica that has the lease of that name."""
        if self.holds(name):
            return await self._bus.own(kind, item)
        holder = await self._holder_of(name)
        if holder is None:
            return None
        if holder == self.me:  # it is about to have it, or to let go of it
            return await self._bus.own(kind, item)
        asking = asyncio.ensure_future(self._bus.of(holder, kind, item, within_s))
        try:
            while not (await asyncio.wait((asking,), timeout=ANSWER_S))[0]:
                if await self._holder_of(name) != holder:
                    return None
            return asking.result()
        finally:
            asking.cancel()

    async def _holder_of(self, name: str) -> str | None:
        async with self._store.read() as db:
            found = await leases.all_of(db)
        return next((one.holder for one in found if one.name == name), None)

    async def join(self, url: str) -> bool:
        """Be one of the replicas, from now on. Whether others live."""
        if self._database is None:
            return False
        self._url = url
        async with self._store.write() as db:
            await leases.ensure(db, NAMES)
            asked_at = since_boot()
            now = await leases.now(db)
            others = await leases.living(db)
            await leases.join(db, self.me, url, self._version)
        if self._clock is not None:
            self._clock.set(now, asked_at)
        self._bus.tell(_JOINED)
        self._look.set()
        return bool(others)

    async def run(self) -> None:
        """Take, renew and hand over leases until cancelled."""
        if self._database is None:
            return
        connection = self._database.stater()
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    self._look.clear()
                    wait_s = await self._beat(connection, group)
                    try:
                        async with asyncio.timeout(wait_s):
                            await self._look.wait()
                    except TimeoutError:
                        continue
        finally:
            await connection.aclose()

    async def leave(self) -> None:
        """Let go of all leases, once the work is over; called after `run` has ended, while the bus works."""
        if self._database is None:
            return
        try:
            async with self._store.write() as db:
                await leases.leave(db, self.me)
        except (BayError, SQLAlchemyError) as error:
            log.warning("leases.not_released", error=str(error))
            return  # they end by themselves
        self._bus.tell(_FREE)
        await self._bus.told()

    async def _beat(self, connection: StoreConnection, group: asyncio.TaskGroup) -> float:
        """Renew what is held, and match it with what should be; seconds until the next time."""
        sent_at, asked_at = _now(), since_boot()
        held = dict(self._held)
        try:
            told = await leases.beat(connection, self.me)
            if told is None:
                await leases.join(connection, self.me, self._url, self._version)
            elif self._clock is not None:
                self._clock.set(told, asked_at)
            renewed = await leases.renew(connection, self.me)
            self._note(await leases.living(connection))
            await self._match(connection, held, renewed, sent_at, group)
            for beat in self.on_beat:
                await beat()
        except (BayError, SQLAlchemyError) as error:
            log.warning("replica.no_beat", error=str(error))
            return _AGAIN_S
        except Exception:  # it ends neither Bay nor the next beat
            log.exception("replica.no_beat")
            return _AGAIN_S
        return _BEAT_S

    def _note(self, living: list[ReplicaRecord]) -> None:
        gone = {one.id for one in self._living} - {one.id for one in living}
        self._living = living
        if gone:
            self._is_unsure = True  # one that died may have told nobody of its last writes
            log.info("replicas.gone", ids=sorted(gone))

    async def _match(
        self,
        connection: StoreConnection,
        held: Mapping[str, _Held],
        renewed: Mapping[str, int],
        sent_at: float,
        group: asyncio.TaskGroup,
    ) -> None:
        """`held` and `renewed`: what this replica had when the beat was sent, and what the database then
        renewed. A lease may be taken or let go of meanwhile.
        """
        self._is_unsure = self._is_unsure or _now() >= self._until
        self._until = sent_at + leases.LEASE.total_seconds()
        self._renewed.set()
        lost = [name for name in self._still(held) if renewed.get(name) != held[name].epoch]
        if lost:
            await self._lose(lost)
        unknown = {name: epoch for name, epoch in renewed.items() if name not in self._held}
        if unknown and not self._is_taking:
            await leases.release(connection, unknown, self.me)  # taken in a transaction whose answer was lost
        if self._is_unsure:
            await self.recheck([name for name in self._held if self._does(name) and name not in JOBS])
            self._is_unsure = False
        wanted = {name for name in NAMES if self._is_preferred(name)}
        missing = wanted - self._held.keys()
        if not self._is_taking and (missing := await leases.free(connection, missing)):
            self._is_taking = True  # before the task begins, as below
            group.create_task(self._take(missing))
        surplus = [name for name, one in self._held.items() if name not in wanted and one.is_ready]
        if surplus:
            for name in surplus:
                self._held[name].is_ready = False  # before the task begins: the next beat must not do it too
            group.create_task(self._hand_over(surplus))

    def _is_preferred(self, name: str) -> bool:
        def weight(replica: ReplicaRecord) -> bytes:
            return hashlib.sha256(f"{name}/{replica.id}".encode()).digest()

        return bool(self._living) and max(self._living, key=weight).id == self.me

    async def _take(self, names: Sequence[str]) -> None:
        """Take leases and begin their work. Beats go on meanwhile: another replica may keep the turn to write
        for seconds, and to adopt many sandboxes may take longer than a lease.
        """
        try:
            async with self._store.write() as db:
                taken = await leases.take(db, names, self.me)
            fresh = {name: _Held(epoch) for name, epoch in taken.items()}
            self._held |= fresh
        except Exception as error:  # noqa: BLE001 - the next beat tries again, whatever it is
            log.warning("leases.not_taken", names=sorted(names), error=repr(error))
            return
        finally:
            self._is_taking = False
        await self._begin(fresh)

    async def _begin(self, fresh: Mapping[str, _Held]) -> None:
        """Begin the work of leases that were just taken; those of which that fails are let go of."""
        shards = [name for name in fresh if name not in JOBS]
        try:
            if shards:
                await self.take(shards)
            for name in self._still(fresh):
                self._held[name].is_ready = True
                if name in JOBS:
                    self._jobs[name].gain()
            if kept := [name for name in self._still(fresh) if name not in JOBS]:
                await self.recheck(kept)  # pokes that came before it was ready
        except Exception as error:  # noqa: BLE001 - another replica, or this one, tries again
            log.warning("leases.not_begun", names=sorted(fresh), error=repr(error))
            await asyncio.sleep(_AGAIN_S)
            await self._hand_over(self._still(fresh))
        else:
            log.info("leases.taken", names=sorted(fresh))
        try:
            # Some may have been lost and dropped meanwhile, before their sandboxes were adopted here.
            await self.drop([name for name in shards if name not in self._held])
        except Exception:  # it ends no beat
            log.exception("leases.not_dropped")

    def _still(self, leased: Mapping[str, _Held]) -> list[str]:
        """Those that this replica has had without a break since."""
        return [name for name, held in leased.items() if self._held.get(name) is held]

    def _forget(self, leased: Mapping[str, _Held]) -> None:
        for name in self._still(leased):
            del self._held[name]

    async def _lose(self, names: Sequence[str]) -> None:
        """They are another's already: this replica said nothing for too long."""
        log.warning("leases.lost", names=sorted(names))
        for name in names:
            del self._held[name]
            if name in JOBS:
                self._jobs[name].lose()
        await self.drop([name for name in names if name not in JOBS])

    async def _hand_over(self, names: Sequence[str]) -> None:
        """Let go of leases, once their work is at rest."""
        leaving = {name: self._held[name] for name in names}
        for name, held in leaving.items():
            held.is_ready = False
            if name in JOBS:
                self._jobs[name].lose()
        shards = [name for name in names if name not in JOBS]
        try:
            if shards:
                await self.rest(shards)
            for name in leaving.keys() & set(JOBS):
                await self._jobs[name].resting.wait()
            present = self._still(leaving)
            await self.drop([name for name in present if name not in JOBS])
            self._forget(leaving)
            async with self._store.write() as db:
                await leases.release(db, {name: leaving[name].epoch for name in present}, self.me)
        except Exception as error:  # noqa: BLE001 - the next beat lets go of what is not known here
            log.warning("leases.not_released", names=sorted(names), error=repr(error))
            self._forget(leaving)
            return
        self._bus.tell(_FREE)
        log.info("leases.handed_over", names=sorted(present))


async def _taken_over(run: Callable[[], Awaitable[None]], take_over: TakeOver | None) -> None:
    if take_over is not None:
        await take_over()
    await run()
