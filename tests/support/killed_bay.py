"""The processes of the crash matrix: a Bay that is killed, and the next one, which is asked what is left.

A program for `crash_matrix`, not a test. It reads one order a line, does it in a process forked for it (so
that each Bay is one of its own without importing everything again), and says on stdout how that ended.
"""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Coroutine
from dataclasses import asdict
from pathlib import Path

from crash_case import Json, Place, Run, running
from crash_checks import clean, judge
from crash_operations import OPERATIONS
from crash_points import Points, die

from bay.server import logs

_LONGEST_S = 100


async def prepare(place: Place, name: str) -> None:
    """Make what the next Bay is to find, and die."""
    operation = OPERATIONS[name]
    async with running(place, Points(), pool=operation.pool_before) as run:
        await operation.prepare(run)
        die()


async def act(place: Place, name: str, points: Points) -> None:
    """Do the operation, and die at the place that was named, or behind the last."""
    operation = OPERATIONS[name]
    points.armed = operation.restarts
    async with running(place, points, pool=operation.pool) as run:
        if not operation.restarts:
            await run.settle()
            await operation.prepare(run)
        points.armed = True
        await operation.act(run)
        await run.settle()
        await _written(run)
        (place.root / "points").write_text(json.dumps(points.seen))
        die()


async def _written(run: Run) -> None:
    """Writes that nobody waits for are places too."""
    await run.bay.deferred.flush()


async def _judge(place: Place, name: str) -> None:
    verdict = await judge(place, name)
    (place.root / "verdict").write_text(json.dumps(asdict(verdict)))


def _work(order: Json) -> Coroutine[None, None, None]:
    place = Place(Path(order["root"]), Path(order["cache"]))
    match order["phase"]:
        case "prepare":
            return prepare(place, order["operation"])
        case "act":
            points = Points(kill_at=order["kill_at"], kill_after_s=order["kill_after_s"])
            return act(place, order["operation"], points)
        case "judge":
            return _judge(place, order["operation"])
        case _:
            return clean(place)


def _child(order: Json) -> None:
    """Never returns."""
    log = os.open(f"{order['root']}/log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    null = os.open(os.devnull, os.O_RDONLY)
    for fd, standard in ((null, 0), (log, 1), (log, 2)):
        os.dup2(fd, standard)
    os.environ["BAY_CRASH_CASE"] = order["root"]
    signal.alarm(_LONGEST_S)
    try:
        asyncio.run(_work(order))
    except BaseException:  # noqa: BLE001 - a forked process must not return into its parent's code
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _done(order: Json) -> int:
    """How the process ended that was forked for the order: its exit code, or minus the signal
    that ended it.
    """
    if (pid := os.fork()) == 0:
        _child(order)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def main() -> None:
    """Serve orders until stdin ends. If whoever gave them was killed, remove what the last one left."""
    logs.configure("info", "json")
    order: Json = {}
    with contextlib.suppress(BrokenPipeError):
        for line in sys.stdin:
            order = json.loads(line)
            print(json.dumps({"ended": _done(order)}), flush=True)  # noqa: T201
    if order and Path(order["root"]).exists():
        _done({**order, "phase": "clean"})
        shutil.rmtree(order["root"])


if __name__ == "__main__":
    main()
