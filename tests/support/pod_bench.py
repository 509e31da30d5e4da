"""A bench of the driver `kubernetes`: pods and claims of a real cluster, and the processes of its node."""

import json
import os
import secrets
import signal
from collections.abc import AsyncGenerator, Collection
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kube_cluster import NAMESPACE, Cluster
from server_harness import eventually

from bay.drivers.base import Handle, SessionSpec
from bay.drivers.kubernetes import pod
from bay.drivers.kubernetes.driver import KubernetesDriver
from bay.drivers.kubernetes.egress import EgressSettings
from bay.drivers.kubernetes.kube import KubeAccess
from bay.drivers.kubernetes.pod import PodSettings, PodTimeouts
from bay.models import NetworkPolicy, Resources
from bay.places import VolumeClaim
from bay.testing.driver_bench import TOKEN, DriverBench, run
from bay.units import MIB

_API_PORT = 6443

TIMEOUTS = PodTimeouts(start_s=30, settled_s=5, end_s=90)
"""The kubelet of the tests notices some deletions late, and lives."""


def driver_in(cluster: Cluster, install: str, **changes: Any) -> KubernetesDriver:
    """A driver with Bay's own rights."""
    given: dict[str, Any] = {
        "access": KubeAccess(
            kubeconfig=cluster.kubeconfig("bay"), context=None, namespace=NAMESPACE, timeout_s=15
        ),
        "pods": PodSettings(
            install=install, image="bay.test/box:1", ship_image="bay.test/ship:1", pull_policy="Never"
        ),
        "network": EgressSettings(enforced=False),
        "timeouts": TIMEOUTS,
    }
    driver = KubernetesDriver(**{**given, **changes})
    driver.use_tokens(_token_of)
    return driver


async def _token_of(_session_id: str) -> str:
    return TOKEN


@dataclass(frozen=True, slots=True)
class PodBench(DriverBench):
    """One open driver and its installation in a cluster."""

    cluster: Cluster | None = None

    def spec(self, **changes: Any) -> SessionSpec:
        """A session nobody has started, with a claim of its own."""
        session_id = f"sess-{secrets.token_hex(8)}"
        claim = f"bay-ws-{session_id[5:]}"
        self._cluster.create(_claim(claim, self.instance))
        self.started.append(session_id)
        given: dict[str, Any] = {
            "session_id": session_id,
            "sandbox_id": f"sandbox-{session_id[5:]}",
            "image": "host",
            "isolation": "container",
            "resources": Resources(memory=128 * MIB),
            "workspace": VolumeClaim(name=claim, read_write_once_pod=False),
            "token": TOKEN,
            "network": NetworkPolicy(),
        }
        return SessionSpec(**{**given, **changes})

    async def read(self, spec: SessionSpec, name: str) -> str:
        """By a session of its own on the same claim."""
        other = replace(spec, session_id=f"sess-{secrets.token_hex(8)}")
        self.started.append(other.session_id)
        handle = await self.start(other)
        try:
            return (await run(handle, f"cat {name}")).stdout
        finally:
            await self.driver.destroy(handle)

    async def touch(self, spec: SessionSpec, name: str) -> None:
        """By the node, which sees the files of each process."""
        Path("/proc", str(self._first(spec.session_id)), "root", "workspace", name).touch()

    async def kill_first(self, handle: Handle) -> None:
        """Among the processes of the node, which this one is in the namespace of."""
        os.kill(self._first(handle.session_id), signal.SIGKILL)

    async def traces(self) -> dict[str, object]:
        """The pods of the installation that Bay has not let go of, and their Ships."""
        pods = self._pods()
        kept = sorted(one["name"] for one in pods if one.get("finalizers"))
        return {"pods": kept, "ships": _ships({one["uid"] for one in pods})}

    async def ships(self) -> int:
        """How many of the installation run on the node."""
        return len(_ships({one["uid"] for one in self._pods()}))

    async def clear(self) -> None:
        """Destroy whatever a test left, and its claims."""
        for session_id in self.started:
            await self.driver.destroy(self.handle(session_id))
        self._cluster.kubectl("delete", "pvc", "-l", f"{pod.INSTALL}={self.instance}", "--wait=false")

    def _first(self, session_id: str) -> int:
        uid = self._cluster.get("pod", pod.pod_name(session_id))["metadata"]["uid"]
        [pid] = _ships({uid})
        return pid

    def _pods(self) -> list[dict[str, Any]]:
        """The metadata of each pod of the installation."""
        listed = self._cluster.kubectl("get", "pods", "-l", f"{pod.INSTALL}={self.instance}", "-o", "json")
        return [one["metadata"] for one in json.loads(listed)["items"]]

    @property
    def _cluster(self) -> Cluster:
        assert self.cluster is not None
        return self.cluster


async def opened_bench(cluster: Cluster, **changes: Any) -> AsyncGenerator[PodBench]:
    """A bench with an installation of its own, of which nothing is left at the end."""
    install = changes["pods"].install if "pods" in changes else f"test-{secrets.token_hex(4)}"
    driver = driver_in(cluster, install, **changes)
    await driver.open()
    bench = PodBench(driver, workspaces=Path(), kept=(), instance=install, cluster=cluster)
    try:
        yield bench
    finally:
        await bench.clear()
        await driver.aclose()
        await _disconnected()


def _claim(name: str, install: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "labels": {pod.INSTALL: install}},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "16Mi"}}},
    }


def _ships(uids: Collection[str]) -> list[int]:
    """The first processes of the sandboxes that these pods are."""
    found: list[int] = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            command = Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0")
            mounts = Path(f"/proc/{name}/mountinfo").read_text()
        except OSError:
            continue
        if command[-3:] == [b"-m", b"ship", b""] and any(uid in mounts for uid in uids):
            found.append(int(name))
    return sorted(found)


async def _disconnected() -> None:
    """Return once this process has no connection to the API server. TLS says goodbye for a moment, and a loop
    that is closed meanwhile leaves the transport open.
    """

    async def are_gone() -> bool:
        return not _inodes_of_connections() & _inodes_of_descriptors()

    await eventually(are_gone)


def _inodes_of_connections() -> set[str]:
    rows = [line.split() for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]]
    return {row[9] for row in rows if row[2].endswith(f":{_API_PORT:04X}")}


def _inodes_of_descriptors() -> set[str]:
    links: set[str] = set()
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            links.add(os.readlink(f"/proc/self/fd/{name}"))
    return {link.removeprefix("socket:[").removesuffix("]") for link in links if link.startswith("socket:[")}
