"""Cargos as volume claims of a real cluster, with pods that write their files."""

import asyncio
import itertools
import json
import os
import secrets
from collections.abc import AsyncGenerator, Callable
from contextlib import nullcontext
from typing import Any

import pytest
from kube_cluster import NAMESPACE, Cluster
from test_cluster import pod, says

from bay.cargo.base import CargoBackend, Fence, StaleGeneration
from bay.cargo.volume_claims import ClaimSettings, VolumeClaimCargo
from bay.drivers.kubernetes.kube import CLAIM, Kube, KubeAccess
from bay.errors import Conflict, DriverUnavailable, NotFound, StorageFull
from bay.ids import new_id
from bay.places import Place, claim_of
from bay.testing.cargo import *  # noqa: F403 - the suite is the module's functions
from bay.testing.cargo import MIB, WorkspaceFiles

pytestmark = [pytest.mark.kubernetes, pytest.mark.anyio]

_numbers = itertools.count()
SMALL: dict[str, Any] = {"default_bytes": 16 * MIB, "read_write_once_pod": False}
"""The server is older than ReadWriteOncePod."""


class PodFiles:
    """The workspaces of claims, each by a pod that ends."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    async def put(self, place: Place, name: str, text: str) -> None:
        await asyncio.to_thread(self._said, place, f"echo -n {text!r} > {name}")

    async def get(self, place: Place, name: str) -> str:
        return await asyncio.to_thread(self._said, place, f"cat {name}")

    def _said(self, place: Place, command: str) -> str:
        name = f"test-files-{os.getpid()}-{next(_numbers)}"
        made = pod(name, f"cd /workspace && {command}", claim=True)
        made["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"] = claim_of(place).name
        self._cluster.create(made)
        try:
            return says(self._cluster, name)
        finally:
            self._cluster.kubectl("delete", f"pod/{name}")


@pytest.fixture
async def kube(cluster: Cluster) -> AsyncGenerator[Kube]:
    access = KubeAccess(kubeconfig=cluster.kubeconfig("bay"), namespace=NAMESPACE)
    made = await Kube.connect(access)
    yield made
    await made.aclose()


@pytest.fixture
def settings() -> ClaimSettings:
    return ClaimSettings(install=f"test-{secrets.token_hex(4)}", **SMALL)


@pytest.fixture
async def cargo(kube: Kube, settings: ClaimSettings) -> AsyncGenerator[VolumeClaimCargo]:
    backend = VolumeClaimCargo(lambda: nullcontext(kube), settings)
    await backend.open()
    yield backend
    for one in await backend.list_ids():
        await backend.remove(one)


@pytest.fixture
def reopen(kube: Kube, settings: ClaimSettings) -> Callable[[], CargoBackend]:
    return lambda: VolumeClaimCargo(lambda: nullcontext(kube), settings)


@pytest.fixture
def files(cluster: Cluster) -> WorkspaceFiles:
    return PodFiles(cluster)


async def claim(kube: Kube, ws: str) -> dict[str, Any]:
    found = await kube.get(CLAIM, f"bay-{ws}")
    assert found is not None
    return found


async def test_of_creates_at_once_one_is_it(kube: Kube, cargo: VolumeClaimCargo) -> None:
    ws = new_id("ws")
    await asyncio.gather(*(cargo.create(ws) for _ in range(5)))
    assert await cargo.list_ids() == {ws}
    found = await claim(kube, ws)
    assert found["spec"]["resources"] == {"requests": {"storage": "16Mi"}}
    assert found["spec"]["storageClassName"] == "bay-test"


async def test_another_bays_claim_is_neither_taken_nor_fenced_nor_removed(
    kube: Kube, cargo: VolumeClaimCargo
) -> None:
    other = VolumeClaimCargo(
        lambda: nullcontext(kube), ClaimSettings(install=f"test-{secrets.token_hex(4)}", **SMALL)
    )
    await other.open()
    ws = new_id("ws")
    await other.create(ws)
    try:
        before = await claim(kube, ws)
        for call in (cargo.create(ws), cargo.fence(ws, new_id("sandbox"), 1, "s"), cargo.remove(ws)):
            with pytest.raises(Conflict, match="not this Bay's"):
                await call
        assert await claim(kube, ws) == before
        assert (await cargo.list_ids(), await other.list_ids()) == (set(), {ws})
    finally:
        await other.remove(ws)


async def test_fences_at_once_are_compared_by_the_server(cargo: VolumeClaimCargo) -> None:
    ws, sandbox, others = new_id("ws"), new_id("sandbox"), [new_id("sandbox") for _ in range(4)]
    await cargo.create(ws)
    sessions = [f"sess-{letter}" for letter in "abcd"]
    told = await asyncio.gather(
        *(cargo.fence(ws, sandbox, 1, one) for one in sessions),
        *(cargo.fence(ws, one, 7, "sess-x") for one in others),
        return_exceptions=True,
    )
    let_in = [session for session, answer in zip(sessions, told[:4], strict=True) if answer is None]
    assert len(let_in) == 1
    assert all(answer is None or isinstance(answer, StaleGeneration) for answer in told[:4])
    assert told[4:] == [None] * 4
    assert await cargo.fenced(ws, sandbox) == Fence(sandbox_id=sandbox, generation=1, session_id=let_in[0])
    assert None not in [await cargo.fenced(ws, one) for one in others]


async def test_an_annotation_that_was_removed_is_written_again(
    cluster: Cluster, cargo: VolumeClaimCargo
) -> None:
    ws, sandbox = new_id("ws"), new_id("sandbox")
    await cargo.create(ws)
    await asyncio.to_thread(cluster.kubectl, "annotate", f"pvc/bay-{ws}", "bay.dev/fence-", "other=kept")
    await cargo.fence(ws, sandbox, 1, "sess-a")
    assert await cargo.fenced(ws, sandbox) is not None
    kept = await asyncio.to_thread(cluster.get, "pvc", f"bay-{ws}")
    assert kept["metadata"]["annotations"]["other"] == "kept"


async def test_a_removed_claim_that_a_pod_uses_is_gone_for_bay_and_goes_with_the_pod(
    cluster: Cluster, kube: Kube, cargo: VolumeClaimCargo
) -> None:
    ws, sandbox, name = new_id("ws"), new_id("sandbox"), f"test-claims-{next(_numbers)}"
    await cargo.create(ws)
    await cargo.fence(ws, sandbox, 1, "sess-a")
    user = pod(name, "sleep 1000", claim=True)
    user["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"] = f"bay-{ws}"
    await asyncio.to_thread(cluster.create, user)
    try:
        await asyncio.to_thread(cluster.wait_for, f"pod/{name}", "condition=Ready")
        for _ in range(2):
            await cargo.remove(ws)
            assert "deletionTimestamp" in (await claim(kube, ws))["metadata"]
            assert await cargo.list_ids() == set()
            assert await cargo.fenced(ws, sandbox) is None
        with pytest.raises(Conflict, match="is being removed"):
            await cargo.create(ws)
        with pytest.raises(NotFound):
            await cargo.fence(ws, sandbox, 2, "sess-b")
    finally:
        await asyncio.to_thread(cluster.kubectl, "delete", f"pod/{name}")
    await asyncio.to_thread(cluster.wait_for, f"pvc/bay-{ws}", "delete")


async def test_a_claim_of_this_class_cannot_grow(cargo: VolumeClaimCargo, files: WorkspaceFiles) -> None:
    ws = new_id("ws")
    await cargo.create(ws)
    with pytest.raises(Conflict, match="never shrinks"):
        await cargo.check_limit(ws, 8 * MIB)
    with pytest.raises(Conflict, match="no volume yet"):
        await cargo.check_limit(ws, 32 * MIB)
    await cargo.set_limit(ws, 32 * MIB)  # as a start does, before the first pod
    await files.put(cargo.place(ws), "file", "there")
    with pytest.raises(Conflict, match="class bay-test, whose volumes cannot grow"):
        await cargo.check_limit(ws, 32 * MIB)
    with pytest.raises(Conflict, match=r"cannot grow to 32 MiB.*must support resize"):
        await cargo.set_limit(ws, 32 * MIB)


async def test_a_claim_grows_where_its_class_lets_it(
    cluster: Cluster, kube: Kube, cargo: VolumeClaimCargo, files: WorkspaceFiles
) -> None:
    def let_grow(may: bool) -> None:
        cluster.kubectl("patch", "storageclass/bay-test", "-p", json.dumps({"allowVolumeExpansion": may}))

    ws = new_id("ws")
    await cargo.create(ws)
    await files.put(cargo.place(ws), "file", "there")
    await asyncio.to_thread(let_grow, may=True)
    try:
        await cargo.check_limit(ws, 32 * MIB)
        await cargo.set_limit(ws, 32 * MIB)
    finally:
        await asyncio.to_thread(let_grow, may=False)
    assert (await claim(kube, ws))["spec"]["resources"] == {"requests": {"storage": "32Mi"}}
    await cargo.set_limit(ws, 16 * MIB)
    assert (await claim(kube, ws))["spec"]["resources"] == {"requests": {"storage": "32Mi"}}


@pytest.mark.alone
async def test_a_full_quota_is_a_full_disk(cluster: Cluster, cargo: VolumeClaimCargo) -> None:
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "test-claims"},
        "spec": {"hard": {"requests.storage": "1Mi"}},
    }
    await asyncio.to_thread(cluster.create, quota, user="admin")
    try:
        await asyncio.to_thread(
            cluster.wait_for, "resourcequota/test-claims", "jsonpath={.status.hard.requests\\.storage}=1Mi"
        )
        with pytest.raises(StorageFull, match=r"quota leaves no room.*exceeded quota: test-claims"):
            await cargo.create(new_id("ws"))
    finally:
        await asyncio.to_thread(cluster.kubectl, "delete", "resourcequota/test-claims")
    assert await cargo.list_ids() == set()


async def test_a_class_that_is_not_there_is_said_before_anything_is_made(kube: Kube) -> None:
    given = ClaimSettings(install="test-none", storage_class="not-there", **SMALL)
    with pytest.raises(DriverUnavailable, match="no storage class not-there"):
        await VolumeClaimCargo(lambda: nullcontext(kube), given).open()


async def test_the_access_mode_of_newer_clusters_is_refused_by_an_old_one_in_its_own_words(
    kube: Kube,
) -> None:
    given = ClaimSettings(install="test-none", read_write_once_pod=True)
    cargo = VolumeClaimCargo(lambda: nullcontext(kube), given)
    await cargo.open()
    with pytest.raises(DriverUnavailable, match="ReadWriteOncePod"):
        await cargo.create(new_id("ws"))
    assert await cargo.list_ids() == set()
