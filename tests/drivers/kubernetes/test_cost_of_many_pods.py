"""The requests that thousands of pods cost when a Bay starts and while they rest: none for each pod.

Counted, and not timed. A request for each pod is what made a start of Bay grow with them, and two a minute
for each what made a Bay busy that had nothing to do.
"""

import asyncio
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from kube_server import WAIT_S, KubeServer, Said, pod
from server_harness import until

from bay.drivers.base import Endpoint, Exited, Handle, Running
from bay.drivers.kubernetes import carriers
from bay.drivers.kubernetes.carriers import CarrierPods
from bay.drivers.kubernetes.driver import KubernetesDriver
from bay.drivers.kubernetes.egress import EgressSettings
from bay.drivers.kubernetes.kube import KubeAccess
from bay.drivers.kubernetes.pod import INSTALL, ROLE, SANDBOX, SESSION, PodSettings, PodTimeouts

pytestmark = [pytest.mark.kubernetes, pytest.mark.anyio]

NODES = 3
LOOK_S = 0.05
"""The settled time of the driver, in which it looks at each node once."""


class Cluster(KubeServer):
    """A server that has nodes too, and says yes to all that a driver asks for at its start."""

    gone: str | None = None
    """The node that an operator has deleted."""

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.method == "POST":
            body = await request.read()
            return web.json_response({**json.loads(body), "status": {"allowed": True}}, status=201)
        if request.path.startswith("/api/v1/nodes/") and request.path[14:] != self.gone:
            await super().handle(request)
            return web.json_response(node(request.path[14:]))
        name = request.path.rpartition("/pods/")[2]
        if name in self.pods:
            await super().handle(request)
            return web.json_response(self.pods[name])
        return await super().handle(request)

    def requests(self, *, of_nodes: bool) -> int:
        """How many requests came that read nodes, or anything else but the watch and the version."""
        seen = [one for one in self.seen if "watch" not in one.query and one.path != "/version"]
        return sum(one.path.startswith("/api/v1/nodes/") == of_nodes for one in seen)


def node(name: str) -> dict[str, Any]:
    ready = {"type": "Ready", "status": "True", "lastTransitionTime": "2030-01-01T00:00:00Z"}
    return {"kind": "Node", "metadata": {"name": name}, "spec": {}, "status": {"conditions": [ready]}}


def running_pod(number: int) -> dict[str, Any]:
    labels = {"app.kubernetes.io/managed-by": "bay", INSTALL: "here"}
    name = f"bay-sess-{number:024}"
    made = pod(
        name, 1000 + number, spec={"nodeName": f"node-{number % NODES}", "containers": [{"name": "sandbox"}]}
    )
    made["metadata"] |= {
        "labels": labels,
        "annotations": {SESSION: name[4:], SANDBOX: f"sandbox-{number:024}"},
        "finalizers": ["bay.dev/fence"],
    }
    made["status"] = {
        "phase": "Running",
        "podIP": f"10.0.{number // 250}.{number % 250}",
        "conditions": [{"type": "Ready", "status": "True"}],
        "containerStatuses": [{"name": "sandbox", "state": {"running": {}}}],
    }
    return made


def handle_of(number: int) -> Handle:
    place = Endpoint(address=f"10.0.{number // 250}.{number % 250}:8124", certificate="c")
    return Handle(driver="kubernetes", session_id=f"sess-{number:024}", endpoint=place)


@pytest.fixture
async def server() -> AsyncGenerator[Cluster]:
    made = Cluster()
    try:
        await made.listen()
        yield made
    finally:
        await made.aclose()


@pytest.fixture
async def driver(server: Cluster, tmp_path: Path) -> AsyncGenerator[KubernetesDriver]:
    made = KubernetesDriver(
        access=KubeAccess(kubeconfig=server.kubeconfig(tmp_path), timeout_s=20),
        pods=PodSettings(install="here", image="i", ship_image="s"),
        network=EgressSettings(enforced=False),
        timeouts=PodTimeouts(settled_s=LOOK_S),
    )
    yield made
    await made.aclose()


async def test_a_carrier_that_another_bay_left_and_that_has_ended_is_owned_by_nobody(
    server: Cluster, driver: KubernetesDriver
) -> None:
    """The list has no states, which the watch has."""
    driver.carriers = CarrierPods(driver, is_alone=False)
    for number, phase in enumerate(("Running", "Failed")):
        made = running_pod(number)
        made["metadata"]["labels"] |= {ROLE: carriers.ROLE}
        made["status"] |= {"phase": phase}
        server.pods[made["metadata"]["name"]] = made
    await driver.open()
    assert [one.session_id async for one in driver.list_owned()] == [handle_of(1).session_id]


async def cost_of_a_start(server: Cluster, driver: KubernetesDriver, count: int) -> int:
    """The requests that a Bay makes which takes over so many sessions, until it has waited for all of them
    and looked at each node twice.
    """
    for number in range(count):
        made = running_pod(number)
        server.pods[made["metadata"]["name"]] = made
    await driver.open()
    handles = [handle_of(number) for number in range(count)]
    assert all(driver.running(one) == Running(one.endpoint) for one in handles if one.endpoint)
    waits = [asyncio.create_task(driver.wait(one)) for one in handles]
    assert len([one async for one in driver.list_owned()]) == count
    await until(lambda: server.requests(of_nodes=True) >= 2 * NODES)
    assert not any(one.done() for one in waits)
    for one in waits:
        one.cancel()
    await asyncio.wait(waits)
    return server.requests(of_nodes=False)


@pytest.mark.parametrize("count", [6, 400])
async def test_a_start_of_bay_costs_the_same_requests_for_few_pods_and_for_many(
    server: Cluster, driver: KubernetesDriver, count: int
) -> None:
    """They are a list of pods for the watch, and one of metadata for what no row knows."""
    assert await cost_of_a_start(server, driver, count) == 2
    assert server.count("list") == server.count("metadata") == 1


async def test_pages_are_all_that_grows(server: Cluster, driver: KubernetesDriver) -> None:
    server.page = 50
    assert await cost_of_a_start(server, driver, 400) == 2 * 400 // 50


async def test_a_node_that_its_operator_deleted_ends_its_sessions_and_no_others(
    server: Cluster, driver: KubernetesDriver
) -> None:
    for number in range(2 * NODES):
        made = running_pod(number)
        server.pods[made["metadata"]["name"]] = made
    server.always("other", Said(404, {"kind": "Status", "reason": "NotFound", "details": {"name": "node-1"}}))
    await driver.open()
    waits = [asyncio.create_task(driver.wait(handle_of(number))) for number in range(2 * NODES)]
    server.gone = "node-1"
    async with asyncio.timeout(WAIT_S):
        assert await waits[1] == await waits[1 + NODES] == Exited(None)
    assert [one.done() for one in waits] == [number % NODES == 1 for number in range(2 * NODES)]
    assert driver.running(handle_of(1)) is None
    for one in waits:
        one.cancel()
    await asyncio.wait(waits)


async def test_of_a_pod_that_may_have_ended_the_watch_gives_no_word(
    server: Cluster, driver: KubernetesDriver
) -> None:
    deleted, failed, silent = running_pod(0), running_pod(1), running_pod(2)
    deleted["metadata"]["deletionTimestamp"] = "2030-01-01T00:00:00Z"
    failed["status"]["phase"] = "Failed"
    silent["status"]["conditions"] = [{"type": "Ready", "status": "False"}]
    for made in (deleted, failed, silent):
        server.pods[made["metadata"]["name"]] = made
    await driver.open()
    assert [driver.running(handle_of(number)) for number in range(4)] == [None] * 4
