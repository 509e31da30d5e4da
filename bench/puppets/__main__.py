"""`python -m bench.puppets [--count N]`: a whole Bay whose sandboxes are puppet pods, from its first create
to its last delete.

It runs inside of a cluster without a kubelet, as `make bench-kubernetes` starts one, and asks the API server
with Bay's own rights. BENCH_DATABASE_URL names an empty PostgreSQL database; without it the rows are in
SQLite. Processor time is that of Bay alone.
"""

import argparse
import json
import os
import secrets
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from examples.own_server import OwnServer
from rich.console import Console

from bench import host
from bench.puppets.cluster import Cluster, Rows, said, writes
from bench.puppets.kubelet import NAMESPACE, PODS_PER_NODE, PuppetKubelet, puppet_kubelet
from bench.raw import Raw
from bench.store import URL

STATE = "BAY_TEST_KUBERNETES"
CALLERS, REST_S, CHANGES_S, PER_S, POOL, PAGE = 16, 65.0, 30.0, 10, 50, 200
LONGEST_S = 1800.0
CONFIG = """
driver = "kubernetes"
start_timeout = 600
start_concurrency = 32
{database}
[kubernetes]
install = "{install}"
kubeconfig = "{kubeconfig}"
namespace = "{namespace}"
image = "bay.test/box:1"
ship_image = "bay.test/ship:1"
pull_policy = "Never"
volume_mb = 16
unschedulable = 60
[profiles.python-default]
memory_mb = 128
idle_timeout = 86400
"""
_POOLED = f"""
[profiles.pooled]
memory_mb = 128
idle_timeout = 86400
pool_size = {POOL}
pool_max = {POOL}
"""


