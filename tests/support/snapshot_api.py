"""VolumeSnapshots in the memory of a test, with the controller and the CSI driver that serve them."""

import copy
import secrets
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from claim_carriers import UnusedClaims

from bay.drivers.kubernetes.api_server import AlreadyExists, Json, KubeRefused
from bay.drivers.kubernetes.kube import VOLUME_SNAPSHOT, Kind

CREATED = "2026-12-01T00:00:00Z"


def ready(size: str = "10Gi") -> Json:
    """The status of a snapshot that a claim can be made from."""
    return {"creationTime": CREATED, "readyToUse": True, "restoreSize": size}


class SnapshotServer(UnusedClaims):
    """Claims whose files are directories below `root`, as `HostCarriers` has them, and their snapshots."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self._root = root
        self.controller: Callable[[Json], Json] = lambda _snapshot: ready()
        """The status that a snapshot has at each look, of which it is told the one before."""
        self.has_snapshots = True
        """Whether the cluster has that kind of object at all."""
        self.makes_volumes = True
        self.drops_sources = False
        """As an API server that knows no source of a claim."""

    def snapshots(self) -> dict[str, Json]:
        """All of them by name."""
        return {name: one for (kind, name), one in self.objects.items() if kind == VOLUME_SNAPSHOT.name}

    def claims(self) -> set[str]:
        """The names of all claims."""
        return {name for kind, name in self.objects if kind == "PersistentVolumeClaim"}

    def bind(self, name: str) -> None:
        """Have a pod use a claim for the first time: its driver brings the files of its source."""
        if not self.makes_volumes:
            return
        claim = self.claim(name)
        if claim["status"]["phase"] != "Bound" and (source := claim["spec"].get("dataSource")):
            taken = self.snapshots()[source["name"]]
            assert taken["status"]["readyToUse"]
            shutil.copytree(self._root / taken["metadata"]["uid"], self._root / claim["metadata"]["uid"])
        super().bind(name)

    async def create(self, kind: Kind, manifest: Json) -> Json:
        if kind is not VOLUME_SNAPSHOT:
            if self.drops_sources:
                manifest = {**manifest, "spec": {**manifest["spec"], "dataSource": None}}
            return await super().create(kind, manifest)
        name = str(manifest["metadata"]["name"])
        await self._called("create", name)
        if name in self.snapshots():
            raise AlreadyExists(f"{name} already exists", answered=409, reason="AlreadyExists", subject=name)
        made = copy.deepcopy(manifest)
        made["metadata"]["uid"] = secrets.token_hex(8)
        claim = self.claim(made["spec"]["source"]["persistentVolumeClaimName"])
        assert claim["status"]["phase"] == "Bound"
        files = self._root / claim["metadata"]["uid"]
        files.mkdir(exist_ok=True)
        shutil.copytree(files, self._root / made["metadata"]["uid"])
        self.objects[kind.name, name] = made
        self._changed(made)
        return self._answer("create", made)

    async def get(self, kind: Kind, name: str) -> Json | None:
        if kind is VOLUME_SNAPSHOT and (found := self.snapshots().get(name)) is not None:
            found["status"] = self.controller(found.get("status", {}))
        return await super().get(kind, name)

    async def list(self, kind: Kind, *, labels: str = "", metadata_only: bool = False) -> AsyncIterator[Json]:
        if kind is VOLUME_SNAPSHOT and not self.has_snapshots:
            raise KubeRefused("HTTP 404: the server could not find it", answered=404, reason="NotFound")
        async for one in super().list(kind, labels=labels, metadata_only=metadata_only):
            yield one

    async def delete(self, kind: Kind, name: str, **expected: Any) -> bool:
        if kind is not VOLUME_SNAPSHOT:
            return await super().delete(kind, name, **expected)
        await self._called("delete", name)
        return self._answer("delete", self.objects.pop((kind.name, name), None) is not None)
