"""Puppet kubelets: the nodes of a real API server whose pods are told to run, and of which none does.

`python -m bench.puppets.kubelet STATE --nodes N` is a process of its own, inside of a cluster that
`scripts/kubernetes/up --no-kubelet STATE` has started. It registers its nodes and renews their leases, binds
pods to them as a scheduler does, reports them as running at an address of their own, and reports the end of
those that are deleted. So it writes to the API server what a scheduler and a kubelet write for each pod, but
for their Events. `PuppetKubelet` starts it, and tells it what goes wrong.
"""

import argparse
import asyncio
import base64
import json
import ssl
import subprocess
import sys
from collections import Counter, deque
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import aiohttp

from bench.puppets.ship import PuppetShips

NAMESPACE = "bay-sandboxes"
PODS_PER_NODE = 110
SHIP_PORT = 8124
NETWORK = IPv4Network("10.230.0.0/15")

_WORKERS = 24
_CONNECTIONS = 48
_LEASE_S = 4.0
_SECOND_CHANCE_S = 0.5
_MERGE = "application/merge-patch+json"
_OPEN = "application/json"

Json = dict[str, Any]


class PuppetKubelet:
    """The process, seen from a benchmark or a test. Methods block."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def counts(self) -> dict[str, int]:
        """The requests of each sort that it has made so far, such as `PATCH pods/status`, and `running`: how
        many pods run.
        """
        return self._tell("counts")

    def lose(self, node: str) -> None:
        """The node is cut off: it renews no lease, and reports nothing of its pods, which still answer."""
        self._tell("lose", node)

    def find(self, node: str) -> None:
        """It is back."""
        self._tell("find", node)

    def evict(self, pod: str) -> None:
        """The kubelet ends a pod for want of memory, and reports that its containers ended."""
        self._tell("evict", pod)

    def hold(self) -> None:
        """No end of a pod is reported from now on."""
        self._tell("hold")

    def let_go(self) -> None:
        """The ends are reported, those of the time of `hold` as well."""
        self._tell("let_go")

    def _tell(self, *words: str) -> Any:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps(words) + "\n")
        stdin.flush()
        line = stdout.readline()
        if not line:
            raise ConnectionResetError("the puppet kubelet has ended")
        return json.loads(line)


@contextmanager
def puppet_kubelet(state: Path, nodes: int) -> Generator[PuppetKubelet]:
    """Puppets for the block, once their nodes are Ready. `state` is the folder of the cluster, which the
    caller is inside of.
    """
    # All addresses of the network are this host's: one socket has them all.
    subprocess.run(["ip", "route", "replace", "local", str(NETWORK), "dev", "lo"], check=True, timeout=10)
    command = [sys.executable, "-m", "bench.puppets.kubelet", str(state), "--nodes", str(nodes)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise ConnectionResetError("the puppet kubelet did not start")
            yield PuppetKubelet(process)
        finally:
            process.terminate()


class _Api:
    """Requests to the API server, which counts those that it is asked."""

    def __init__(self, kubeconfig: Path) -> None:
        found = json.loads(kubeconfig.read_text())
        cluster, user = found["clusters"][0]["cluster"], found["users"][0]["user"]
        self._tls = ssl.create_default_context(cadata=_pem(cluster["certificate-authority-data"]))
        self._url = cluster["server"]
        self._headers = {"Authorization": f"Bearer {user['token']}"}
        self._session: aiohttp.ClientSession | None = None
        self.counts: Counter[str] = Counter()

    async def open(self) -> None:
        connector = aiohttp.TCPConnector(limit=_CONNECTIONS, ssl=self._tls)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
        self._session = aiohttp.ClientSession(connector=connector, headers=self._headers, timeout=timeout)

    async def ask(
        self, method: str, path: str, sort: str, body: Json | None = None, kind: str = _OPEN
    ) -> int:
        """The status of an answer, after as many attempts as a busy server wants."""
        assert self._session is not None
        data = None if body is None else json.dumps(body)
        while True:
            self.counts[f"{method} {sort}"] += 1
            try:
                async with self._session.request(
                    method, self._url + path, data=data, headers={"Content-Type": kind}
                ) as answer:
                    await answer.read()
                    if answer.status not in (429, 500, 503, 504):
                        return answer.status
            except (aiohttp.ClientError, OSError):
                pass
            await asyncio.sleep(_SECOND_CHANCE_S)

    async def list(self, path: str) -> Json:
        assert self._session is not None
        async with self._session.get(self._url + path) as answer:
            answer.raise_for_status()
            return json.loads(await answer.read())

    async def watch(self, path: str) -> aiohttp.ClientResponse:
        assert self._session is not None
        return await self._session.get(self._url + path)


class _Nodes:
    """Which pods each node has, by name."""

    def __init__(self, count: int) -> None:
        self.names = [f"puppet-{number:04}" for number in range(1, count + 1)]
        self.pods: dict[str, set[str]] = {name: set() for name in self.names}
        self.lost: set[str] = set()

    def choose(self) -> str | None:
        """A node with room: the one that has least."""
        found = min(
            (n for n in self.names if n not in self.lost), key=lambda n: len(self.pods[n]), default=None
        )
        return found if found is not None and len(self.pods[found]) < PODS_PER_NODE else None


class _Kubelets:
    """All puppets. `_pods` has each pod as the watch told it last."""

    def __init__(self, api: _Api, nodes: _Nodes, ships: PuppetShips) -> None:
        self._api = api
        self._nodes = nodes
        self._ships = ships
        self._pods: dict[str, Json] = {}
        self._todo: asyncio.Queue[str] = asyncio.Queue()
        self._queued: set[str] = set()
        self._again: set[str] = set()
        self._busy: set[str] = set()
        self._bound: dict[str, str] = {}
        """The node of each pod that was bound, by its uid, also before the watch tells so."""
        self._addresses: dict[str, str] = {}
        """Of each pod that runs, by uid."""
        self._free = deque(range(256, NETWORK.num_addresses - 256))
        self._evicted: set[str] = set()
        self._over: set[str] = set()
        """The uids of pods whose end was reported."""
        self._held = False

    async def register(self) -> None:
        for name in self._nodes.names:
            await self._api.ask("POST", "/api/v1/nodes", "nodes", _node(name))
            await self._api.ask(
                "PATCH", f"/api/v1/nodes/{name}/status", "nodes/status", _node_status(), _MERGE
            )
            await self._api.ask("POST", _LEASES, "leases", _lease(name))

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._renew())
            group.create_task(self._follow())
            for _ in range(_WORKERS):
                group.create_task(self._work())

    def counts(self) -> dict[str, int]:
        return {**self._api.counts, "running": len(self._addresses)}

    def lose(self, node: str) -> None:
        self._nodes.lost.add(node)

    def find(self, node: str) -> None:
        self._nodes.lost.discard(node)
        self._look_at_all()

    def evict(self, pod: str) -> None:
        self._evicted.add(self._pods[pod]["metadata"]["uid"])
        self._put(pod)

    def hold(self) -> None:
        self._held = True

    def let_go(self) -> None:
        self._held = False
        self._look_at_all()

    def _look_at_all(self) -> None:
        for name in self._pods:
            self._put(name)

    async def _renew(self) -> None:
        while True:
            began = asyncio.get_running_loop().time()
            for name in self._nodes.names:
                if name not in self._nodes.lost:
                    renewed = {"spec": {"renewTime": _micro()}}
                    await self._api.ask("PATCH", f"{_LEASES}/{name}", "leases", renewed, _MERGE)
            took_s = asyncio.get_running_loop().time() - began
            await asyncio.sleep(max(0.0, _LEASE_S - took_s))

    async def _follow(self) -> None:
        while True:
            found = await self._api.list(f"{_PODS}?limit=0")
            known = {one["metadata"]["name"]: one for one in found["items"]}
            for name in set(self._pods) - set(known):
                self._forget(name)
            self._pods = known
            self._look_at_all()
            since = found["metadata"]["resourceVersion"]
            try:
                async with await self._api.watch(f"{_PODS}?watch=1&resourceVersion={since}") as stream:
                    await self._hear(stream)
            except (aiohttp.ClientError, OSError, ValueError) as error:
                print(f"puppet kubelet: the watch broke: {error!r}", file=sys.stderr)
                await asyncio.sleep(_SECOND_CHANCE_S)

    async def _hear(self, stream: aiohttp.ClientResponse) -> None:
        rest = b""
        async for chunk in stream.content.iter_any():
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                event = json.loads(line)
                if event["type"] == "ERROR":
                    return
                name = event["object"]["metadata"]["name"]
                if event["type"] == "DELETED":
                    self._forget(name)
                else:
                    self._pods[name] = event["object"]
                    self._put(name)

    def _put(self, name: str) -> None:
        if name in self._busy:
            self._again.add(name)
        elif name not in self._queued:
            self._queued.add(name)
            self._todo.put_nowait(name)

    async def _work(self) -> None:
        while True:
            name = await self._todo.get()
            self._queued.discard(name)
            self._busy.add(name)
            try:
                if (pod := self._pods.get(name)) is not None:
                    await self._look(name, pod)
            finally:
                self._busy.discard(name)
                if name in self._again:
                    self._again.discard(name)
                    self._put(name)

    async def _look(self, name: str, pod: Json) -> None:
        uid, status = pod["metadata"]["uid"], pod.get("status", {})
        is_deleted = "deletionTimestamp" in pod["metadata"]
        node = pod["spec"].get("nodeName") or self._bound.get(uid)
        if node in self._nodes.lost or uid in self._over:
            return
        if node is None:
            if not is_deleted and (chosen := self._nodes.choose()) is not None:
                await self._bind(name, uid, chosen)
            return
        if node not in self._nodes.pods or "nodeName" not in pod["spec"]:
            return
        if is_deleted and not self._held:
            await self._end(name, pod, {})
            await self._api.ask("DELETE", f"{_PODS}/{name}", "pods", _now_and_only(uid))
        elif uid in self._evicted:
            await self._end(name, pod, {"phase": "Failed", "reason": "Evicted", "message": "low on memory"})
        elif status.get("phase") == "Pending" and uid not in self._addresses and not is_deleted:
            await self._begin(name, pod, node)

    async def _bind(self, name: str, uid: str, node: str) -> None:
        self._nodes.pods[node].add(name)
        self._bound[uid] = node
        target = {"apiVersion": "v1", "kind": "Node", "name": node}
        binding = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": name, "uid": uid},
            "target": target,
        }
        if await self._api.ask("POST", f"{_PODS}/{name}/binding", "pods/binding", binding) >= 400:
            self._nodes.pods[node].discard(name)
            del self._bound[uid]

    async def _begin(self, name: str, pod: Json, node: str) -> None:
        uid = pod["metadata"]["uid"]
        self._nodes.pods[node].add(name)
        self._bound[uid] = node
        address = self._addresses[uid] = str(NETWORK[self._free.popleft()])
        given = {one["name"]: one.get("value", "") for one in pod["spec"]["containers"][0]["env"]}
        self._ships.begin(address, given["SHIP_BOOTSTRAP_TOKEN"])
        path = f"{_PODS}/{name}/status"
        await self._api.ask("PATCH", path, "pods/status", {"status": _running(pod, address)}, _MERGE)

    async def _end(self, name: str, pod: Json, told: Json) -> None:
        uid = pod["metadata"]["uid"]
        self._over.add(uid)
        self._let_ship_go(uid)
        ended = {"status": {**told, "containerStatuses": [_ended(one) for one in pod["spec"]["containers"]]}}
        await self._api.ask("PATCH", f"{_PODS}/{name}/status", "pods/status", ended, _MERGE)

    def _let_ship_go(self, uid: str) -> None:
        if (address := self._addresses.pop(uid, None)) is not None:
            self._ships.end(address)
            self._free.append(int(IPv4Address(address)) - int(NETWORK[0]))

    def _forget(self, name: str) -> None:
        """The object is gone; a container of it that never ended is as a kubelet leaves it that came back."""
        if (pod := self._pods.pop(name, None)) is None:
            return
        uid = pod["metadata"]["uid"]
        self._let_ship_go(uid)
        node = self._bound.pop(uid, None)
        for known in (self._over, self._evicted):
            known.discard(uid)
        if node is not None:
            was_full = len(self._nodes.pods[node]) >= PODS_PER_NODE
            self._nodes.pods[node].discard(name)
            if was_full:
                self._look_at_unbound()

    def _look_at_unbound(self) -> None:
        for name, pod in self._pods.items():
            if "nodeName" not in pod["spec"]:
                self._put(name)
                return


_PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
_LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"


def _pem(data: str) -> str:
    return base64.b64decode(data).decode()


def _node(name: str) -> Json:
    labels = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "bay.test/puppet": "true"}
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}


def _node_status() -> Json:
    room = {"cpu": "64", "memory": "512Gi", "pods": str(PODS_PER_NODE), "ephemeral-storage": "1Ti"}
    now = _now()
    ready = {
        "type": "Ready", "status": "True", "reason": "KubeletReady", "message": "a puppet",
        "lastHeartbeatTime": now, "lastTransitionTime": now,
    }  # fmt: skip
    return {"status": {"capacity": room, "allocatable": room, "conditions": [ready]}}


def _lease(name: str) -> Json:
    spec = {"holderIdentity": name, "leaseDurationSeconds": 8, "renewTime": _micro()}
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": name},
        "spec": spec,
    }


def _running(pod: Json, address: str) -> Json:
    """The status of a pod whose containers run, as long as a kubelet's own."""
    now = _now()
    kept = [one for one in pod["status"].get("conditions", []) if one["type"] == "PodScheduled"]
    conditions = [
        {"type": kind, "status": "True", "lastProbeTime": None, "lastTransitionTime": now}
        for kind in ("Initialized", "Ready", "ContainersReady")
    ]
    completed = {"exitCode": 0, "reason": "Completed", "startedAt": now, "finishedAt": now}
    return {
        "phase": "Running", "hostIP": "10.221.0.1", "podIP": address, "podIPs": [{"ip": address}],
        "startTime": now, "qosClass": "Burstable", "conditions": [*conditions, *kept],
        "initContainerStatuses": [
            _container(one, {"terminated": completed}) for one in pod["spec"].get("initContainers", [])
        ],
        "containerStatuses": [
            _container(one, {"running": {"startedAt": now}}) for one in pod["spec"]["containers"]
        ],
    }  # fmt: skip


