"""Memory on disk in gVisor beside a container: saves, wakes and live forks of both, by turns."""

from examples.own_server import own_server

from bay.client import Box, Client
from bench.base import Bench, ms
from bench.figures import Absent, Figure, Ratio, Result
from bench.hibernation import CONFIG, answer, holding, what
from bench.live_fork import forked_ms

PROFILES = {"runc": "sleeps", "gVisor": "gvisor"}
SIZES_MB, COUNTS, RUNS = (0, 50), (1, 4), 5
BOTH = f"""
runsc = "runsc"
{CONFIG.strip()}
[profiles.gvisor]
isolation = "gvisor"
hibernate = true
memory_mb = 2048
"""


def gvisor_memory(bench: Bench) -> list[Result]:
    """Of a sandbox with Ship alone, and with a kernel that holds 50 MB."""
    with own_server("bay-bench-", BOTH) as server, server.client() as client:
        if lacking := {"container", "gvisor"} - set(client.capabilities().memory):
            why = f"this host cannot save these: {', '.join(sorted(lacking))}; `bay doctor`, BAY_CRIU"
            return [Absent("memory in gVisor", why)]
        found: list[Result] = []
        for size in SIZES_MB:
            found += _compared(client, size, bench.count(RUNS))
        return found


def _compared(client: Client, size: int, runs: int) -> list[Result]:
    boxes = {name: holding(client, profile, size) for name, profile in PROFILES.items()}
    took: dict[str, dict[str, list[float]]] = {}
    for _ in range(runs):
        for name, box in boxes.items():
            for act, spent in _round(box).items():
                took.setdefault(act, {}).setdefault(name, []).append(spent)
    for box in boxes.values():
        box.delete()
    found: list[Result] = []
    for act, samples in took.items():
        of = {
            name: Figure(f"{act}: {what(size)}, {name}", "ms", tuple(each)) for name, each in samples.items()
        }
        found += [*of.values(), Ratio(of["gVisor"], of["runc"])]
    return found


def _round(box: Box) -> dict[str, float]:
    """Each act once, with how long it took in milliseconds."""
    took = {"checkpoint with memory": ms(lambda: box.checkpoint("saved", memory=True))}
    box.delete_checkpoint("saved")
    took["hibernate"] = ms(box.hibernate)
    took["hibernated to its first command"] = ms(lambda: answer(box))
    for count in COUNTS:
        took[f"fork of {count} until each has run a command"] = forked_ms(box, count, memory=True)
    return took
