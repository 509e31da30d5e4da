"""The canary of volume snapshots: of the class that the settings name, else of the one that would fit."""

import asyncio

from bay.drivers.host_check import HostCheck
from bay.drivers.kubernetes.canaries.trial_pods import TrialPods
from bay.drivers.kubernetes.kube import (
    CLAIM,
    POD,
    STORAGE_CLASS,
    VOLUME_SNAPSHOT,
    VOLUME_SNAPSHOT_CLASS,
    Json,
    as_dict,
    as_list,
)
from bay.errors import SandboxNotReady

KEPT = "canary"
"""The file of a claim by which a claim from its snapshot is known."""
_READY_S = 120.0
_POLL_S = 1.0
_PATH = "/workspace"
_UNUSED = "nothing has to be mended: without snapshot_class Bay takes no snapshots of volumes"
_FIX = "mend the class, name another one by snapshot_class, or unset it: checkpoints are archives then"
_NEEDS = (
    (VOLUME_SNAPSHOT_CLASS, "list"),
    (VOLUME_SNAPSHOT, "create"),
    (VOLUME_SNAPSHOT, "get"),
    (VOLUME_SNAPSHOT, "delete"),
)


async def claim_is_snapped(pods: TrialPods, claim: str, of_class: str | None = None) -> HostCheck:
    """Whether a snapshot of a claim becomes ready, where the cluster has snapshots for its class; and whether
    a pod has the files of a claim that is made from it, where Bay is to use `of_class`.
    """
    if not await pods.kube.serves(VOLUME_SNAPSHOT):
        return _no("the cluster has no API of snapshots", of_class)
    if of_class is not None:
        return await _taken(pods, claim, of_class, is_used=True)
    lacking = [f"{verb} {kind.plural}" for kind, verb in _NEEDS if not await pods.kube.may(verb, kind)]
    if lacking:
        found = f"cannot tell: this account may not {', '.join(lacking)}"
        return HostCheck("snapshots", False, False, found, "try it with --kubeconfig of an account that may")
    found = await pods.kube.get(CLAIM, claim) or {}
    name = str(as_dict(found.get("spec")).get("storageClassName") or "")
    provisioner = str((await pods.kube.get(STORAGE_CLASS, name) or {}).get("provisioner"))
    async for one in pods.kube.list(VOLUME_SNAPSHOT_CLASS):
        if one.get("driver") == provisioner:
            of_driver = str(as_dict(one.get("metadata")).get("name"))
            return await _taken(pods, claim, of_driver, is_used=False)
    return _no(f"there is no VolumeSnapshotClass of {provisioner}")


async def _taken(pods: TrialPods, claim: str, of_class: str, *, is_used: bool) -> HostCheck:
    source = {"persistentVolumeClaimName": claim}
    name = await pods.create(
        VOLUME_SNAPSHOT,
        {
            "metadata": {"name": pods.name("snapshot"), "labels": pods.labels},
            "spec": {"volumeSnapshotClassName": of_class, "source": source},
        },
    )
    used = of_class if is_used else None
    loop = asyncio.get_running_loop()
    began = loop.time()
    while loop.time() - began < _READY_S:
        status = as_dict((await pods.kube.get(VOLUME_SNAPSHOT, name) or {}).get("status"))
        if status.get("readyToUse") is True:
            found = f"one of class {of_class} is ready after {loop.time() - began:.1f} s"
            if is_used:
                if problem := await _restored(pods, claim, name, status):
                    return _no(f"class {of_class}: a claim from a snapshot {problem}", used)
                found += ", and a pod has the files of a claim from it"
            return HostCheck("snapshots", True, is_used, found, "-")
        if error := as_dict(status.get("error")).get("message"):
            return _no(f"class {of_class}: {str(error)[:500]}", used)
        await pods.sleep(_POLL_S)
    return _no(f"one of class {of_class} was not ready after {_READY_S:g} s", used)


async def _restored(pods: TrialPods, claim: str, snapshot: str, status: Json) -> str | None:
    """The problem of a claim that is made from the snapshot; None where a pod finds the file of the first."""
    spec = as_dict((await pods.kube.get(CLAIM, claim) or {}).get("spec"))
    asked = as_dict(as_dict(spec.get("resources")).get("requests")).get("storage", "1Gi")
    kept = {name: spec[name] for name in ("accessModes", "volumeMode", "storageClassName") if name in spec}
    source = {"apiGroup": VOLUME_SNAPSHOT.group, "kind": VOLUME_SNAPSHOT.name, "name": snapshot}
    size = {"requests": {"storage": status.get("restoreSize") or asked}}
    made: Json = {
        "metadata": {"name": pods.name("copy"), "labels": pods.labels},
        "spec": {**kept, "resources": size, "dataSource": source},
    }
    try:
        name = await pods.create(CLAIM, made)
        task = {"do": "look", "path": _PATH}
        end = await pods.ended(await pods.create(POD, pods.program("restored", task, claim=name)))
    except SandboxNotReady as error:
        return f"is used by no pod: {error.message}"
    if end.told is None:
        return f"cannot be read: {end.reason}"
    if KEPT not in as_list(end.told.get("names")):
        return f"has not its files: {end.told.get('error') or 'it is empty'}"
    return None


def _no(why: str, used: str | None = None) -> HostCheck:
    fix = _UNUSED if used is None else _FIX
    return HostCheck("snapshots", False, used is not None, f"no: {why}", fix)
