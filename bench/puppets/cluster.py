"""Counters of the cluster and of the database, beside those of Bay: who asked the API server for what."""

import re
import subprocess
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import URL, create_engine, make_url

from bench import host
from bench.listing import fill
from bench.puppets.kubelet import NAMESPACE, PuppetKubelet

WRITES = frozenset(("POST", "PUT", "PATCH", "DELETE"))
_OF_BAY = ("pods", "persistentvolumeclaims", "nodes", "events", "networkpolicies")
_REQUESTS = re.compile(r"apiserver_request_total\{(.*)\} (\S+)")
_SENT = re.compile(r'apiserver_watch_events_sizes_(sum|count)\{.*kind="Pod".*\} (\S+)')
_LABEL = re.compile(r'(\w+)="([^"]*)"')


@dataclass(frozen=True, slots=True)
class Cluster:
    """The cluster whose folder is `state`, its puppets, and the pods of one installation in it."""

    state: Path
    install: str
    puppets: PuppetKubelet

    def kubectl(self, *args: str, text: str | None = None, timeout_s: float = 600) -> str:
        """The output of kubectl, as the admin: for what no load is measured by."""
        command = ["kubectl", "--kubeconfig", str(self.state / "kubeconfig/admin"), "-n", NAMESPACE, *args]
        done = subprocess.run(
            command, input=text, capture_output=True, text=True, timeout=timeout_s, check=True
        )
        return done.stdout

    def asked(self) -> Counter[str]:
        """The requests so far that no puppet has made, by verb and resource, such as `GET pods`."""
        found: Counter[str] = Counter()
        for labels, value in _REQUESTS.findall(self.kubectl("get", "--raw", "/metrics")):
            of = dict(_LABEL.findall(labels))
            if of.get("resource") in _OF_BAY and not of.get("subresource"):
                found[f"{of['verb']} {of['resource']}"] += round(float(value))
        found.subtract({name: count for name, count in self.puppets.counts().items() if name in found})
        return +found

    def event_bytes(self) -> float:
        """The mean size of a pod's event on a watch."""
        sizes = dict(_SENT.findall(self.kubectl("get", "--raw", "/metrics")))
        return float(sizes.get("sum", 0)) / max(1.0, float(sizes.get("count", 1)))

    def pods(self) -> list[str]:
        """The names of its pods."""
        listed = self.kubectl("get", "pods", "-l", f"bay.dev/install={self.install}", "-o", "name")
        return [line.removeprefix("pod/") for line in listed.split()]

    def used_s(self) -> float:
        """The processor time of the API server and etcd so far."""
        return sum(host.exact_cpu_s(int((self.state / "pid" / one).read_text())) for one in ("api", "etcd"))

    def delete(self, names: list[str]) -> None:
        """Delete pods as a stranger does."""
        for first in range(0, len(names), 250):
            self.kubectl("delete", "pod", "--wait=false", *names[first : first + 250])


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a Bay, read beside it: in a PostgreSQL database, or in the SQLite file."""

    url: str | None
    file: Path

    def sandboxes(self) -> Counter[str]:
        """How many owned sandboxes there are, by the phase of their session; `none` without one."""
        return Counter({phase or "none": count for phase, count in self._read(_PHASES)})

    def written(self) -> Counter[str]:
        """Rows that were inserted, changed and deleted, and transactions that were committed, so far. Only
        PostgreSQL counts them.
        """
        if self.url is None:
            return Counter()
        [(rows, commits)] = self._read(_WRITTEN)
        return Counter(rows=int(rows or 0), commits=int(commits))

    def fill(self, count: int) -> None:
        """Add so many stopped sandboxes, and some of other owners. No Bay may be running."""
        fill(self._place(), count)

    def _place(self, **options: str) -> URL:
        if self.url is not None:
            return make_url(self.url).set(drivername="postgresql+psycopg")
        name = f"file:{self.file}" if options else str(self.file)
        return URL.create("sqlite", database=name, query=options)

    def _read(self, query: str) -> list[Any]:
        engine = create_engine(self._place(mode="ro", uri="true"))
        with engine.connect() as connection:
            found = connection.exec_driver_sql(query).fetchall()
        engine.dispose()
        return list(found)


_PHASES = """
SELECT sessions.phase, count(*) FROM sandboxes
LEFT JOIN sessions ON sessions.sandbox_id = sandboxes.id AND sessions.ended_at IS NULL
WHERE sandboxes.deleted_at IS NULL AND sandboxes.pool IS NULL GROUP BY sessions.phase
"""
_WRITTEN = """
SELECT (SELECT sum(n_tup_ins + n_tup_upd + n_tup_del) FROM pg_stat_user_tables), xact_commit
FROM pg_stat_database WHERE datname = current_database()
"""


def writes(asked: Mapping[str, int]) -> int:
    """How many of them changed something."""
    return sum(count for name, count in asked.items() if name.partition(" ")[0] in WRITES)


def said(asked: Mapping[str, int]) -> str:
    """Them, in words."""
    return ", ".join(f"{count} {name}" for name, count in sorted(asked.items(), key=lambda one: -one[1]))
