"""A pod that the API server makes of a create which Bay has given up is removed again."""

import asyncio
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from kube_server import KubeServer, cut

from bay.drivers.base import Handle, SessionSpec
from bay.drivers.kubernetes.driver import KubernetesDriver
from bay.drivers.kubernetes.egress import EgressSettings
from bay.drivers.kubernetes.kube import KubeAccess
from bay.drivers.kubernetes.pod import PodSettings
from bay.errors import DriverUnavailable
from bay.models import NetworkPolicy, Resources
from bay.places import VolumeClaim

pytestmark = [pytest.mark.kubernetes, pytest.mark.anyio]

WAIT_S = 20.0


class SlowServer(KubeServer):
    """One that takes a create of a pod, says nothing, and commits it when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: list[dict[str, Any]] = []
        self.removed = asyncio.Event()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        name = request.path.rpartition("/")[2]
        if request.method == "POST" and name == "pods":
            self.taken.append(json.loads(await request.read()))
            await cut(request)
        elif request.method == "POST":
            return web.json_response({"metadata": {"name": "any"}, "status": {"allowed": True}}, status=201)
        elif name in self.pods:
            return web.json_response(self._changed(request.method, name))
        return await super().handle(request)

    def commit(self, session_id: str) -> dict[str, Any]:
        """Make the pod of the session's last create."""
        found = [one["metadata"] for one in self.taken if one["metadata"]["name"] == f"bay-{session_id}"]
        self.version += 1
        metadata = {**found[-1], "uid": f"uid-{session_id}", "resourceVersion": str(self.version)}
        return self.put(f"bay-{session_id}", metadata=metadata)

    def _changed(self, method: str, name: str) -> dict[str, Any]:
        found = self.pods[name]
        if method == "DELETE":
            found["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        elif method == "PATCH":  # the finalizer goes, and the object with it
            del self.pods[name]
            self.removed.set()
        return found


@pytest.fixture
async def server() -> AsyncGenerator[SlowServer]:
    made = SlowServer()
    await made.listen()
    yield made
    await made.aclose()


@pytest.fixture
async def driver(server: SlowServer, tmp_path: Path) -> AsyncGenerator[KubernetesDriver]:
    made = KubernetesDriver(
        access=KubeAccess(kubeconfig=server.kubeconfig(tmp_path), timeout_s=WAIT_S),
        pods=PodSettings(install="i", image="box:1", ship_image="ship:1"),
        network=EgressSettings(enforced=False),
    )
    async with asyncio.timeout(WAIT_S):
        await made.open()
    yield made
    await made.aclose()


def spec(session_id: str) -> SessionSpec:
    return SessionSpec(
        session_id=session_id,
        sandbox_id="sandbox-1",
        image="host",
        isolation="container",
        resources=Resources(),
        workspace=VolumeClaim(name="claim", read_write_once_pod=False),
        token="a-token",
        network=NetworkPolicy(),
    )


async def begin(driver: KubernetesDriver, session_id: str) -> None:
    with pytest.raises(DriverUnavailable):
        await anext(driver.start(spec(session_id), None))


async def give_up(driver: KubernetesDriver, session_id: str) -> None:
    await begin(driver, session_id)
    await driver.destroy(Handle(driver="kubernetes", session_id=session_id))


async def test_a_pod_that_comes_after_its_start_was_given_up_is_removed(
    driver: KubernetesDriver, server: SlowServer
) -> None:
    watch = await server.watch()
    await give_up(driver, "sess-1")
    await watch.send("ADDED", server.commit("sess-1"))
    async with asyncio.timeout(WAIT_S):
        await server.removed.wait()
    assert server.pods == {}


async def test_a_pod_that_is_wanted_stays(driver: KubernetesDriver, server: SlowServer) -> None:
    watch = await server.watch()
    await begin(driver, "sess-1")  # and it is tried again
    await give_up(driver, "sess-2")
    await begin(driver, "sess-2")
    await give_up(driver, "sess-3")
    for session_id in ("sess-1", "sess-2", "sess-3"):
        await watch.send("ADDED", server.commit(session_id))
    async with asyncio.timeout(WAIT_S):
        await server.removed.wait()
    assert server.pods.keys() == {"bay-sess-1", "bay-sess-2"}
    assert not any("deletionTimestamp" in one["metadata"] for one in server.pods.values())
