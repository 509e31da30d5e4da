"""Being attached to a command: how soon a key comes back, how fast output flows and what that holds in
memory, and how fast old output comes again.
"""

import subprocess
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager

from bay.client import Attachment, Box
from bench import host
from bench.base import Bench, beside_docker, ms, running_box
from bench.figures import Absent, Figure, Result
from bench.pools import pooled_server

KEYS, FLOOD_BYTES, REPLAYS = 500, 1 << 30, 20
LOOK_S = 0.02
MIB = 1 << 20


def keystroke(bench: Bench) -> list[Result]:
    """One key typed into a terminal, until its echo is back: client, Bay, Ship, the kernel's terminal and
    back.
    """
    with (
        running_box(bench.client) as box,
        box.spawn(["cat"], tty=True).attach() as terminal,
    ):
        output = iter(terminal)
        taken = [ms(lambda: _echoed(terminal, output)) for _ in range(bench.count(KEYS))]
        terminal.signal("KILL")
    return [Figure("keystroke echo through attach", "ms", tuple(taken))]


def _echoed(terminal: Attachment, output: Generator[object, None, None]) -> None:
    terminal.write("x")
    next(output)


def flood(bench: Bench) -> list[Result]:
    """A gigabyte of output through attach, as fast as it goes, with the growth of both programs; beside
    `docker exec`.
    """
    total = bench.count(FLOOD_BYTES)
    with running_box(bench.client) as box:
        pids = {"Bay": bench.server.pid, "Ship": next(iter(host.View(bench.server.folder).processes()))}
        with peaks(pids) as grown:
            got, seconds = _read_flood(box, total)
    mine = Figure("output through attach", "MiB/s", (got / MIB / seconds,), _share(got, total))
    grown = [Figure(f"{name} grows by, RSS", "MiB", (peak,)) for name, peak in grown.items()]
    return [*beside_docker(mine, "output through docker exec", _docker_flood(bench, total)), *grown]


def replay(bench: Bench) -> list[Result]:
    """All that is kept of a command that has ended, read again through a new connection."""
    taken: list[float] = []
    with (
        pooled_server(pool_size=0, more="output_buffer_mb = 16") as server,
        server.client() as client,
        running_box(client) as box,
    ):
        proc = box.spawn(["head", "-c", str(32 * MIB), "/dev/zero"])
        proc.wait(60)
        kept = proc.info.output_bytes - proc.refresh().first_offset
        for _ in range(bench.count(REPLAYS)):
            began = time.perf_counter()
            with proc.attach() as attachment:
                got = sum(len(chunk.data) for chunk in attachment)
            taken.append((time.perf_counter() - began) * 1000)
            if got != kept:
                return [Absent("attach and replay", f"{got} of {kept} bytes came")]
    return [
        Figure(f"attach and replay of {kept / MIB:.0f} MiB", "ms", tuple(taken), "until its end was told")
    ]


def _read_flood(box: Box, total: int) -> tuple[int, float]:
    """How many bytes came, and in how many seconds; the command waits until somebody is attached."""
    proc = box.spawn(f"read go; exec head -c {total} /dev/zero", stdin_open=True)
    with proc.attach() as attachment:
        began = time.perf_counter()
        attachment.write("\n")
        got = sum(len(chunk.data) for chunk in attachment)
    return got, time.perf_counter() - began


def _share(got: int, total: int) -> str:
    return (
        f"{100 * got / total:.1f} % of {total / MIB:.0f} MiB came; the rest left the ring before it was read"
    )


def _docker_flood(bench: Bench, total: int) -> list[float]:
    if not bench.docker:
        return []
    with bench.docker.container() as name:
        began = time.perf_counter()
        command = ["docker", "exec", name, "/usr/bin/head", "-c", str(total), "/dev/zero"]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            got = 0
            while data := process.stdout.read(MIB):
                got += len(data)
        return [got / MIB / (time.perf_counter() - began)]


@contextmanager
def peaks(pids: dict[str, int]) -> Generator[dict[str, float]]:
    """By how many MiB each process's resident memory has grown at most; filled in when the block is left."""
    before = {name: host.rss_mib(pid) for name, pid in pids.items()}
    found = dict.fromkeys(pids, 0.0)
    done = threading.Event()

    def look() -> None:
        while not done.wait(LOOK_S):
            for name, pid in pids.items():
                found[name] = max(found[name], host.rss_mib(pid) - before[name])

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield found
    finally:
        done.set()
        watcher.join()
