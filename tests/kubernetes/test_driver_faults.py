"""The driver `kubernetes` when the cluster refuses, is slow, breaks, or is told otherwise by a stranger."""

import asyncio
import base64
import json
import re
from collections.abc import AsyncGenerator
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from kube_cluster import NAMESPACE, NODE, Cluster
from pod_bench import TIMEOUTS, PodBench, driver_in, opened_bench

from bay.drivers.base import Exited, Gone, Handle, Running
from bay.drivers.kubernetes import egress, pod
from bay.drivers.kubernetes.egress import EgressSettings
from bay.drivers.kubernetes.kube import KubeAccess
from bay.drivers.kubernetes.pod import Isolation, PodSettings
from bay.drivers.kubernetes.session_state import OUT_OF_SERVICE
from bay.errors import DriverUnavailable, SandboxNotReady
from bay.models import Resources
from bay.places import VolumeClaim
from bay.testing.driver_bench import call, endpoint_of, run
from bay.units import GIB, MIB

pytestmark = [pytest.mark.kubernetes, pytest.mark.anyio, pytest.mark.timeout(300)]


@pytest.fixture
async def quick(cluster: Cluster) -> AsyncGenerator[PodBench]:
    """A bench whose driver waits a second only for what may pass by itself."""
    async for bench in opened_bench(cluster, timeouts=replace(TIMEOUTS, start_s=1)):
        yield bench


def forced(cluster: Cluster, handle: Handle) -> None:
    """A stranger deletes the pod by force, as people do with pods that hang."""
    name = pod.pod_name(handle.session_id)
    cluster.kubectl("delete", "pod", name, "--force", "--grace-period=0", "--wait=false")


async def is_silent(handle: Handle) -> bool:
    try:
        await call(endpoint_of(handle), "GET", "/healthz")
    except OSError:
        return True
    return False


@pytest.mark.alone
async def test_a_pod_deleted_by_force_while_its_node_is_silent_is_unknown_and_not_dead(
    bench: PodBench, cluster: Cluster
) -> None:
    handle = await bench.start(bench.spec())
    with cluster.without("kubelet"):
        forced(cluster, handle)
        assert await call(endpoint_of(handle), "GET", "/healthz") == {
            "status": "ok"
        }  # it lives, and may write
        with pytest.raises(DriverUnavailable, match="has not told that its containers ended"):
            await bench.driver.observe(handle)
        cluster.wait_for(f"node/{NODE}", "condition=Ready=Unknown")
        with pytest.raises(DriverUnavailable, match=f"node {NODE} does not answer"):
            await bench.driver.observe(handle)
        assert not await is_silent(handle)
    assert isinstance(await bench.driver.wait(handle), Exited | Gone)
    assert await is_silent(handle)
    await bench.driver.destroy(handle)
    assert await bench.driver.observe(handle) == Gone()


@pytest.mark.alone
async def test_an_operators_word_that_the_node_is_gone_is_taken(bench: PodBench, cluster: Cluster) -> None:
    spec = bench.spec()
    handle = await bench.start(spec)
    with cluster.without("kubelet"):
        forced(cluster, handle)
        cluster.kubectl("taint", "node", NODE, f"{OUT_OF_SERVICE}=shutdown:NoSchedule")
        try:
            assert await bench.driver.observe(handle) == Exited(None)
            await bench.driver.destroy(handle)
            assert await bench.driver.observe(handle) == Gone()
        finally:
            cluster.kubectl("taint", "node", NODE, f"{OUT_OF_SERVICE}-")


async def test_a_pod_deleted_by_a_stranger_ends_and_its_object_waits_for_bay(
    bench: PodBench, cluster: Cluster
) -> None:
    handle = await bench.start(bench.spec())
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(bench.driver.wait(handle))
        cluster.kubectl("delete", "pod", pod.pod_name(handle.session_id), "--wait=false")
    assert isinstance(waiting.result(), Exited)
    assert cluster.get("pod", pod.pod_name(handle.session_id))["metadata"]["finalizers"] == [pod.FENCE]
    await bench.driver.destroy(handle)
    assert await bench.driver.observe(handle) == Gone()


