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
WITH_MEMORY: Json = {"memory": True}
CLAIM: Json = {"profile": "pooled", "labels": {"claimed": "yes"}, "env": {"CLAIMED": "yes"}}
SLEEPER: Json = {"ttl": 3600, "profile": "sleeps"}
TICKS = "ticks"
_COUNTER = f"""
import os, signal, socket
value, count = os.urandom(8).hex(), 0
def change(*_):
    global value
    value = os.urandom(8).hex()
signal.signal(signal.SIGUSR1, change)
ticks = os.open({TICKS!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
door = socket.socket(socket.AF_UNIX)
door.bind("\\0counter")
door.listen()
door.settimeout(0.02)
while True:
    try:
        caller, _ = door.accept()
        caller.sendall(value.encode())
        caller.close()
    except TimeoutError:
        pass
    count += 1
    os.write(ticks, f"{{value}} {{count}}\\n".encode())
"""
"""A program that counts in memory and writes each number down; to who asks it says the value that it has.
SIGUSR1 changes that.
"""
ASK_COUNTER = """python3 -c '
import socket
door = socket.socket(socket.AF_UNIX)
door.connect("\\0counter")
print(door.recv(100).decode())'"""
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
    hibernates: bool = False
    """Whether it needs CRIU, and has a program that counts."""


async def one_running(run: Run, body: Json = NEW) -> None:
    """A sandbox with a file, and an exec that runs on."""
    made = await run.ask("POST", "", params={"wait": CALL_S}, json=body)
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


async def one_that_counts(run: Run) -> None:
    """One that can hibernate, with a program that counts in memory."""
    await one_running(run, SLEEPER)
    sandbox = run.kept["sandbox"]["id"]
    started = await run.ask("POST", f"/{sandbox}/execs", json={"argv": ["python3", "-c", _COUNTER]})
    run.facts.add("exec", sandbox, id=started["id"])
    run.kept["counter"] = started
    await _tell_counter(run, f"until {ASK_COUNTER} 2>/dev/null; do :; done")


async def _tell_counter(run: Run, command: str) -> None:
    """Note the value that the program has, which the end of the command says."""
    sandbox = run.kept["sandbox"]["id"]
    said = await run.ask("POST", f"/{sandbox}/shell/exec", json={"command": command, "timeout": CALL_S})
    run.facts.add("counts", sandbox, value=said["output"].split()[-1])


async def one_hibernated(run: Run) -> None:
    """The same, with its memory on disk."""
    await one_that_counts(run)
    await hibernate(run)


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


async def hibernate(run: Run) -> None:
    await _change(run, "hibernate", "hibernated")


async def prepare_restart(run: Run) -> None:
    """The memory of all that may hibernate outlives a restart of the host."""
    sandbox = run.kept["sandbox"]["id"]
    run.facts.add("asked for compute", sandbox, compute="hibernated")
    await run.points.reach("before the call POST prepare_restart")
    answer = (await run.client.post("/v1/admin/host/prepare_restart")).json()
    assert [item["memory"] for item in answer["items"]] == ["kept"], answer
    run.facts.add("compute", sandbox, compute="hibernated")
    await run.answered()


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


async def one_with_memory_kept(run: Run) -> None:
    """One that counts, with a checkpoint of its memory; its value and a file were changed since."""
    await one_that_counts(run)
    sandbox = run.kept["sandbox"]["id"]
    run.kept["checkpoint"] = await run.ask("POST", f"/{sandbox}/checkpoints", json=WITH_MEMORY)
    await run.ask("PUT", f"/{sandbox}/filesystem/files", json={"path": FILE, "content": CHANGED})
    run.facts.add("file", sandbox, path=FILE, content=CHANGED)
    await run.ask("POST", f"/{sandbox}/execs/{run.kept['counter']['id']}/signal", json={"signal": "USR1"})
    (before,) = (fact["value"] for fact in run.facts.all() if fact["kind"] == "counts")
    await _tell_counter(run, f"while [ $({ASK_COUNTER}) = {before} ]; do :; done; {ASK_COUNTER}")


async def checkpoint(run: Run) -> None:
    """One of the files."""
    await _checkpoint(run, {})


async def checkpoint_memory(run: Run) -> None:
    """One of the memory, too."""
    await _checkpoint(run, WITH_MEMORY)


async def _checkpoint(run: Run, body: Json) -> None:
    sandbox = run.kept["sandbox"]["id"]
    run.facts.add("asked to checkpoint", sandbox, body=body)
    made = await run.ask("POST", f"/{sandbox}/checkpoints", key=KEY, json=body)
    run.facts.add("checkpointed", sandbox, id=made["id"])
    await run.answered()


async def restore(run: Run) -> None:
    sandbox, made = run.kept["sandbox"]["id"], run.kept["checkpoint"]["id"]
    run.facts.add("asked to restore", sandbox, path=FILE, content=CONTENT)
    await run.ask("POST", f"/{sandbox}/checkpoints/{made}/restore")
    run.facts.add("restored", sandbox)
    await run.answered()


async def fork(run: Run) -> None:
    """One with the files."""
    await _fork(run, FORK)


async def fork_live(run: Run) -> None:
    """One that goes on with the memory."""
    await _fork(run, FORK | WITH_MEMORY)


async def _fork(run: Run, body: Json) -> None:
    sandbox = run.kept["sandbox"]["id"]
    run.facts.add("asked to fork", sandbox, body=body)
    (made,) = (await run.ask("POST", f"/{sandbox}/fork", key=KEY, json=body))["items"]
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
    "hibernate": Operation(hibernate, one_that_counts, hibernates=True),
    "prepare a restart": Operation(prepare_restart, one_that_counts, hibernates=True),
    "wake from memory": Operation(start, one_hibernated, hibernates=True),
    "checkpoint": Operation(checkpoint, one_running),
    "restore": Operation(restore, one_checkpointed),
    "fork": Operation(fork, one_running),
    "checkpoint with memory": Operation(checkpoint_memory, one_that_counts, hibernates=True),
    "restore with memory": Operation(restore, one_with_memory_kept, hibernates=True),
    "live fork": Operation(fork_live, one_that_counts, hibernates=True),
    "pool refill": Operation(nothing, restarts=True, pool=1),
    "pool claim": Operation(claim, pool=1, creates=CLAIM),
    "restart": Operation(nothing, disorder, restarts=True, creates=NEW),
}
"""By the name that the table shows."""
