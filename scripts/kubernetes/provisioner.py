"""Gives the tests' Kubernetes volumes: a folder for each claim of the storage classes `bay-test` and
`bay-shared`, and a copy of it for each of their VolumeSnapshots.

    provisioner.py KUBECONFIG FOLDER

A claim gets its volume when the scheduler has chosen a node for its first pod. A released volume goes with
its files. They are `local` volumes, whose files the kubelet gives to the pod's group as it would on a disk;
`hostPath` has no such step. Sizes are not enforced. A copy shares blocks where the file system can, and is
no instant: only what stands still meanwhile is as at one moment. It needs nothing but the standard library,
so the system's own Python runs it.
"""

import base64
import http.client
import json
import shutil
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

Object = dict[str, Any]

_OF_A_NODE, _SHARED = "bay-test", "bay-shared"
_NAME = "bay.test/folders"
_SELECTED = "volume.kubernetes.io/selected-node"
_MADE_BY = "pv.kubernetes.io/provisioned-by"
_CLAIMS = "/api/v1/persistentvolumeclaims"
_VOLUMES = "/api/v1/persistentvolumes"
_SNAPSHOTS = "/apis/snapshot.storage.k8s.io/v1"
_BOUND = "snapshot.storage.kubernetes.io/volumesnapshot-bound-protection"


class Api:
    """The API server and the user that a client configuration names."""

    def __init__(self, kubeconfig: Path) -> None:
        config: Object = json.loads(kubeconfig.read_text())
        cluster: dict[str, str] = config["clusters"][0]["cluster"]
        authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
        self._address = urlsplit(cluster["server"])
        self._token: str = config["users"][0]["user"]["token"]
        self._tls = ssl.create_default_context(cadata=authority)

    def send(self, method: str, path: str, body: Object | None = None) -> http.client.HTTPResponse:
        """The answer, of which nothing is read. Raises OSError."""
        connection = http.client.HTTPSConnection(
            self._address.hostname or "", self._address.port, timeout=60, context=self._tls
        )
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": kind}
        connection.request(method, path, json.dumps(body) if body else None, headers)
        return connection.getresponse()

    def change(self, method: str, path: str, body: Object | None = None) -> None:
        """Create or delete an object. It may be there already, or be gone."""
        answer = self.send(method, path, body)
        text = answer.read().decode()
        if answer.status not in (200, 201, 202, 404, 409):
            raise OSError(f"{method} {path}: {answer.status} {text}")

    def get(self, path: str) -> Object | None:
        """An object; None when it is not there."""
        answer = self.send("GET", path)
        found: Object = json.load(answer)
        return found if answer.status == 200 else None

    def follow(self, path: str, act: Callable[[Object], None]) -> None:
        """Call `act` for each object that there is, and for each change, until the server ends the watch."""
        listed = json.load(self.send("GET", path))
        for item in listed["items"]:
            act(item)
        version = listed["metadata"]["resourceVersion"]
        changes = self.send("GET", f"{path}?watch=1&timeoutSeconds=50&resourceVersion={version}")
        for line in changes:
            event = json.loads(line)
            if event["type"] in ("ADDED", "MODIFIED"):
                act(event["object"])


