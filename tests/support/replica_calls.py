"""Calls at replicas that are killed meanwhile, by the SDK through the balancer, and an account of what was
answered, by which one tells afterwards that nothing is lost.
"""

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx
import pytest
from replica_bays import LOST, WAIT_S, ReplicaBays

import bay

JUNK = "junk"

RETRY_S = 40.0
"""How long a client tries again: longer than the leases of a replica that was killed last."""


async def eventually(condition: Callable[[], Awaitable[bool]] | Callable[[], bool]) -> None:
    """Return once `condition` holds; a takeover is waited for too."""
    async with asyncio.timeout(WAIT_S):
        while True:
            found = condition()
            if found if isinstance(found, bool) else await found:
                return
            await asyncio.sleep(0.05)


@asynccontextmanager
async def never_two_ships(bays: ReplicaBays) -> AsyncGenerator[None]:
    """No sandbox has two Ships at any time that is looked at while the block runs, nor at its end."""

    async def look() -> None:
        while True:
            found = await asyncio.to_thread(bays.ships)
            assert not [box for box, ships in found.items() if len(ships) > 1], found
            await asyncio.sleep(0.1)

    async with asyncio.TaskGroup() as group:
        looking = group.create_task(look())
        yield
        looking.cancel()
    found = bays.ships()
    assert LOST not in found
    assert not [box for box, ships in found.items() if len(ships) > 1]


@dataclass(slots=True)
class Ledger:
    """What was answered, and what may have happened without an answer."""

    lines: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    """The lines that were added to the file of each sandbox that was made."""
    ended: set[str] = field(default_factory=set[str])
    doubtful: set[str] = field(default_factory=set[str])
    """Sandboxes whose delete was asked for."""
    restored: set[str] = field(default_factory=set[str])
    """Sandboxes whose file has no junk any more."""
    answered: int = 0
    failures: list[bay.BayError] = field(default_factory=list[bay.BayError])

    async def has(self, more: int) -> None:
        """Return after so many more answers."""
        wanted = self.answered + more
        await eventually(lambda: self.answered >= wanted)


async def keep_calling(bays: ReplicaBays, key: str, worker: int, ledger: Ledger, stop: asyncio.Event) -> None:
    """Make sandboxes, write in them, and stop, delete, freeze, restore or fork them, until told to stop."""
    async with client_of(bays.address, key) as client:
        for turn in itertools.count():
            if stop.is_set():
                return
            try:
                await one_life(client, f"{worker}-{turn}", turn, ledger)
            except bay.BayError as error:
                ledger.failures.append(error)


async def one_life(client: bay.AsyncClient, name: str, turn: int, ledger: Ledger) -> None:
    box = await client.sandboxes.create(name=f"box-{name}", profile="lazy")
    lines = ledger.lines[box.id] = []
    ledger.answered += 1
    for number in range(4):
        line = f"{name}-{number}"
        assert (await box.run(f"echo {line} >> log")).exit_code == 0
        lines.append(line)
        ledger.answered += 1
    match turn % 4:
        case 1:
            await box.stop()
        case 2:
            ledger.doubtful.add(box.id)
            await box.delete()
            ledger.ended.add(box.id)
        case 3:
            checkpoint = await box.checkpoint()
            await box.run(f"echo {JUNK} >> log")
            await box.restore(checkpoint)
            ledger.restored.add(box.id)
            for fork in await box.fork(2, checkpoint=checkpoint):
                ledger.lines[fork.id] = lines
        case _:
            await box.pause()
    ledger.answered += 1


@asynccontextmanager
async def calling(bays: ReplicaBays, key: str, workers: int = 4) -> AsyncGenerator[Ledger]:
    """So many clients at work while the block runs."""
    ledger, stop = Ledger(), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for worker in range(workers):
            group.create_task(keep_calling(bays, key, worker, ledger, stop))
        yield ledger
        stop.set()


def client_of(url: str, key: str) -> bay.AsyncClient:
    return bay.AsyncClient(url, key, timeout_s=WAIT_S, retry_s=RETRY_S)


@asynccontextmanager
async def http_client_of(url: str, key: str) -> AsyncGenerator[httpx.AsyncClient]:
    headers = {"Authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=WAIT_S) as client:
        yield client


async def check_nothing_is_lost(bays: ReplicaBays, key: str, ledger: Ledger) -> None:
    """Every sandbox whose create was answered is there with the lines whose writing was, each once."""
    assert not [error for error in ledger.failures if isinstance(error, bay.InternalError)]
    async with client_of(bays.address, key) as client:
        for box_id in ledger.ended:
            with pytest.raises(bay.NotFound):
                await client.sandboxes.get(box_id)

        async def check(box_id: str, lines: list[str]) -> None:
            box = await client.sandboxes.get(box_id)
            found = Counter((await box.run("cat log || true")).stdout.split())
            assert {line: found[line] for line in lines} == dict.fromkeys(lines, 1)
            assert not found[JUNK] or box_id not in ledger.restored

        alive = [box_id for box_id in ledger.lines if box_id not in ledger.doubtful]
        for some in (alive[start : start + 6] for start in range(0, len(alive), 6)):
            await asyncio.gather(*(check(box_id, ledger.lines[box_id]) for box_id in some))
