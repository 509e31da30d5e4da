"""Carriers of a driver that is none: when one may begin, and that none is left."""

import asyncio
import copy
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from bay.drivers.base import Endpoint, Handle, SessionSpec
from bay.drivers.kubernetes import carriers, pod
from bay.drivers.kubernetes.carriers import CarrierPods, carrier_id
from bay.drivers.kubernetes.kube import Json, Kind, Kube
from bay.drivers.kubernetes.pod import PodSettings
from bay.drivers.kubernetes.pod_watch import PodState, pod_state
from bay.errors import Conflict, DriverUnavailable, SandboxNotReady
from bay.ids import new_id
from bay.models import Resources
from bay.places import VolumeClaim
from bay.units import MIB

pytestmark = [pytest.mark.anyio, pytest.mark.pure]

SETTINGS = PodSettings(install="home", image="box:1", ship_image="ship:1", machine="x86_64")
ENDPOINT = Endpoint(address="192.0.2.1:8124", certificate="0" * 64)


def built(session_id: str, claim: VolumeClaim) -> Json:
    """The pod of a session."""
    spec = SessionSpec(
        session_id=session_id, sandbox_id="sandbox-1", image="host", isolation="container",
        resources=Resources(memory=512 * MIB), workspace=claim, token="t" * 32,
    )  # fmt: skip
    return pod.build(spec, SETTINGS, {})


class Pods:
    """The part of a driver that carriers need, and of its API server."""

    name = "kubernetes"

    def __init__(self) -> None:
        self.watched: list[Json] = []
        self.there: dict[str, Json] = {}
        self.calls: list[str] = []
        self.fails: set[str] = set()
        self.goes_on = asyncio.Event()
        self.goes_on.set()

    @property
    def kube(self) -> Kube:
        return cast("Kube", self)

    async def get(self, _kind: Kind, name: str) -> Json | None:
        return self.there.get(name)

    def pods(self) -> list[PodState]:
        return [pod_state(one) for one in self.watched]

    async def start(self, spec: SessionSpec, handle: Handle | None) -> AsyncIterator[Handle]:
        assert handle is None
        self.calls.append("start")
        assert spec.network.mode == "open"
        yield Handle(driver=self.name, session_id=spec.session_id)
        if "start" in self.fails:
            raise SandboxNotReady("no node takes the pod")
        yield Handle(driver=self.name, session_id=spec.session_id, endpoint=ENDPOINT)

    async def destroy(self, handle: Handle) -> None:
        assert handle.session_id.startswith("carrier-")
        self.calls.append("destroy")
        await self.goes_on.wait()
        if "destroy" in self.fails and "start" in self.calls:
            raise DriverUnavailable("node node1 does not answer")


@pytest.fixture
def pods() -> Pods:
    return Pods()


@pytest.fixture
def cargo_id() -> str:
    return new_id("ws")


@pytest.fixture
def claim(cargo_id: str) -> VolumeClaim:
    return VolumeClaim(name=f"bay-{cargo_id}", read_write_once_pod=True)


def test_a_carrier_has_the_whole_claim_no_network_and_an_hour(claim: VolumeClaim, cargo_id: str) -> None:
    session = built(carrier_id(cargo_id), claim)
    before = copy.deepcopy(session)
    made = carriers.manifest(session)
    assert session == before
    assert made["metadata"]["labels"] == {
        **before["metadata"]["labels"], "bay.dev/role": "carrier", "bay.dev/egress": "none",
    }  # fmt: skip
    assert made["metadata"]["finalizers"] == ["bay.dev/fence"]
    assert made["spec"]["activeDeadlineSeconds"] == 3600
    [container], [other] = made["spec"]["containers"], before["spec"]["containers"]
    mounts = {one["mountPath"]: one for one in container["volumeMounts"]}
    assert mounts["/workspace"] == {"name": "workspace", "mountPath": "/workspace"}
    assert container["resources"]["requests"]["memory"] == "64Mi"
    assert container["resources"]["limits"] == other["resources"]["limits"]
    assert container["securityContext"] == other["securityContext"]
    assert made["spec"]["securityContext"] == before["spec"]["securityContext"]


