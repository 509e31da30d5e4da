"""The processes of the crash matrix: a Bay that is killed, and the next one, which is asked what is left.

A program for `crash_matrix`, not a test. It reads one order a line, does it in a process forked for it (so
that each Bay is one of its own without importing everything again), and says on stdout how that ended.
"""

import asyncio
import contextlib
import gc
import json
import os
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Coroutine
from dataclasses import asdict, replace
from pathlib import Path

from crash_case import Json, Place, Run, running
from crash_checks import clean, judge
from crash_operations import OPERATIONS
from crash_points import Points, die, watch_disk

from bay.drivers.fake import FakeDriver
from bay.drivers.host_check import HostCheck
from bay.drivers.oci import driver as oci_driver
from bay.drivers.oci.driver import OciDriver
from bay.drivers.oci.memory_image import fingerprint
from bay.linux.threads import in_new_thread
from bay.network.manager import NetworkManager
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
    watch_disk(points)
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
    criu = order["criu"] if OPERATIONS[order["operation"]].hibernates else None
    place = Place(Path(order["root"]), Path(order["cache"]), criu)
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


def _trust_host() -> None:
    """Leave out the trials of the host with which Bays of this process begin, half of the time of a start."""
    replaced: dict[object, tuple[str, Callable[..., object]]] = {
        oci_driver: ("requirements", _no_checks),
        NetworkManager: ("probe", _no_problems),
        OciDriver: ("_try_memory", _have_memory),
    }
    for owner, (name, function) in replaced.items():
        setattr(owner, name, function)


def _no_checks(*_: object) -> list[HostCheck]:
    return []


def _no_problems(*_: object) -> list[str]:
    return []


async def _have_memory(driver: OciDriver, isolation: str) -> None:
    program = await in_new_thread(lambda: driver._saving_program(isolation))
    driver._memory.hosts[isolation] = await in_new_thread(lambda: fingerprint(isolation, program))
    driver.capabilities = replace(driver.capabilities, memory=(isolation,))


def _child(order: Json) -> None:
    """Never returns."""
    log = os.open(f"{order['root']}/log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    null = os.open(os.devnull, os.O_RDONLY)
    for fd, standard in ((null, 0), (log, 1), (log, 2)):
        os.dup2(fd, standard)
    os.environ["BAY_CRASH_CASE"] = order["root"]
    if not order.get("tries_host"):
        _trust_host()
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


async def _load() -> None:
    """Import and compile what a Bay does when it starts and is asked, which each fork would do again."""
    with tempfile.TemporaryDirectory(prefix="bay-cl-", dir="/tmp") as root:
        place = Place(Path(root), Path(root))
        settings = place.settings(0).model_copy(update={"cargo_backend": "directory"})
        async with running(
            place, Points(), driver=FakeDriver(run_dir=place.run_dir), settings=settings
        ) as run:
            await run.settle()
            await run.call("GET", "")


def main() -> None:
    """Serve orders until stdin ends. If whoever gave them was killed, remove what the last one left."""
    logs.configure("error", "json")
    asyncio.run(_load())
    logs.configure("info", "json")
    gc.freeze()  # a collection in a fork would copy the pages that it only looks at
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
