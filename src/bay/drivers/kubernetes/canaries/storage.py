"""The canaries of files: a claim as Bay makes it binds, is written as uid 1000, grows, and is held alone."""

import asyncio
from dataclasses import dataclass

from bay.drivers.host_check import HostCheck
from bay.drivers.kubernetes.canaries.snapshots import claim_is_snapped
from bay.drivers.kubernetes.canaries.trial_pods import TrialPods
from bay.drivers.kubernetes.kube import CLAIM, POD, Json, KubeRefused
from bay.errors import SandboxNotReady

_CLAIM_MB = 1024
"""Some storage makes no volume that is smaller."""
_GROWN_MB = 2 * _CLAIM_MB
_LOOK_S, _LOOKS = 0.5, 60
_PATH = "/workspace"


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageFacts:
    """The settings of claims."""

    storage_class: str | None = None
    """None: the cluster's default one."""
    read_write_once_pod: bool = False
    snapshot_class: str | None = None
    """The VolumeSnapshotClass of checkpoints; None: Bay takes no snapshots."""


async def claim_is_written(pods: TrialPods, facts: StorageFacts) -> list[HostCheck]:
    """Whether a claim binds to a volume that programs may write, and grows; and where the settings say so,
    whether one pod alone holds it.
    """
    of_class = f"class {facts.storage_class}" if facts.storage_class else "the default class"
    fix = "mend the class, or name another one by storage_class: `kubectl get storageclass` lists them"
    loop = asyncio.get_running_loop()
    began = loop.time()
    try:
        claim = await pods.create(CLAIM, _manifest(pods, facts))
    except KubeRefused as error:
        if facts.read_write_once_pod and "accessModes" in error.message:
            fix = "set read_write_once_pod = false: Kubernetes has that mode from 1.22 on, and CSI drivers alone"
        return [HostCheck("storage", False, True, error.message, fix)]
    try:
        task = {"do": "write", "path": _PATH, "keep": facts.snapshot_class is not None}
        name = await pods.create(POD, pods.program("write", task, claim=claim))
        end = await pods.ended(name)
    except SandboxNotReady as error:
        return [HostCheck("storage", False, True, f"{of_class}: {error.message}", fix)]
    problem = end.reason if end.told is None else end.told.get("error")
    if problem:
        found = f"{of_class}: a volume was made, and uid 1000 cannot write in it: {problem}"
        return [HostCheck("storage", False, True, found, "use a class whose driver heeds fsGroup")]
    took_s = loop.time() - began
    found = f"{of_class} made a volume that uid 1000 writes, in {took_s:.1f} s with the pod"
    rows = [
        HostCheck("storage", True, True, found, "-"),
        await _grows(pods, claim),
        await claim_is_snapped(pods, claim, facts.snapshot_class),
    ]
    if facts.read_write_once_pod:
        rows.append(await _is_held_alone(pods, claim))
    return rows


async def _grows(pods: TrialPods, claim: str) -> HostCheck:
    """Whether the API server takes a larger size of the claim; nobody waits until the volume has it."""
    try:
        await pods.kube.patch(CLAIM, claim, {"spec": _size(_GROWN_MB)})
    except KubeRefused as error:
        fix = "use a class with allowVolumeExpansion, if disk_mb of a sandbox shall be raised later"
        return HostCheck("storage-growth", False, False, f"volumes do not grow: {error.message}", fix)
    return HostCheck("storage-growth", True, False, "volumes may grow", "-")


async def _is_held_alone(pods: TrialPods, claim: str) -> HostCheck:
    fix = "set read_write_once_pod = false: two pods use one claim of this storage"
    listens = {"do": "listen", "port": 8080}
    try:
        first = await pods.create(POD, pods.program("holder", listens, claim=claim))
        await pods.address(first)
        second = await pods.create(POD, pods.program("second", listens, claim=claim))
        for _ in range(_LOOKS):
            state = await pods.seen(second)
            if state.running:
                found = "a second pod runs on a claim that is in use"
                return HostCheck("storage-once", False, True, found, fix)
            if state.scheduled.status == "False":
                found = f"a second pod of a claim waits for the first one: {state.scheduled.message}"
                return HostCheck("storage-once", True, True, found, "-")
            await pods.sleep(_LOOK_S)
    except SandboxNotReady as error:
        return HostCheck("storage-once", False, True, error.message, fix)
    found = "cannot tell: a second pod of a claim neither runs nor is refused by the scheduler"
    return HostCheck("storage-once", False, True, found, "see `kubectl get events`, and try again")


def _manifest(pods: TrialPods, facts: StorageFacts) -> Json:
    mode = "ReadWriteOncePod" if facts.read_write_once_pod else "ReadWriteOnce"
    of_class = {"storageClassName": facts.storage_class} if facts.storage_class else {}
    return {
        "metadata": {"name": pods.name("claim"), "labels": pods.labels},
        "spec": {"accessModes": [mode], "volumeMode": "Filesystem", **_size(_CLAIM_MB), **of_class},
    }


def _size(mb: int) -> Json:
    return {"resources": {"requests": {"storage": f"{mb}Mi"}}}