@pytest.mark.alone
async def test_nothing_is_known_while_the_api_server_is_away_and_the_session_goes_on(
    bench: PodBench, cluster: Cluster
) -> None:
    handle = await bench.start(bench.spec())
    waiting = asyncio.create_task(bench.driver.wait(handle))
    with cluster.without("api"):
        with pytest.raises(DriverUnavailable):
            await bench.driver.observe(handle)
        with pytest.raises(DriverUnavailable):
            await bench.driver.destroy(handle)
        assert (await run(handle, "echo on")).stdout == "on\n"
        assert not waiting.done()
    assert await bench.driver.observe(handle) == Running(endpoint_of(handle))
    await bench.kill_first(handle)
    assert isinstance(await waiting, Exited)


async def test_an_image_that_cannot_be_had_fails_the_start_with_its_name(cluster: Cluster) -> None:
    settings = PodSettings(
        install="none", image="bay.test/nothing:1", ship_image="bay.test/ship:1", pull_policy="Never"
    )
    async for bench in opened_bench(cluster, pods=settings):
        with pytest.raises(SandboxNotReady, match=r"ErrImageNeverPull.*bay\.test/nothing:1"):
            await bench.start(bench.spec())


async def test_no_node_with_room_fails_the_start_with_the_schedulers_reason(quick: PodBench) -> None:
    with pytest.raises(SandboxNotReady, match=r"no node takes the pod: Unschedulable.*Insufficient memory"):
        await quick.start(quick.spec(resources=Resources(memory=4096 * GIB)))


async def test_a_claim_that_is_not_there_fails_the_start_with_its_name(quick: PodBench) -> None:
    absent = VolumeClaim(name="bay-ws-absent", read_write_once_pod=False)
    with pytest.raises(SandboxNotReady, match="bay-ws-absent"):
        await quick.start(quick.spec(workspace=absent))


async def test_a_refusal_of_the_api_server_is_the_reason(cluster: Cluster) -> None:
    settings = PodSettings(
        install="class", image="bay.test/box:1", ship_image="bay.test/ship:1", pull_policy="Never",
        isolations={"container": Isolation(runtime_class="absent")},
    )  # fmt: skip
    async for bench in opened_bench(cluster, pods=settings):
        with pytest.raises(SandboxNotReady, match=r"the cluster refused the pod.*absent"):
            await bench.start(bench.spec())


@pytest.mark.alone
async def test_a_quota_of_the_namespace_is_the_reason(bench: PodBench, cluster: Cluster) -> None:
    quota: dict[str, Any] = {
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "tight"}, "spec": {"hard": {"memory": "1Mi"}}
    }  # fmt: skip
    cluster.create(quota, user="admin")
    try:
        cluster.wait_for("resourcequota/tight", "jsonpath={.status.hard.memory}=1Mi")
        with pytest.raises(SandboxNotReady, match=r"the cluster refused the pod.*exceeded quota: tight"):
            await bench.start(bench.spec())
    finally:
        cluster.kubectl("delete", "resourcequota", "tight")


async def test_a_pod_that_a_stranger_made_under_the_name_is_left_alone(
    bench: PodBench, cluster: Cluster
) -> None:
    spec = bench.spec()
    other = pod.build(
        spec, PodSettings(install="other", image="bay.test/box:1", ship_image="bay.test/ship:1"), {}
    )
    other["metadata"]["finalizers"] = []
    cluster.create(other)
    try:
        with pytest.raises(DriverUnavailable, match="this Bay did not make"):
            await bench.start(spec)
        with pytest.raises(DriverUnavailable, match="this Bay did not make"):
            await bench.driver.destroy(bench.handle(spec.session_id))
        assert "deletionTimestamp" not in cluster.get("pod", pod.pod_name(spec.session_id))["metadata"]
    finally:
        cluster.kubectl("delete", "pod", pod.pod_name(spec.session_id), "--grace-period=1")


async def test_the_cluster_ends_a_session_that_no_bay_ends(cluster: Cluster) -> None:
    settings = PodSettings(
        install="old",
        image="bay.test/box:1",
        ship_image="bay.test/ship:1",
        pull_policy="Never",
        lifetime_s=20,
    )
    async for bench in opened_bench(cluster, pods=settings):
        handle = await bench.start(bench.spec())
        assert isinstance(await bench.driver.wait(handle), Exited)


