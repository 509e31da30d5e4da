"""The operations of the crash matrix: what is there before, and what is done while Bay may be killed."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from crash_case import CALL_S, Json, Run

from bay.drivers.base import SessionSpec
from bay.ids import new_id
from bay.models import Resources

KEY = "one-and-the-same"
FILE = "kept/file.txt"
CONTENT = "written before\n"
CHANGED = "written after the checkpoint\n"
EXTENSION = 1000
APPEND = {"command": "echo ran >> ran"}
NEW: Json = {"ttl": 3600}
FORK: Json = {"count": 1}
CLAIM: Json = {"profile": "pooled", "labels": {"claimed": "yes"}, "env": {"CLAIMED": "yes"}}
_STARTING = "driver.start goes on after launched"
_REMOVING = "before driver.destroy"


async def nothing(_run: Run) -> None:
    """No preparation, or nothing left to do."""


@dataclass(frozen=True, slots=True)
class Operation:
    """`prepare` is left alone; `act` is what is killed, in the same Bay or (`restarts`) from the first moment
    of another.
    """

    act: Callable[[Run], Awaitable[None]]
    prepare: Callable[[Run], Awaitable[None]] = nothing
    restarts: bool = False
    pool_before: int = 0
    pool: int = 0
    creates: Json = field(default_factory=dict[str, object])
    """The body of its create, which is repeated afterwards with the same idempotency key."""


async def one_running(run: Run) -> None:
    """A sandbox with a file, and an exec that runs on."""
    made = await run.ask("POST", "", params={"wait": CALL_S}, json=NEW)
    run.kept["sandbox"] = made
    run.facts.add("sandbox", made["id"], expires_at=made["expires_at"])
    run.facts.add("compute", made["id"], compute="running")
    await write_file(run, made["id"])
    started = await run.ask("POST", f"/{made['id']}/execs", json={"argv": ["sleep", "1000"]})
    run.facts.add("exec", made["id"], id=started["id"], lasting=True)


async def one_stopped(run: Run) -> None:
    """The same, stopped."""
    await one_running(run)
    await stop(run)


async def one_paused(run: Run) -> None:
    """The same, frozen."""
    await one_running(run)
    await pause(run)


async def write_file(run: Run, sandbox: str) -> None:
    """Write a file in the workspace, and know that it was written."""
    await run.ask("PUT", f"/{sandbox}/filesystem/files", json={"path": FILE, "content": CONTENT})
    run.facts.add("file", sandbox, path=FILE, content=CONTENT)


async def create(run: Run) -> None:
    """A sandbox that is ready when the create answers."""
    await _create(run, NEW)


async def claim(run: Run) -> None:
    """The same, out of the pool."""
    await _create(run, CLAIM)


async def _create(run: Run, body: Json) -> None:
    run.facts.add("asked to create")
    made = await run.ask("POST", "", key=KEY, params={"wait": CALL_S}, json=body)
    run.facts.add("sandbox", made["id"], expires_at=made["expires_at"], key=KEY)
    run.facts.add("compute", made["id"], compute="running")
    await run.answered()
    await write_file(run, made["id"])
    await run.answered()


async def start(run: Run) -> None:
    await _change(run, "start", "running", params={"wait": CALL_S})


async def stop(run: Run) -> None:
    await _change(run, "stop", "cold")


async def pause(run: Run) -> None:
    await _change(run, "pause", "warm")


async def resume(run: Run) -> None:
    await _change(run, "resume", "running")


async def _change(run: Run, what: str, compute: str, **options: Any) -> None:
    sandbox = run.kept["sandbox"]["id"]
    run.facts.add("asked for compute", sandbox, compute=compute)
    await run.ask("POST", f"/{sandbox}/{what}", **options)
    run.facts.add("compute", sandbox, compute=compute)
    await run.answered()


async def exec_once(run: Run) -> None:
    """A command that leaves a trace each time it runs, and a file written after it."""
    sandbox = run.kept["sandbox"]["id"]
    run.facts.add("asked to append", sandbox)
    done = await run.ask("POST", f"/{sandbox}/execs", key=KEY, params={"wait": CALL_S}, json=APPEND)
    run.facts.add("appended", sandbox, id=done["id"], state=done["state"])
    run.facts.add("exec", sandbox, id=done["id"])
    await run.answered()


async def delete(run: Run) -> None:
    sandbox = run.kept["sandbox"]["id"]
    run.facts.add("asked to delete", sandbox)
    await run.ask("DELETE", f"/{sandbox}")
    run.facts.add("deleted", sandbox)
    await run.answered()


async def extend_ttl(run: Run) -> None:
    sandbox = run.kept["sandbox"]["id"]
    run.facts.add("asked to extend", sandbox)
    longer = await run.ask("POST", f"/{sandbox}/extend_ttl", key=KEY, json={"extend_by": EXTENSION})
    run.facts.add("extended", sandbox, expires_at=longer["expires_at"])
    await run.answered()


async def one_checkpointed(run: Run) -> None:
    """A sandbox that runs, with a checkpoint and a file that was changed since."""
    await one_running(run)
    sandbox = run.kept["sandbox"]["id"]
    run.kept["checkpoint"] = await run.ask("POST", f"/{sandbox}/checkpoints")
    await run.ask("PUT", f"/{sandbox}/filesystem/files", json={"path": FILE, "content": CHANGED})
    run.facts.add("file", sandbox, path=FILE, content=CHANGED)


async def checkpoint(run: Run) -> None:
    sandbox = run.kept["sandbox"]["id"]
    run.facts.add("asked to checkpoint", sandbox)
    made = await run.ask("POST", f"/{sandbox}/checkpoints", key=KEY)
    run.facts.add("checkpointed", sandbox, id=made["id"])
    await run.answered()


async def restore(run: Run) -> None:
    sandbox, made = run.kept["sandbox"]["id"], run.kept["checkpoint"]["id"]
    run.facts.add("asked to restore", sandbox, path=FILE, content=CONTENT)
    await run.ask("POST", f"/{sandbox}/checkpoints/{made}/restore")
    run.facts.add("restored", sandbox)
    await run.answered()


async def fork(run: Run) -> None:
    sandbox = run.kept["sandbox"]["id"]
    run.facts.add("asked to fork", sandbox)
    (made,) = (await run.ask("POST", f"/{sandbox}/fork", key=KEY, json=FORK))["items"]
    run.facts.add("forked", sandbox, id=made["id"])
    run.facts.add("sandbox", made["id"], expires_at=None)
    run.facts.add("file", made["id"], path=FILE, content=CONTENT)
    await run.answered()


async def disorder(run: Run) -> None:
    """What a restart may find: one that runs, one that starts, one that is half removed, and remains of
    nobody.

    Bay is killed at the end of it, like everywhere.
    """
    await one_stopped(run)
    doomed = await run.ask("POST", "", params={"wait": CALL_S}, json=NEW)
    await one_running(run)
    await _leave_remains(run)
    run.facts.add("asked to delete", doomed["id"])
    run.facts.add("sandbox", doomed["id"], expires_at=doomed["expires_at"])
    run.points.hold_at = frozenset((_STARTING, _REMOVING))
    tasks = [asyncio.create_task(run.call("DELETE", f"/{doomed['id']}"))]
    made = await run.ask("POST", "", key=KEY, json=NEW)
    run.facts.add("sandbox", made["id"], expires_at=made["expires_at"], key=KEY)
    while run.points.held < run.points.hold_at:  # noqa: ASYNC110
        await asyncio.sleep(0.005)
    run.kept["tasks"] = {"open": tasks}


async def _leave_remains(run: Run) -> None:
    await run.bay.cargo.create(new_id("ws"))
    workspace = new_id("ws")
    await run.bay.cargo.create(workspace)
    spec = SessionSpec(
        session_id=new_id("sess"), sandbox_id=new_id("sandbox"), image="host", isolation="container",
        resources=Resources(memory=256 << 20), workspace=run.bay.cargo.place(workspace), token="t" * 64,
    )  # fmt: skip
    async for _ in run.bay.driver.start(spec, None):
        pass


OPERATIONS = {
    "create": Operation(create, creates=NEW),
    "start": Operation(start, one_stopped),
    "exec": Operation(exec_once, one_running),
    "stop": Operation(stop, one_running),
    "delete": Operation(delete, one_running),
    "extend_ttl": Operation(extend_ttl, one_running),
    "pause": Operation(pause, one_running),
    "resume": Operation(resume, one_paused),
    "checkpoint": Operation(checkpoint, one_running),
    "restore": Operation(restore, one_checkpointed),
    "fork": Operation(fork, one_running),
    "pool refill": Operation(nothing, restarts=True, pool=1),
    "pool claim": Operation(claim, pool=1, creates=CLAIM),
    "restart": Operation(nothing, disorder, restarts=True, creates=NEW),
}
"""By the name that the table shows."""
