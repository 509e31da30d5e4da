"""What sandboxes that do nothing cost: memory each, and Bay's own memory and processor time."""

import os
import time
from concurrent.futures import ThreadPoolExecutor

from examples import host_view
from examples.own_server import OwnServer

from bay.client import Box, Client
from bench import host
from bench.base import Bench, create_and_run, delete_all, running_box
from bench.figures import Figure, Result
from bench.raw import Raw

IDLE_SANDBOXES, IDLE_S, AT_ONCE, SETTLE_S = 200, 60.0, 4, 3.0


def memory(bench: Bench) -> list[Result]:
    """Of one idle sandbox and of Bay with it."""
    with running_box(bench.client) as box:
        pids = _idle_pids(box, bench.server)
        sandbox = Figure("idle sandbox, PSS", "MiB", (host.pss_mib(pids),), f"{len(pids)} process(es)")
    bay = bench.server.pid
    return [
        sandbox,
        Figure("Bay, PSS", "MiB", (host.pss_mib([bay]),)),
        Figure("Bay, RSS", "MiB", (host.rss_mib(bay),)),
    ]


def idle(bench: Bench) -> list[Result]:
    """Two hundred sandboxes that do nothing, running and then frozen: memory each, and what Bay uses of a
    core.
    """
    count = bench.count(IDLE_SANDBOXES)
    before = host.available_mib()
    boxes = create_many(bench.client, count)
    try:
        found = at_rest(bench.server, f"{count} idle", count, before, bench.scale)
        with Raw(bench.server) as raw:
            for box in boxes:
                raw.call("POST", f"/v1/sandboxes/{box.id}/pause")
        return found + at_rest(bench.server, f"{count} frozen", count, before, bench.scale)
    finally:
        delete_all(bench.client)


def create_many(client: Client, count: int) -> list[Box]:
    """`count` sandboxes that have answered a command."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return [future.result() for future in [pool.submit(create_and_run, client) for _ in range(count)]]


def at_rest(server: OwnServer, name: str, count: int, before_mib: float, scale: float) -> list[Result]:
    """What `count` sandboxes that do nothing weigh, and what Bay uses meanwhile."""
    time.sleep(SETTLE_S)
    bay = server.pid
    busy = _busy_percent(bay, max(2.0, IDLE_S * scale))
    pids = list(host.View(server.folder).processes())
    each = host.pss_mib(pids) / count
    taken = (before_mib - host.available_mib()) / count
    return [
        Figure(f"{name}: memory each, PSS", "MiB", (each,), f"{len(pids)} processes"),
        Figure(f"{name}: host memory each", "MiB", (taken,), "fall of MemAvailable, Bay and kernel included"),
        Figure(f"{name}: Bay's processor time", "% of a core", (busy,)),
        Figure(f"{name}: Bay, PSS", "MiB", (host.pss_mib([bay]),)),
    ]


def _busy_percent(pid: int, during_s: float) -> float:
    """Processor time of a process over the next `during_s` seconds, in per cent of one core."""
    began, used = time.monotonic(), host.cpu_s(pid)
    time.sleep(during_s)
    return 100 * (host.cpu_s(pid) - used) / (time.monotonic() - began)


def _idle_pids(box: Box, server: OwnServer) -> list[int]:
    """The processes of `box` that are there when it does nothing: what its cgroup holds but the probe."""
    argv = ["/usr/bin/sleep", f"{os.getpid()}{time.monotonic_ns() % 10**6}"]
    probe = box.spawn(argv)
    deadline = time.monotonic() + 10
    while not (found := host_view.pids_of(argv)) and time.monotonic() < deadline:
        time.sleep(0.01)
    cgroups = host_view.traces_of(found[0], server.pid, set()).cgroups
    pids = {int(line) for path in cgroups for line in (path / "cgroup.procs").read_text().split()}
    probe.kill()
    return sorted(pids - set(found))