async def test_an_evicted_session_has_ended(bench: PodBench) -> None:
    handle = await bench.start(bench.spec(resources=Resources(memory=64 * MIB)))
    await run(handle, "head -c 40000000 /dev/zero > /tmp/much; true")  # of 32 MiB that /tmp may have
    assert isinstance(await bench.driver.wait(handle), Exited)
    await bench.driver.destroy(handle)
    assert await bench.driver.observe(handle) == Gone()


async def test_a_bay_without_a_right_says_at_its_start_which_it_is(cluster: Cluster, tmp_path: Any) -> None:
    weaker = json.loads(cluster.kubeconfig("bay").read_text())
    weaker["contexts"][0]["context"]["namespace"] = "default"
    (tmp_path / "kubeconfig").write_text(json.dumps(weaker))
    access = KubeAccess(kubeconfig=tmp_path / "kubeconfig", context=None, namespace="default", timeout_s=15)
    with pytest.raises(DriverUnavailable, match=r"Bay may not create pods, .* in namespace default"):
        await driver_in(cluster, "weak", access=access).open()


async def test_a_later_bay_brings_the_egress_classes_up_to_date(cluster: Cluster) -> None:
    settings = PodSettings(
        install="classes", image="bay.test/box:1", ship_image="bay.test/ship:1", pull_policy="Never"
    )
    policy = egress.policy_name(settings, "open")
    for private in ((), (ip_network("8.8.4.0/24"),)):
        network = EgressSettings(enforced=True, dns_servers=("9.9.9.9",), private=private)
        async for _ in opened_bench(cluster, pods=settings, network=network):
            blocks = cluster.get("networkpolicy", policy)["spec"]["egress"][0]["to"]
            assert ("8.8.4.0/24" in blocks[0]["ipBlock"]["except"]) == bool(private)
    cluster.kubectl("label", "networkpolicy", policy, f"{pod.INSTALL}=other", "--overwrite")
    with pytest.raises(DriverUnavailable, match="this Bay did not make"):
        await driver_in(cluster, "classes", pods=settings).open()
    cluster.kubectl("delete", "networkpolicy", policy)


async def test_an_image_without_ship_is_the_reason(cluster: Cluster) -> None:
    settings = PodSettings(
        install="deaf", image="bay.test/box:1", ship_image="bay.test/box:1", pull_policy="Never"
    )
    async for bench in opened_bench(cluster, pods=settings):
        with pytest.raises(SandboxNotReady, match=r"ended before Ship answered.*ship: "):
            await bench.start(bench.spec())


async def test_the_rights_of_the_page_are_enough(cluster: Cluster, tmp_path: Any) -> None:
    page = (Path(__file__).parents[2] / "docs/kubernetes.md").read_text(encoding="utf-8")
    [rights] = [text for text in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL) if "kind: Role" in text]
    names = f"--namespace={NAMESPACE}", "--serviceaccount=bay-sandboxes:of-the-page"
    cluster.kubectl("create", "serviceaccount", "of-the-page")
    try:
        cluster.kubectl("create", "-f", "-", text=rights.replace("{name: bay", "{name: of-the-page"))
        cluster.kubectl("create", "rolebinding", "of-the-page", "--role=of-the-page", *names)
        cluster.kubectl("create", "clusterrolebinding", "of-the-page", "--clusterrole=of-the-page", names[1])
        cluster.wait_for("serviceaccount/of-the-page", "jsonpath={.secrets[0].name}")
        secret = cluster.get("serviceaccount", "of-the-page")["secrets"][0]["name"]
        given = json.loads(cluster.kubeconfig("bay").read_text())
        token = cluster.get("secret", secret)["data"]["token"]
        given["users"][0]["user"] = {"token": base64.b64decode(token).decode()}
        (tmp_path / "kubeconfig").write_text(json.dumps(given))
        access = KubeAccess(kubeconfig=tmp_path / "kubeconfig", namespace=NAMESPACE)
        driver = driver_in(cluster, "page", access=access)
        await driver.open()
        assert [one async for one in driver.list_owned()] == []
        await driver.aclose()
    finally:
        for kind in ("serviceaccount", "rolebinding", "role", "clusterrolebinding", "clusterrole"):
            cluster.kubectl("delete", kind, "of-the-page", "--ignore-not-found")