def _ended(container: Json) -> Json:
    now = _now()
    return _container(
        container,
        {"terminated": {"exitCode": 0, "reason": "Completed", "startedAt": now, "finishedAt": now}},
    )


def _container(container: Json, state: Json) -> Json:
    digest = "0" * 64
    return {
        "name": container["name"], "image": container["image"], "imageID": f"sha256:{digest}",
        "containerID": f"containerd://{digest}", "ready": "running" in state, "started": "running" in state,
        "restartCount": 0, "lastState": {}, "state": state,
    }  # fmt: skip


def _now_and_only(uid: str) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "DeleteOptions",
        "gracePeriodSeconds": 0,
        "preconditions": {"uid": uid},
    }


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _micro() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


async def _main(state: Path, nodes: int) -> None:
    api, ships = _Api(state / "kubeconfig/puppets"), PuppetShips()
    await api.open()
    await ships.listen(SHIP_PORT)
    kubelets = _Kubelets(api, _Nodes(nodes), ships)
    await kubelets.register()
    async with asyncio.TaskGroup() as group:
        group.create_task(kubelets.run())
        group.create_task(_obey(kubelets))


async def _obey(kubelets: _Kubelets) -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    print("ready", flush=True)
    async for line in reader:
        act, *words = json.loads(line)
        print(json.dumps(getattr(kubelets, act)(*words)), flush=True)
    raise SystemExit(0)  # whoever started it is gone


def main() -> None:
    """The process."""
    parser = argparse.ArgumentParser(prog="python -m bench.puppets.kubelet")
    parser.add_argument("state", type=Path)
    parser.add_argument("--nodes", type=int, default=3)
    options = parser.parse_args()
    asyncio.run(_main(options.state, options.nodes))


if __name__ == "__main__":
    main()
