"""The tables of docs/lifecycle.md, tried cell by cell: what each call answers in each state, and what
follows.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from savable_world import alice, bay, root
from server_harness import World, create, eventually, until, within

# Fixtures are found by their names here.
__all__ = ["alice", "bay", "root"]

pytestmark = [pytest.mark.anyio, pytest.mark.long]

TEXT = (Path(__file__).parents[3] / "docs/lifecycle.md").read_text(encoding="utf-8")
WORDS = {
    "gone": (404, "not_found"),
    "expired": (409, "sandbox_expired"),
    "conflict": (409, "conflict"),
    "410": (410, "output_gone"),
}
"""The cells that stand for an error."""

SHELL = {"json": {"command": "true"}}
CALLS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "`GET …`": ("GET", "", {}),
    "`PATCH …`": ("PATCH", "", {"json": {"labels": {"a": "b"}}}),
    "`DELETE …`": ("DELETE", "", {}),
    "`POST …/start`": ("POST", "/start", {}),
    "`POST …/resume`": ("POST", "/resume", {"params": {"wait": 0.01}}),
    "`POST …/pause`": ("POST", "/pause", {}),
    "`POST …/stop`": ("POST", "/stop", {}),
    "`POST …/keepalive`": ("POST", "/keepalive", {}),
    "`POST …/extend_ttl`": ("POST", "/extend_ttl", {"json": {"extend_by": 1}}),
    "`POST …/shell/exec`": ("POST", "/shell/exec", SHELL),
    "`POST …/execs`": ("POST", "/execs", SHELL),
    "every `…/filesystem/` call": ("GET", "/filesystem/directories", {}),
    "every `…/files/` call": ("GET", "/files/list", {}),
    "`POST …/checkpoints`": ("POST", "/checkpoints", {}),
    "`POST …/fork`": ("POST", "/fork", {}),
    "`GET …/execs`": ("GET", "/execs", {}),
    "`GET …/execs/{exec_id}`": ("GET", "/execs/{exec_id}", {}),
    "`GET …/execs/{exec_id}?wait=`": ("GET", "/execs/{exec_id}", {"params": {"wait": 0.01}}),
    "`GET …/execs/{exec_id}/output`": ("GET", "/execs/{exec_id}/output", {}),
    "`DELETE …/execs/{exec_id}`": ("DELETE", "/execs/{exec_id}", {}),
    "`GET …/history`": ("GET", "/history", {}),
    "`GET …/events`": ("GET", "/events", {}),
}
"""How each row of the table is called."""


def rows(head: str) -> list[list[str]]:
    """The cells of the table whose head begins with that cell, its head first."""
    table = TEXT.split(f"\n| {head} |", 1)[1].split("\n\n")[0]
    lines = f"| {head} |{table}".splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in (lines[0], *lines[2:])]


HEAD, *ROWS = rows("call")
STATES = HEAD[1:]
SHOWN = {
    state: (status.strip("`"), compute.strip("`"))
    for state, status, compute, _ in rows("state on this page")[1:]
}


@dataclass(frozen=True, slots=True)
class Cell:
    """What one call does in one state."""

    call: str
    status: int
    code: str | None
    follows: str | None
    """The state that follows, None when it stays."""


def cell(call: str, text: str) -> Cell:
    answer, _, follows = text.partition(" → ")
    status, code = WORDS[answer] if answer in WORDS else (int(answer), None)
    return Cell(call, status, code, follows or None)


def column(state: str) -> list[Cell]:
    index = HEAD.index(state)
    return [cell(row[0], row[index]) for row in ROWS]


@dataclass(frozen=True, slots=True)
class Case:
    """A sandbox in a state, with an exec that ran in the container it has, or else in its last."""

    bay: World
    client: httpx.AsyncClient
    sandbox: str
    exec_id: str

    async def call(self, name: str) -> httpx.Response:
        method, path, given = CALLS[name]
        url = f"/v1/sandboxes/{self.sandbox}{path.format(exec_id=self.exec_id)}"
        return await within(self.client.request(method, url, **given))

    async def state(self) -> str:
        """The word of the first table that fits, by what is shown and, for what ends, the row."""
        record = await self.bay.record(self.sandbox)
        if record.deleted_at is not None:
            return "deleted"
        ending = record.phase == "ending"
        shown = (await self.client.get(f"/v1/sandboxes/{self.sandbox}")).json()
        pair = (shown["status"], shown["compute"])
        found = [state for state, words in SHOWN.items() if words == pair and (state == "stopping") == ending]
        return found[0] if found else f"no state of the table: {pair}"

    async def is_in(self, state: str) -> bool:
        return await self.state() == state


async def fresh(bay: World, client: httpx.AsyncClient) -> Case:
    """A running one, that can hibernate."""
    made = await create(client, profile="also", ttl=1000, wait=15)
    ran = await client.post(f"/v1/sandboxes/{made['id']}/execs", json={"argv": ["sleep", "1000"]})
    return Case(bay, client, made["id"], ran.json()["id"])


def hold(bay: World, step: str | None) -> None:
    bay.driver.hold_at = step
    bay.driver.held.clear()
    bay.driver.let_go.clear()


async def bring(case: Case, state: str) -> list["asyncio.Task[httpx.Response]"]:
    """Make a running one what the state says; gives the calls that are not answered before it is let go."""
    match state:
        case "idle":
            await case.call("`POST …/stop`")
        case "failed":
            await case.bay.driver.crash((await case.bay.session(case.sandbox)).id)
            await case.bay.settled(case.sandbox, lambda r: r.session is None)
        case "starting":
            await case.call("`POST …/stop`")
            hold(case.bay, "ready")
            await case.call("`POST …/start`")
            await within(case.bay.driver.held.wait())
        case "warm":
            await case.call("`POST …/pause`")
        case "hibernated":
            await within(case.client.post(f"/v1/sandboxes/{case.sandbox}/hibernate"))
        case "stopping":
            hold(case.bay, "stop")
            stopping = asyncio.create_task(case.call("`POST …/stop`"))
            await within(case.bay.driver.held.wait())
            return [stopping]
        case "expired":
            case.bay.clock.advance(1000)
            await case.bay.bay.sweep.sweep()
            await case.bay.settled(case.sandbox, lambda r: r.session is None)
        case "deleted":
            await case.call("`DELETE …`")
        case _:
            assert state == "running"
    return []


def waiters(case: Case) -> int:
    """How many calls have written what they want of the sandbox and wait for it."""
    return len(case.bay.bay.changes._waiters.get(case.sandbox, ()))


async def answer(
    case: Case, state: str, wanted: Cell, pending: Sequence["asyncio.Task[httpx.Response]"] = ()
) -> httpx.Response:
    """The answer; what holds the state is let go once the call is under way, if the call is to end it.

    An earlier call of `pending` may end when this one changes the target, so it is not counted then.
    """
    task = asyncio.create_task(case.call(wanted.call))
    breaks_off = state == "starting" and wanted.follows in ("idle", "deleted")  # waits for no start
    if wanted.follows and not breaks_off:
        await until(lambda: task.done() or waiters(case) > sum(not one.done() for one in pending))
        case.bay.driver.let_go.set()
    return await within(task)


def check(answered: httpx.Response, wanted: Cell) -> None:
    assert answered.status_code == wanted.status, (wanted, answered.text)
    if wanted.code:
        assert answered.json()["error"]["code"] == wanted.code, wanted


async def finish(case: Case, pending: list["asyncio.Task[httpx.Response]"]) -> None:
    case.bay.driver.let_go.set()
    for task in pending:
        assert (await within(task)).status_code in (200, 404)
    hold(case.bay, None)


def test_the_table_has_every_state_and_every_call_that_is_tried() -> None:
    assert [row[0] for row in ROWS] == list(CALLS)
    assert list(SHOWN) == STATES


@pytest.mark.parametrize("state", STATES)
async def test_calls_that_leave_the_state_as_it_is(bay: World, alice: httpx.AsyncClient, state: str) -> None:
    case = await fresh(bay, alice)
    pending = await bring(case, state)
    assert await case.state() == state
    staying = [wanted for wanted in column(state) if wanted.follows is None]
    # The exec last: it is the one thing that a call takes away.
    for wanted in sorted(staying, key=lambda w: w.call == "`DELETE …/execs/{exec_id}`"):
        check(await answer(case, state, wanted), wanted)
        assert await case.state() == state, wanted
    await finish(case, pending)


@pytest.mark.parametrize("state", [state for state in STATES if any(c.follows for c in column(state))])
async def test_calls_that_another_state_follows(bay: World, alice: httpx.AsyncClient, state: str) -> None:
    case = await fresh(bay, alice)
    for wanted in column(state):
        if wanted.follows is None:
            continue
        if not await case.is_in("running"):
            case = await fresh(bay, alice)
        pending = await bring(case, state)
        check(await answer(case, state, wanted, pending), wanted)
        follows = wanted.follows
        await eventually(lambda case=case, follows=follows: case.is_in(follows))
        await finish(case, pending)
