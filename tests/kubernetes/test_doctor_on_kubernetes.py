"""`bay doctor --kubernetes` in a real cluster: its pods say the truth, and nothing of them is left."""

import asyncio
import json
import re
import secrets
import signal
import subprocess
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from kube_cluster import NAMESPACE, Cluster
from server_harness import eventually

from bay.drivers.kubernetes import pod

pytestmark = [pytest.mark.kubernetes, pytest.mark.anyio, pytest.mark.timeout(300)]

WAIT_S = 200.0
API = "(, the API server's address in the cluster)?"
"""It answers there once another test has called `scripts/kubernetes/service-address`."""
TABLE = "bridge bay-test"


@pytest.fixture
def install() -> str:
    return f"test-{secrets.token_hex(4)}"


@asynccontextmanager
async def doctor(
    cluster: Cluster, root: Path, install: str, isolation: str | None = None, **settings: Any
) -> AsyncGenerator[Process]:
    """A doctor at work, with the rights of Bay. `isolation`: one beside the usual one, and like it."""
    given = {
        "install": install,
        "namespace": NAMESPACE,
        "kubeconfig": str(cluster.kubeconfig("bay")),
        "image": "bay.test/box:1",
        "ship_image": "bay.test/ship:1",
        "pull_policy": "Never",
        **settings,
    }
    table = "".join(f"{name} = {json.dumps(value)}\n" for name, value in given.items())
    if isolation is not None:
        table += f"[kubernetes.isolations.{isolation}]\n"
    config = root / "bay.toml"
    config.write_text(f'driver = "kubernetes"\ndata_dir = "{root}/data"\n[kubernetes]\n{table}')
    # A shell that has begun these tests in the background has them ignore SIGINT.
    command = ["env", "--default-signal=INT", sys.executable, "-m", "bay", "doctor"]
    command += ["--kubernetes", "--json", "--config", str(config)]
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=DEVNULL)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def said(process: Process) -> dict[str, Any]:
    """Its rows by their names."""
    async with asyncio.timeout(WAIT_S):
        output, _ = await process.communicate()
    return {row["name"]: row for row in map(json.loads, output.decode().splitlines())}


def canaries(cluster: Cluster, install: str) -> list[dict[str, Any]]:
    """The metadata of the pods and claims that are there, and are not being removed."""
    listed = cluster.kubectl(
        "get", "pods,pvc,volumesnapshots", "-l", f"{pod.INSTALL}={install}", "-o", "json"
    )
    metadata = [one["metadata"] for one in json.loads(listed)["items"]]
    return [one for one in metadata if "deletionTimestamp" not in one]


def nft(rules: str) -> None:
    subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True, timeout=30)


@asynccontextmanager
async def policies_enforced(cluster: Cluster, install: str) -> AsyncGenerator[None]:
    """A network plug-in for pods of this installation alone, on the node's bridge: a pod of a class opens no
    connection, and nobody but the node opens one to it. It hears of a pod some time after it began, as others
    do.
    """
    opens = "tcp flags & (syn | ack) == syn"
    table = f"{TABLE}-{install}"
    held = "ip saddr @held"
    nft(f"""table {table} {{
        set held {{ type ipv4_addr; }}
        chain between {{ type filter hook forward priority 0; policy accept;
            {held} {opens} drop; {held} udp dport != 68 drop; ip daddr @held {opens} drop; }}
        chain to_node {{ type filter hook input priority 0; policy accept; {held} {opens} drop; {held} udp dport 53 drop; }}
    }}""")

    selector = f"{pod.INSTALL}={install},{pod.EGRESS}"
    watch = ["kubectl", "--kubeconfig", str(cluster.kubeconfig("admin")), "--namespace", NAMESPACE]
    watch += ["get", "pods", "--selector", selector, "--watch", "--output", 'jsonpath={.status.podIP}{"\\n"}']

    async def hears(told: asyncio.StreamReader) -> None:
        while line := await told.readline():
            if address := line.decode().strip():
                nft(f"add element {table} held {{ {address} }}")

    watching = await asyncio.create_subprocess_exec(*watch, stdout=PIPE, stderr=DEVNULL)
    assert watching.stdout is not None
    hearing = asyncio.create_task(hears(watching.stdout))
    try:
        yield
        assert not hearing.done()
    finally:
        watching.kill()
        await watching.wait()
        await asyncio.wait([hearing])
        nft(f"delete table {table}")


async def test_it_says_the_truth_about_this_cluster(cluster: Cluster, tmp_path: Path, install: str) -> None:
    async with doctor(cluster, tmp_path, install, network_enforced=True, isolation="other") as process:
        found = await said(process)
    assert process.returncode == 1  # the settings claim that policies are enforced
    wrong = {name for name, row in found.items() if row["required"] and not row["ok"]}
    assert wrong == {"egress-none", "egress-open", "ingress"}
    for mode in ("none", "open"):
        assert re.match(
            f"unenforced: a pod of class {mode} reaches another pod{API} and this host",
            found[f"egress-{mode}"]["found"],
        )
    for name in (
        "cluster",
        "rights",
        "pod",
        "ship",
        "pod:other",
        "ship:other",
        "storage",
        "cpu-limit",
        "memory-limit",
    ):
        assert found[name]["ok"], found[name]
    assert found["memory-limit"]["found"] == "a program above the limit is killed, and the pod goes on"
    assert "this account may not list volumesnapshotclasses" in found["snapshots"]["found"]
    assert found["image-volumes"]["found"] == "no: the API server does not know them"
    assert "volumes do not grow" in found["storage-growth"]["found"]
    assert canaries(cluster, install) == []


async def test_it_sees_that_policies_are_enforced(cluster: Cluster, tmp_path: Path, install: str) -> None:
    async with (
        policies_enforced(cluster, install),
        doctor(
            cluster,
            tmp_path,
            install,
            network_enforced=True,
            network_clients=["10.222.0.0/22"],
            snapshot_class="bay-test",
            egress_proxy="10.221.0.1:8701",
        ) as process,  # fmt: skip
    ):
        found = await said(process)
    assert process.returncode == 0, found
    assert not found["proxy"]["ok"]  # no Bay listens there, and the plug-in of this test lets nobody pass
    for mode in ("none", "open", "proxy"):
        assert re.match(
            f"enforced: a pod of class {mode} does not reach another pod{API} and this host",
            found[f"egress-{mode}"]["found"],
        )
    assert found["ingress"]["ok"]
    assert "a pod has the files of a claim from it" in found["snapshots"]["found"]
    assert not found["resolvers"]["ok"]  # no pod here has a way to public addresses


async def test_a_doctor_that_is_stopped_leaves_nothing_and_one_that_is_killed_is_cleaned_up_after(
    cluster: Cluster, tmp_path: Path, install: str
) -> None:
    async def are_there() -> bool:
        return len(await asyncio.to_thread(canaries, cluster, install)) > 2

    async with doctor(cluster, tmp_path, install) as killed:
        await eventually(are_there)
        killed.kill()
        await killed.wait()
    before = {one["name"] for one in canaries(cluster, install)}
    assert before

    async def are_others_there() -> bool:
        now = {one["name"] for one in await asyncio.to_thread(canaries, cluster, install)}
        return bool(now - before)

    async with doctor(cluster, tmp_path, install) as stopped:
        await eventually(are_others_there)
        stopped.send_signal(signal.SIGINT)
        async with asyncio.timeout(WAIT_S):
            assert await stopped.wait() == 130
    assert canaries(cluster, install) == []
