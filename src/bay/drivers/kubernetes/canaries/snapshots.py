"""The canary of volume snapshots, which need rights that Bay itself has no use for."""

import asyncio

from bay.drivers.host_check import HostCheck
from bay.drivers.kubernetes.canaries.trial_pods import TrialPods
from bay.drivers.kubernetes.kube import (
    CLAIM,
    STORAGE_CLASS,
    VOLUME_SNAPSHOT,
    VOLUME_SNAPSHOT_CLASS,
    as_dict,
)

_READY_S = 120.0
_POLL_S = 1.0
_FIX = "nothing has to be mended: Bay takes no snapshots of volumes"
_NEEDS = (
    (VOLUME_SNAPSHOT_CLASS, "list"),
    (VOLUME_SNAPSHOT, "create"),
    (VOLUME_SNAPSHOT, "get"),
    (VOLUME_SNAPSHOT, "delete"),
)


async def claim_is_snapped(pods: TrialPods, claim: str) -> HostCheck:
    """Whether a snapshot of a claim becomes ready, where the cluster has snapshots for its class."""
    if not await pods.kube.serves(VOLUME_SNAPSHOT):
        return _no("the cluster has no API of snapshots")
    lacking = [f"{verb} {kind.plural}" for kind, verb in _NEEDS if not await pods.kube.may(verb, kind)]
    if lacking:
        found = f"cannot tell: this account may not {', '.join(lacking)}"
        return HostCheck("snapshots", False, False, found, "try it with --kubeconfig of an account that may")
    found = await pods.kube.get(CLAIM, claim) or {}
    of_class = str(as_dict(found.get("spec")).get("storageClassName") or "")
    provisioner = str((await pods.kube.get(STORAGE_CLASS, of_class) or {}).get("provisioner"))
    async for one in pods.kube.list(VOLUME_SNAPSHOT_CLASS):
        if one.get("driver") == provisioner:
            return await _taken(pods, claim, str(as_dict(one.get("metadata")).get("name")))
    return _no(f"there is no VolumeSnapshotClass of {provisioner}")


async def _taken(pods: TrialPods, claim: str, of_class: str) -> HostCheck:
    source = {"persistentVolumeClaimName": claim}
    name = await pods.create(
        VOLUME_SNAPSHOT,
        {
            "metadata": {"name": pods.name("snapshot"), "labels": pods.labels},
            "spec": {"volumeSnapshotClassName": of_class, "source": source},
        },
    )
    loop = asyncio.get_running_loop()
    began = loop.time()
    while loop.time() - began < _READY_S:
        status = as_dict((await pods.kube.get(VOLUME_SNAPSHOT, name) or {}).get("status"))
        if status.get("readyToUse") is True:
            found = f"one of class {of_class} is ready after {loop.time() - began:.1f} s"
            return HostCheck("snapshots", True, False, found, "-")
        if error := as_dict(status.get("error")).get("message"):
            return _no(f"class {of_class}: {str(error)[:500]}")
        await pods.sleep(_POLL_S)
    return _no(f"one of class {of_class} was not ready after {_READY_S:g} s")


def _no(why: str) -> HostCheck:
    return HostCheck("snapshots", False, False, f"no: {why}", _FIX)
