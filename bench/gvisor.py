"""gVisor beside runc: the same acts in a sandbox of each isolation, by turns, and what each weighs idle."""

from collections.abc import Callable, Mapping
from urllib.parse import urlencode

from examples.own_server import OwnServer, own_server

from bay.client import Box, Client
from bay.linux import namespaces
from bay.models import NetworkPolicy
from bench.base import Bench, create_and_run, delete_all
from bench.figures import Absent, Figure, Ratio, Result
from bench.files import MIB, download, upload
from bench.host import View, pss_mib
from bench.network import FLOW, PING, printed
from bench.network_world import SITE, site
from bench.processor import Timed
from bench.python import CODE
from bench.raw import Raw

CONFIG = f"""
runsc = "runsc"
dns_servers = ["{SITE}"]
[profiles.python-default]
memory_mb = 1024
cpus = 2
[profiles.gvisor]
isolation = "gvisor"
memory_mb = 1024
cpus = 2
"""
PROFILES = {"runc": "python-default", "gVisor": "gvisor"}
STARTS, CALLS, FILES, FLOWS, FLOW_S, PINGS = 10, 100, 10, 5, 2.0, 500
SIZE = 64 * MIB
WORK = {
    "64 MiB written and synced": "dd if=/dev/zero of=large bs=1M count=64 conv=fsync status=none",
    "the same read again": "cat large > /dev/null",
    "1,000 small files written, read and removed": (
        "mkdir small && for n in $(seq 1000); do echo $n > small/$n; done; cat small/* > /dev/null; rm -r small"
    ),
}


def gvisor(bench: Bench) -> list[Result]:
    """In a network namespace of its own, which stands for the host."""
    return namespaces.inside_new(lambda: _measured(bench))


def _measured(bench: Bench) -> list[Result]:
    with site(), own_server("bay-bench-", CONFIG) as server, server.client() as client:
        if "gvisor" not in client.capabilities().isolations:
            return [Absent("gVisor", "runsc does not work here: `bay doctor`")]
        found = _starts(server, client, bench.count(STARTS))
        is_open = NetworkPolicy(mode="open")
        boxes = {
            name: client.sandboxes.create(profile=profile, network_policy=is_open, wait=60)
            for name, profile in PROFILES.items()
        }
        found += _idle(server, boxes)
        with Raw(server) as raw:
            found += _calls(server, raw, boxes, bench.count(CALLS))
        found += _files(server, boxes, bench.count(FILES))
        found += _network(bench, boxes)
        delete_all(client)
        return found


def _starts(server: OwnServer, client: Client, runs: int) -> list[Result]:
    made: list[Box] = []
    acts = {name: lambda of=of: made.append(create_and_run(client, of)) for name, of in PROFILES.items()}
    return _by_turns(server, "create to first exec answer, cold", runs, acts, lambda: made.pop().delete())


def _calls(server: OwnServer, raw: Raw, boxes: Mapping[str, Box], runs: int) -> list[Result]:
    def cell(box: Box) -> None:
        raw.call("POST", f"/v1/sandboxes/{box.id}/python/exec", CODE)

    for box in boxes.values():
        cell(box)
    trues = {name: lambda box=box: raw.run_true(box.id) for name, box in boxes.items()}
    cells = {name: lambda box=box: cell(box) for name, box in boxes.items()}
    found = _by_turns(server, "exec true, without the SDK", runs, trues)
    return found + _by_turns(server, "python/exec of 1+1", runs, cells)


def _files(server: OwnServer, boxes: Mapping[str, Box], runs: int) -> list[Result]:
    path = "/v1/sandboxes/{}/files/content?" + urlencode({"path": "large"})

    def of_all(what: str, act: Callable[[Box], object]) -> list[Result]:
        acts = {name: lambda box=box: act(box) for name, box in boxes.items()}
        return _by_turns(server, what, runs, acts)

    found: list[Result] = []
    for what, command in WORK.items():
        found += of_all(what, lambda box, command=command: box.run(command, check=True))
    found += of_all("64 MiB uploaded", lambda box: upload(server, path.format(box.id), SIZE))
    return found + of_all("64 MiB downloaded", lambda box: download(server, path.format(box.id), SIZE))


def _network(bench: Bench, boxes: Mapping[str, Box]) -> list[Result]:
    flows: dict[str, list[float]] = {name: [] for name in boxes}
    pings: dict[str, list[float]] = {name: [] for name in boxes}
    for _ in range(bench.count(FLOWS)):
        for name, box in boxes.items():
            flows[name] += printed(box, FLOW, SITE, "1", str(FLOW_S * min(1, bench.scale * 2)))
            pings[name] += printed(box, PING, SITE, str(bench.count(PINGS)))
    out = {name: Figure(f"TCP out, {name}", "MB/s", tuple(samples)) for name, samples in flows.items()}
    back = {
        name: Figure(f"TCP there and back, {name}", "µs", tuple(samples)) for name, samples in pings.items()
    }
    return [*_compared(out), *_compared(back)]


def _idle(server: OwnServer, boxes: Mapping[str, Box]) -> list[Result]:
    """Of sandboxes that have run nothing yet."""
    there = View(server.folder).processes().items()
    pids = {
        name: [pid for pid, session in there if session == _session(server, box)]
        for name, box in boxes.items()
    }
    sizes = {
        name: Figure(f"idle, PSS, {name}", "MiB", (pss_mib(found),), f"{len(found)} processes")
        for name, found in pids.items()
    }
    charged = {
        name: Figure(f"idle, control group, {name}", "MiB", ((box.usage().memory_bytes or 0) / MIB,))
        for name, box in boxes.items()
    }
    return [*_compared(sizes), *_compared(charged)]


def _session(server: OwnServer, box: Box) -> str:
    owners = (server.folder / "run").glob("*/sessions/*/owner.json")
    return next(one.parent.name for one in owners if box.id in one.read_text())


def _by_turns(
    server: OwnServer,
    what: str,
    runs: int,
    acts: Mapping[str, Callable[[], object]],
    after: Callable[[], object] = int,
) -> list[Result]:
    timed = {name: Timed(server) for name in acts}
    for _ in range(runs):
        for name, act in acts.items():
            timed[name].take(act)
            after()
    return _compared({name: taken.figure(f"{what}, {name}") for name, taken in timed.items()})


def _compared(figures: Mapping[str, Figure]) -> list[Result]:
    return [*figures.values(), Ratio(figures["gVisor"], figures["runc"])]
