"""Replicas without the rest of a Bay: a store, a bus and leases each, on one PostgreSQL database."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from sqlalchemy import text

from bay.server.replicas.bus import Bus
from bay.server.replicas.clock import DatabaseClock
from bay.server.replicas.leases import ReplicaLeases
from bay.store.engine import Store
from bay.store.postgres import PostgresDatabase

Join = Callable[[str], "asyncio.Future[Member]"]
"""Makes a replica of that name which has joined, and does nothing until `begin`."""


@dataclass(eq=False)
class Member:
    """A replica. `shards` has what it was told, in order: such as ("take", "shard:03")."""

    name: str
    store: Store
    database: PostgresDatabase
    bus: Bus
    leases: ReplicaLeases
    shards: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    at_rest: asyncio.Event = field(default_factory=asyncio.Event)
    """Clear while the work of its shards is not at rest."""
    gaps: int = 0
    """How often messages may have been missed."""
    tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict[str, asyncio.Task[None]])

    def __post_init__(self) -> None:
        self.at_rest.set()
        self.leases.take, self.leases.drop = self._note("take"), self._note("drop")
        self.leases.recheck = self._note("recheck")
        self.bus.on_gap.append(self._missed)

        async def rest(shards: Sequence[str]) -> None:
            self.shards += [("rest", shard) for shard in shards]
            await self.at_rest.wait()

        self.leases.rest = rest

    def _note(self, what: str) -> Callable[[Sequence[str]], "asyncio.Future[None]"]:
        async def note(shards: Sequence[str]) -> None:
            self.shards += [(what, shard) for shard in shards]

        return lambda shards: asyncio.ensure_future(note(shards))

    def _missed(self) -> None:
        self.gaps += 1

    def begin(self) -> None:
        """Hear, tell and beat."""
        self.tasks = {
            "bus": asyncio.create_task(self.bus.run()),
            "leases": asyncio.create_task(self.leases.run()),
        }

    async def stop(self, name: str) -> None:
        """Let it do one of these no longer, as when it is frozen."""
        task = self.tasks.pop(name)
        task.cancel()
        await asyncio.wait([task])

    async def aclose(self) -> None:
        for name in list(self.tasks):
            await self.stop(name)
        await self.store.aclose()

    async def sql(self, statement: str, **parameters: str) -> list[tuple[object, ...]]:
        """The rows of a statement that commits by itself."""
        connection = self.database.stater()
        try:
            result = await connection.execute(text(statement), parameters)
            return [tuple(row) for row in result] if result.returns_rows else []
        finally:
            await connection.aclose()


async def make(url: str, name: str) -> Member:
    """A replica of that name on the database at `url`, which has joined."""
    database = PostgresDatabase(url, shared=True)
    store = Store(database)
    bus = Bus(store, database, name)
    leases = ReplicaLeases(store, database, bus, replica_id=name, version="1", clock=DatabaseClock())
    made = Member(name, store, database, bus, leases)
    await leases.join(f"http://{name}")
    return made