class Provisioner:
    """Makes volumes below `folder`, and removes them."""

    def __init__(self, api: Api, folder: Path) -> None:
        self._api, self._folder = api, folder

    def provide(self, claim: Object) -> None:
        """Make the volume of a claim that waits for one on a node."""
        metadata, spec = claim["metadata"], claim["spec"]
        node = metadata.get("annotations", {}).get(_SELECTED)
        if (
            spec.get("storageClassName") not in (_OF_A_NODE, _SHARED)
            or spec.get("volumeName")
            or node is None
        ):
            return
        name = f"pvc-{metadata['uid']}"
        folder = self._folder / name
        if (source := spec.get("dataSource")) is None:
            folder.mkdir(exist_ok=True)
            # As the root of a new disk: the pod must name its group. A kubelet gives no shared files to one.
            folder.chmod(0o755 if spec["storageClassName"] == _OF_A_NODE else 0o777)
        elif not self._fill(folder, claim, source):
            return
        self._api.change("POST", _VOLUMES, _volume(name, folder, node, claim))

    def remove(self, volume: Object) -> None:
        """Remove a volume whose claim is gone, with its files."""
        metadata = volume["metadata"]
        if metadata.get("annotations", {}).get(_MADE_BY) != _NAME:
            return
        if volume.get("status", {}).get("phase") != "Released":
            return
        shutil.rmtree(self._folder / metadata["name"], ignore_errors=True)
        self._api.change("DELETE", f"{_VOLUMES}/{metadata['name']}")

    def take(self, snapshot: Object) -> None:
        """Copy the volume of a snapshot's claim, and say so; remove the copy of one that is deleted."""
        metadata, status = snapshot["metadata"], snapshot.get("status", {})
        path = f"{_SNAPSHOTS}/namespaces/{metadata['namespace']}/volumesnapshots/{metadata['name']}"
        copy = self._folder / f"snapshot-{metadata['uid']}"
        if metadata.get("deletionTimestamp"):
            shutil.rmtree(copy, ignore_errors=True)
            self._api.change("PATCH", path, {"metadata": {"finalizers": None}})
            return
        if status.get("readyToUse") or status.get("error"):
            return
        of_class, claim_name = (snapshot["spec"].get(key) for key in ("volumeSnapshotClassName", "source"))
        if self._api.get(f"{_SNAPSHOTS}/volumesnapshotclasses/{of_class}") is None:
            self._say(path, error={"message": f"volumesnapshotclass {of_class} not found", "time": _now()})
            return
        claim_path = f"/api/v1/namespaces/{metadata['namespace']}/persistentvolumeclaims"
        claim = self._api.get(f"{claim_path}/{claim_name['persistentVolumeClaimName']}") or {"spec": {}}
        volume = self._api.get(f"{_VOLUMES}/{claim['spec'].get('volumeName')}")
        if volume is None:
            self._say(path, error={"message": "the claim is not bound", "time": _now()})
            return
        self._api.change("PATCH", path, {"metadata": {"finalizers": [_BOUND]}})
        _copy(self._folder / volume["metadata"]["name"], copy)
        size = volume["spec"]["capacity"]["storage"]
        self._say(path, creationTime=_now(), readyToUse=False, restoreSize=size)
        self._say(path, readyToUse=True)

    def _say(self, path: str, **status: Any) -> None:
        self._api.change("PATCH", f"{path}/status", {"status": status})

    def _fill(self, folder: Path, claim: Object, source: Object) -> bool:
        """Whether the folder has the files of the snapshot that a claim begins with."""
        namespace, name = claim["metadata"]["namespace"], source["name"]
        found = self._api.get(f"{_SNAPSHOTS}/namespaces/{namespace}/volumesnapshots/{name}")
        copy = self._folder / f"snapshot-{found['metadata']['uid']}" if found else None
        if found is None or copy is None or found["metadata"].get("deletionTimestamp") or not copy.exists():
            reference = {key: claim["metadata"][key] for key in ("namespace", "name", "uid")}
            about = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", **reference}
            told: Object = {
                "metadata": {"generateName": "provisioning-", "namespace": namespace},
                "involvedObject": about,
                "reason": "ProvisioningFailed",
                "message": f"snapshot {name} is not there",
                "type": "Warning",
                "lastTimestamp": _now(),
            }
            self._api.change("POST", f"/api/v1/namespaces/{namespace}/events", told)
            return False
        if not folder.exists():
            _copy(copy, folder)
        return True


def _copy(source: Path, target: Path) -> None:
    """A copy that is there whole or not at all. It may be there already."""
    half = target.with_name(f"half-{target.name}")
    shutil.rmtree(half, ignore_errors=True)
    if not target.exists():
        subprocess.run(["cp", "-a", "--reflink=auto", "--", source, half], check=True, timeout=600)
        half.rename(target)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _volume(name: str, folder: Path, node: str, claim: Object) -> Object:
    metadata, spec = claim["metadata"], claim["spec"]
    reference = {key: metadata[key] for key in ("namespace", "name", "uid")}
    on_node = {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}
    place: Object = {"hostPath": {"path": str(folder)}}
    if spec["storageClassName"] == _OF_A_NODE:
        terms = {"nodeSelectorTerms": [{"matchExpressions": [on_node]}]}
        place = {"local": {"path": str(folder)}, "nodeAffinity": {"required": terms}}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name, "annotations": {_MADE_BY: _NAME}},
        "spec": {
            "capacity": {"storage": spec["resources"]["requests"]["storage"]},
            "accessModes": spec["accessModes"],
            "persistentVolumeReclaimPolicy": "Delete",
            "storageClassName": spec["storageClassName"],
            "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", **reference},
            **place,
        },
    }


def _follow_for_ever(api: Api, path: str, act: Callable[[Object], None]) -> None:
    # Tests stop the API server, and each change that was missed is seen in the next list.
    while True:
        try:
            api.follow(path, act)
        except (
            OSError, http.client.HTTPException, ValueError, KeyError, subprocess.SubprocessError
        ) as error:  # fmt: skip
            print(f"provisioner: {path}: {error!r}", file=sys.stderr, flush=True)
            time.sleep(0.5)


def main(kubeconfig: Path, folder: Path) -> None:
    """Provide volumes until the process is killed."""
    api = Api(kubeconfig)
    provisioner = Provisioner(api, folder)
    for path, act in ((_VOLUMES, provisioner.remove), (f"{_SNAPSHOTS}/volumesnapshots", provisioner.take)):
        threading.Thread(target=_follow_for_ever, args=(api, path, act), daemon=True).start()
    _follow_for_ever(api, _CLAIMS, provisioner.provide)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