async def test_what_an_earlier_bay_left_is_removed_first_and_nothing_is_left(
    pods: Pods, claim: VolumeClaim, cargo_id: str
) -> None:
    made = CarrierPods(pods, is_alone=True)
    async with made.open(cargo_id, claim) as carrying:
        assert (carrying.endpoint, len(carrying.token) >= 32) == (ENDPOINT, True)
        assert pods.calls == ["destroy", "start"]
        await made.clear(cargo_id)  # a fence beside a carrier of this Bay
        assert pods.calls == ["destroy", "start"]
    assert pods.calls == ["destroy", "start", "destroy"]
    await made.clear(cargo_id)
    assert pods.calls[3:] == ["destroy"]


async def test_one_that_does_not_start_is_removed_as_well(
    pods: Pods, claim: VolumeClaim, cargo_id: str
) -> None:
    pods.fails = {"start"}
    with pytest.raises(SandboxNotReady, match="no node"):
        async with CarrierPods(pods, is_alone=True).open(cargo_id, claim):
            raise AssertionError
    assert pods.calls == ["destroy", "start", "destroy"]


async def test_of_one_cargo_there_is_one_at_a_time(pods: Pods, claim: VolumeClaim, cargo_id: str) -> None:
    made = CarrierPods(pods, is_alone=True)
    second_began = asyncio.Event()

    async def second() -> None:
        async with made.open(cargo_id, claim):
            second_began.set()

    async with made.open(cargo_id, claim):
        waiting = asyncio.create_task(second())
        other = new_id("ws")
        async with made.open(other, VolumeClaim(name=f"bay-{other}", read_write_once_pod=True)):
            assert not second_began.is_set()
    await waiting
    assert second_began.is_set()


@pytest.mark.parametrize("place", ["workspace", "volume"])
async def test_none_begins_while_a_session_has_the_claim(
    pods: Pods, claim: VolumeClaim, cargo_id: str, place: str
) -> None:
    user = built("sess-1", claim)
    if place == "volume":
        other = VolumeClaim(name="bay-ws-other", read_write_once_pod=True)
        user = built("sess-1", other)
        user["spec"]["volumes"].append(
            {"name": "volume-0", "persistentVolumeClaim": {"claimName": claim.name}}
        )
    pods.watched, pods.there = [user], {"bay-sess-1": user}
    with pytest.raises(Conflict, match=r"in use by sandbox-1, .* stop that sandbox") as refused:
        async with CarrierPods(pods, is_alone=True).open(cargo_id, claim):
            raise AssertionError
    assert refused.value.details == {"active_sandbox_ids": ["sandbox-1"]}
    assert pods.calls == []


@pytest.mark.parametrize("left", ["nothing", "a released object"])
async def test_a_watch_that_lags_behind_an_end_keeps_none_from_beginning(
    pods: Pods, claim: VolumeClaim, cargo_id: str, left: str
) -> None:
    user = built("sess-1", claim)
    pods.watched = [user]
    if left == "a released object":
        ended = copy.deepcopy(user)
        ended["metadata"] |= {"finalizers": [], "deletionTimestamp": "2026-11-30T00:00:00Z"}
        pods.there = {"bay-sess-1": ended}
    async with CarrierPods(pods, is_alone=True).open(cargo_id, claim) as carrying:
        assert carrying.endpoint == ENDPOINT


async def test_one_that_cannot_be_removed_takes_nothing_from_what_it_did_and_stays_an_orphan(
    pods: Pods, claim: VolumeClaim, cargo_id: str
) -> None:
    made = CarrierPods(pods, is_alone=True)
    state = pod_state(carriers.manifest(built(carrier_id(cargo_id), claim)))
    pods.fails = {"destroy"}
    async with made.open(cargo_id, claim):
        assert not made.is_orphan(state)
    assert made.is_orphan(state)
    with pytest.raises(DriverUnavailable, match="node1"):  # so that no session starts beside it
        await made.clear(cargo_id)


async def test_beside_other_bays_one_is_an_orphan_once_it_is_over(claim: VolumeClaim, pods: Pods) -> None:
    made = CarrierPods(pods, is_alone=False)
    manifest: dict[str, Any] = carriers.manifest(built("carrier-1", claim))
    assert not made.is_orphan(pod_state(manifest))
    manifest["status"] = {"phase": "Failed", "reason": "DeadlineExceeded"}
    assert made.is_orphan(pod_state(manifest))


async def test_a_cancelled_call_has_its_carrier_removed_before_it_ends(
    pods: Pods, claim: VolumeClaim, cargo_id: str
) -> None:
    begun = asyncio.Event()

    async def work() -> None:
        async with CarrierPods(pods, is_alone=True).open(cargo_id, claim):
            begun.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await begun.wait()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert pods.calls == ["destroy", "start", "destroy"]