@dataclass(kw_only=True)
class Measurement:
    """One Bay and its cluster; each phase of the measurement is printed and kept."""

    server: OwnServer
    cluster: Cluster
    rows: Rows
    count: int
    stopped: int
    console: Console
    found: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    ids: list[str] = field(default_factory=list[str])

    @contextmanager
    def phase(self, name: str, things: int = 1) -> Generator[dict[str, Any]]:
        """What the block took: wall and processor time, requests to the API server, rows. `things` is how
        many it did of its kind.
        """
        asked, rows = self.cluster.asked(), self.rows.written()
        pid = self.server.pid
        used, theirs, began = _used_s(pid), self.cluster.used_s(), time.monotonic()
        told: dict[str, Any] = {}
        yield told
        wall = time.monotonic() - began
        used = _used_s(self.server.pid) - (used if self.server.pid == pid else 0)
        present = self.cluster.asked()
        asked = +Counter({one: present[one] - asked[one] for one in present})
        rows = self.rows.written() - rows
        wall = told.pop("wall_s", wall)
        self.found.append(
            {
                "phase": name, "things": things, "wall_s": round(wall, 2), "per_s": round(things / wall, 1),
                "bay_cpu_s": round(used, 2), "cluster_cpu_s": round(self.cluster.used_s() - theirs, 2), "bay_cpu_ms_each": round(used * 1000 / things, 2),
                "api": dict(asked), "api_each": round(sum(asked.values()) / things, 2),
                "api_writes_each": round(writes(asked) / things, 2),
                "rows_each": round(rows["rows"] / things, 2), "commits_each": round(rows["commits"] / things, 2),
                "rss_mib": round(host.rss_mib(self.server.pid)), "load": round(os.getloadavg()[0], 1), **told,
            }
        )  # fmt: skip
        self._print(self.found[-1])

    def _print(self, one: dict[str, Any]) -> None:
        rest = {
            name: value
            for name, value in one.items()
            if name not in ("phase", "api", "things", "wall_s", "per_s", "bay_cpu_s")
        }
        self.console.print(
            f"[bold]{one['phase']}[/]: {one['things']} in {one['wall_s']} s ({one['per_s']}/s), Bay's processor "
            f"{one['bay_cpu_s']} s"
        )
        self.console.print(f"  {rest}\n  asked: {said(one['api'])}")

    # The phases

    def fill(self) -> None:
        """Sandboxes without compute, which are rows alone; then Bay is started."""
        if self.stopped:
            self.server.start()
            self.server.end()
            self.rows.fill(self.stopped)
        self.stopped = self.rows.sandboxes()["none"] if self.stopped else 0
        with self.phase("start", max(1, self.stopped)):
            self.server.start()
            _wait(self._is_ready, "Bay is not ready")

    def create(self) -> None:
        """Sandboxes whose compute starts at once, until all of them run."""
        with self.phase("create", self.count) as told:
            began = time.monotonic()
            made = self._together(lambda raw: raw.call("POST", "/v1/sandboxes", {})["id"], self.count)
            told["accepted_per_s"] = round(self.count / (time.monotonic() - began), 1)
            self.ids += made
            self._start_all(told)

    def _start_all(self, told: dict[str, Any]) -> None:
        """Until all of them run: those whose start has failed are started again, and counted."""
        told["failed"] = 0
        ends = time.monotonic() + LONGEST_S
        while (phases := self.rows.sandboxes())["running"] < len(self.ids):
            if time.monotonic() > ends:
                raise TimeoutError("the sandboxes do not run")
            if phases["none"] > self.stopped and not phases["starting"]:
                with Raw(self.server) as raw:
                    failed = set(self._all_of(raw, "status=failed")).intersection(self.ids)
                    for box in failed:
                        raw.call("POST", f"/v1/sandboxes/{box}/start")
                told["failed"] += len(failed)
            time.sleep(0.25)

    def rest(self, name: str = "rest") -> None:
        """Nothing happens for longer than a minute, which is the longest of Bay's own intervals here."""
        with self.phase(name, int(REST_S)):
            time.sleep(REST_S)

    def changes(self) -> None:
        """Stops and starts, half of each, at a steady rate."""
        total = int(CHANGES_S * PER_S)
        boxes = self.ids[: total // 2]
        with self.phase("changes", 2 * len(boxes)), Raw(self.server) as raw:
            began = time.monotonic()
            pause_s = 1 / PER_S
            for number, box in enumerate(boxes):
                raw.call("POST", f"/v1/sandboxes/{box}/stop")
                earlier = boxes[number - 10] if number >= 10 else None
                self._until(began + (2 * number + 1) * pause_s)
                if earlier is not None:
                    raw.call("POST", f"/v1/sandboxes/{earlier}/start")
                self._until(began + (2 * number + 2) * pause_s)
            for box in boxes[-10:]:
                raw.call("POST", f"/v1/sandboxes/{box}/start")
            self._wait_counts(lambda counts: counts["running"] >= len(self.ids))

    def lists(self) -> None:
        """All sandboxes, by pages; and one page."""
        with self.phase("list all", max(1, (self.count + self.stopped) // PAGE)), Raw(self.server) as raw:
            cursor: str | None = ""
            while cursor is not None:
                page = raw.call(
                    "GET", f"/v1/sandboxes?limit={PAGE}" + (f"&cursor={cursor}" if cursor else "")
                )
                cursor = page.get("next_cursor")
        with self.phase("list one page", 20), Raw(self.server) as raw:
            for _ in range(20):
                raw.call("GET", "/v1/sandboxes?limit=100")

    def restart(self) -> None:
        """Bay is killed with everything running, and started; then what it does once it is ready."""
        self.server.kill()
        with self.phase("restart until ready", self.count):
            self.server.start()
            _wait(self._is_ready, "Bay is not ready")
        with self.phase("the minute after", 60) as told:
            began, slowest, ends = time.monotonic(), 0.0, time.monotonic() + 60
            with Raw(self.server) as raw:
                while time.monotonic() < ends:
                    asked_at = time.monotonic()
                    raw.call("GET", f"/v1/sandboxes/{self.ids[0]}")
                    slowest = max(slowest, time.monotonic() - asked_at)
                    time.sleep(0.1)
            told["slowest_get_ms"] = round(slowest * 1000)
            told["wall_s"] = time.monotonic() - began

    def strangers(self, count: int) -> None:
        """Somebody deletes pods, all at once."""
        names = self.cluster.pods()[:count]
        with self.phase("pods deleted by a stranger", len(names)):
            self.cluster.delete(names)
            self._wait_counts(lambda counts: counts["running"] <= len(self.ids) - len(names))
        with self.phase("and started again", len(names)):
            with Raw(self.server) as raw:
                stopped = list(set(self._all_of(raw, "compute=cold")).intersection(self.ids))
            self._together_with(lambda raw, box: raw.call("POST", f"/v1/sandboxes/{box}/start"), stopped)
            self._wait_counts(lambda counts: counts["running"] >= len(self.ids))

    def lost_node(self) -> None:
        """A node is cut off for a minute, and comes back."""
        with self.phase("a lost node", min(PODS_PER_NODE, self.count)) as told:
            self.cluster.puppets.lose("puppet-0001")
            time.sleep(60)
            told["sandboxes"] = dict(self.rows.sandboxes())
            self.cluster.puppets.find("puppet-0001")
            time.sleep(10)

    def claims(self) -> None:
        """Creates that take a started sandbox from the pool, which a Bay that starts anew has filled."""
        self.server.end()
        self.server.config += _POOLED
        self.server.start()
        _wait(lambda: self.cluster.puppets.counts()["running"] >= len(self.ids) + POOL, "no pool")
        time.sleep(3)
        with self.phase("claims", POOL // 2) as told:
            began = time.monotonic()
            made = self._together(
                lambda raw: raw.call("POST", "/v1/sandboxes", {"profile": "pooled"}), POOL // 2
            )
            told["wall_s"] = time.monotonic() - began
            told["warm"] = sum(one["compute"] == "running" for one in made)
        self.ids += [one["id"] for one in made]

    def delete(self) -> None:
        """All of them, until their pods are gone."""
        with self.phase("delete", len(self.ids)) as told:
            began = time.monotonic()
            self._together_with(lambda raw, box: raw.call("DELETE", f"/v1/sandboxes/{box}"), self.ids)
            told["accepted_per_s"] = round(len(self.ids) / (time.monotonic() - began), 1)
            self._wait_counts(lambda counts: counts.total() == self.stopped)
            _wait(lambda: self.cluster.puppets.counts()["running"] <= POOL, "pods are left")

    # What they share

    def _together(self, call: Callable[[Raw], Any], count: int) -> list[Any]:
        return self._together_with(lambda raw, _: call(raw), [""] * count)

    def _together_with(self, call: Callable[[Raw, str], Any], boxes: list[str]) -> list[Any]:
        def work(part: list[str]) -> list[Any]:
            with Raw(self.server) as raw:
                return [call(raw, box) for box in part]

        parts = [part for number in range(CALLERS) if (part := boxes[number::CALLERS])]
        with ThreadPoolExecutor(CALLERS) as pool:
            return [one for done in pool.map(work, parts) for one in done]

    def _wait_counts(self, is_so: Callable[[Counter[str]], bool]) -> None:
        """By the rows, which costs Bay nothing."""
        _wait(lambda: is_so(self.rows.sandboxes()), "the sandboxes are not as they should be")

    def _all_of(self, raw: Raw, which: str) -> list[str]:
        found: list[str] = []
        cursor: str | None = ""
        while cursor is not None:
            rest = f"&cursor={cursor}" if cursor else ""
            page = raw.call("GET", f"/v1/sandboxes?limit={PAGE}&{which}{rest}")
            found += [one["id"] for one in page["items"]]
            cursor = page.get("next_cursor")
        return found

    def _is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.server.url}/health/ready", timeout=5, trust_env=False).is_success
        except httpx.TransportError:
            return False

    def _until(self, moment: float) -> None:
        time.sleep(max(0.0, moment - time.monotonic()))


def _used_s(pid: int) -> float:
    """The processor time of a process so far; none of one that was killed."""
    if not Path(f"/proc/{pid}").exists():
        return 0.0
    return host.exact_cpu_s(pid) + host.children_cpu_s(pid)


def _wait(is_so: Callable[[], bool], trouble: str) -> None:
    ends = time.monotonic() + LONGEST_S
    while not is_so():
        if time.monotonic() > ends:
            raise TimeoutError(trouble)
        time.sleep(0.25)


def main() -> int:
    """Exit code 0 when everything was measured."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.puppets", description="Measure Bay on puppet pods."
    )
    parser.add_argument("--count", type=int, default=300, help="sandboxes; 300 without it")
    parser.add_argument("--stopped", type=int, default=0, help="more sandboxes, without compute: rows alone")
    parser.add_argument("--only", nargs="*", default=[], help="phases after the creates; all without it")
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    parser.add_argument("--json", type=Path, default=Path(f"bench/results/puppets-{stamp}.json"))
    options = parser.parse_args()
    state = os.environ.get(STATE)
    if state is None or not Path(state, "no-kubelet").exists():
        print("no cluster without a kubelet: make bench-kubernetes starts one", file=sys.stderr)
        return 1
    console = Console(highlight=False, width=200)
    nodes = -(-(options.count + 2 * POOL) // PODS_PER_NODE) + 2
    with puppet_kubelet(Path(state), nodes) as puppets:
        _measure(options, Path(state), puppets, console)
    return 0


def _measure(options: argparse.Namespace, state: Path, puppets: PuppetKubelet, console: Console) -> None:
    url = os.environ.get(URL)
    install = f"bench-{secrets.token_hex(4)}"
    cluster = Cluster(state, install, puppets)
    with tempfile.TemporaryDirectory(prefix="bay-bench-") as folder:
        config = CONFIG.format(
            install=install,
            kubeconfig=cluster.state / "kubeconfig/bay",
            namespace=NAMESPACE,
            database="" if url is None else f"database_url = {json.dumps(url)}",
        )
        server = OwnServer(Path(folder), config)
        taken = Measurement(
            server=server,
            cluster=cluster,
            rows=Rows(url, Path(folder) / "data/bay.db"),
            count=options.count,
            stopped=options.stopped,
            console=console,
        )
        try:
            taken.fill()
            taken.create()
            phases: dict[str, Callable[[], None]] = {
                "rest": taken.rest,
                "changes": taken.changes,
                "lists": taken.lists,
                "strangers": lambda: taken.strangers(min(1000, options.count // 3)),
                "node": taken.lost_node,
                "restart": taken.restart,
                "claims": taken.claims,
                "delete": taken.delete,
            }
            for name in options.only or phases:
                phases[name]()
        finally:
            server.kill()
            console.print(f"watch: {cluster.event_bytes():.0f} bytes for each event of a pod")
            options.json.parent.mkdir(parents=True, exist_ok=True)
            options.json.write_text(json.dumps(taken.found, indent=2) + "\n")
            (options.json.parent / "puppets.log").write_bytes((Path(folder) / "log").read_bytes())


if __name__ == "__main__":
    sys.exit(main())
