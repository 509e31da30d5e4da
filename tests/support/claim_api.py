"""An API server in memory for claims and storage classes, as strict as the real one where a backend needs it.

A name is taken until the last finalizer is gone, a uid is compared, and each change has a version. A change
of what is immutable, a claim that cannot grow and a full quota are answered in the words of the real one.
"""

import asyncio
import copy
import re
import secrets
from collections.abc import AsyncIterator, Sequence
from typing import Any

from bay.drivers.kubernetes.kube import (
    CLAIM,
    STORAGE_CLASS,
    AlreadyExists,
    Json,
    JsonPatch,
    Kind,
    KubeConflict,
    KubeRefused,
    as_dict,
)
from bay.errors import DriverUnavailable
from bay.places import Place, claim_of

PROTECTION = "kubernetes.io/pvc-protection"
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_LABEL = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")


class ClaimServer:
    """The objects of one namespace, and the storage classes of the cluster."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], Json] = {}
        self.files: dict[tuple[str, str], str] = {}
        """Texts by the uid of a claim and the name of a file."""
        self.events: list[Json] = []
        """The Events about each object."""
        self.calls: list[str] = []
        """The verbs and names of all calls."""
        self.quota: int | None = None
        """The most claims in the namespace."""
        self.refuses: dict[str, Exception] = {}
        """What the next call of a verb raises, before it has any effect."""
        self.away: set[str] = set()
        """Verbs of which no call has an effect or an answer."""
        self.loses: set[str] = set()
        """Verbs whose next call takes effect, and whose answer is lost."""
        self.interferes: int = 0
        """How many patches another controller's change comes before."""
        self._version = 0
        self.storage_class("standard", default=True)

    def storage_class(self, name: str, *, default: bool = False, grows: bool = False) -> None:
        """A storage class."""
        notes = {"storageclass.kubernetes.io/is-default-class": "true"} if default else {}
        made: Json = {"metadata": {"name": name, "annotations": notes, "uid": secrets.token_hex(8)}}
        self.objects["StorageClass", name] = {**made, "allowVolumeExpansion": grows, "provisioner": "test"}

    def claim(self, name: str) -> Json:
        """The claim itself, for a test to change."""
        return self.objects["PersistentVolumeClaim", name]

    def bind(self, name: str) -> None:
        """Have a pod use a claim for the first time, which gives it a volume."""
        self.claim(name)["status"]["phase"] = "Bound"

    def release(self, name: str) -> None:
        """The last pod that used a claim has ended."""
        found = self.claim(name)
        found["metadata"]["finalizers"] = []
        if "deletionTimestamp" in found["metadata"]:
            self._forget(name)

    async def create(self, kind: Kind, manifest: Json) -> Json:
        await self._called("create", str(manifest["metadata"].get("name")))
        made = copy.deepcopy(manifest)
        metadata = made["metadata"]
        name = metadata["name"]
        if not _NAME.fullmatch(name) or len(name) > 253:
            raise _refused(422, "Invalid", f"{name!r} is no DNS subdomain")
        for value in metadata.get("labels", {}).values():
            if not _LABEL.fullmatch(value) or len(value) > 63:
                raise _refused(422, "Invalid", f"{value!r} is no value of a label")
        spec = made["spec"]
        if not spec["accessModes"] or int(spec["resources"]["requests"]["storage"].removesuffix("Mi")) <= 0:
            raise _refused(422, "Invalid", "spec.resources[storage]: Required value")
        if (kind.name, name) in self.objects:
            raise AlreadyExists(
                f'{kind.plural} "{name}" already exists', answered=409, reason="AlreadyExists", subject=name
            )
        if self.quota is not None and self._claims() >= self.quota:
            raise _refused(
                403, "Forbidden", f'"{name}" is forbidden: exceeded quota: bay, limited: {self.quota}'
            )
        spec.setdefault("storageClassName", self._default_class())
        metadata.update(uid=secrets.token_hex(8), finalizers=[PROTECTION])
        made["status"] = {"phase": "Pending"}
        self.objects[kind.name, name] = made
        self._changed(made)
        return self._answer("create", made)

    async def get(self, kind: Kind, name: str) -> Json | None:
        await self._called("get", name)
        return copy.deepcopy(self.objects.get((kind.name, name)))

    async def list(self, kind: Kind, *, labels: str = "", metadata_only: bool = False) -> AsyncIterator[Json]:
        await self._called("list", kind.name)
        wanted = dict(one.split("=") for one in labels.split(",") if one)
        for (kind_name, _), found in sorted(self.objects.items()):
            if kind_name == kind.name and wanted.items() <= found["metadata"].get("labels", {}).items():
                yield copy.deepcopy({"metadata": found["metadata"]} if metadata_only else found)

    async def patch(self, kind: Kind, name: str, patch: JsonPatch | Json) -> Json | None:
        await self._called("patch", name)
        found = self.objects.get((kind.name, name))
        if found is None:
            return None
        if self.interferes:
            self.interferes -= 1
            found["metadata"].setdefault("annotations", {})["other/controller"] = secrets.token_hex(4)
            found["metadata"]["annotations"].pop("bay.dev/fence", None)
            self._changed(found)
        changed = copy.deepcopy(found)
        if isinstance(patch, list):
            for step in patch:
                _step(changed, step)
        else:
            for key in ("uid", "resourceVersion"):
                expected = patch.get("metadata", {}).get(key)
                if expected is not None and expected != found["metadata"][key]:
                    raise _conflict(name, f"{key} differs")
            _merge(changed, patch)
        self._check_change(name, found, changed)
        self.objects[kind.name, name] = changed
        self._changed(changed)
        return self._answer("patch", changed)

    async def events_of(self, uid: str) -> Sequence[Json]:
        return self.events

    async def delete(
        self, kind: Kind, name: str, *, uid: str | None = None, version: str | None = None
    ) -> bool:
        await self._called("delete", name)
        found = self.objects.get((kind.name, name))
        if found is None:
            return False
        metadata = found["metadata"]
        if uid is not None and uid != metadata["uid"]:
            raise _conflict(name, f"the UID in the precondition ({uid}) does not match {metadata['uid']}")
        if version is not None and version != metadata["resourceVersion"]:
            raise _conflict(name, f"the ResourceVersion in the precondition ({version}) does not match")
        if "deletionTimestamp" not in metadata:
            metadata["deletionTimestamp"] = "2026-11-30T00:00:00Z"
            self._changed(found)
            if found["status"]["phase"] != "Bound":  # no pod uses it
                self._forget(name)
        return self._answer("delete", True)

    async def _called(self, verb: str, name: str) -> None:
        self.calls.append(f"{verb} {name}")
        await asyncio.sleep(0)  # calls of others come between
        if (error := self.refuses.pop(verb, None)) is not None:
            raise error
        if verb in self.away:
            raise DriverUnavailable("the Kubernetes API server said nothing for 30 s; try again later")

    def _answer(self, verb: str, answer: Any) -> Any:
        if verb in self.loses:
            self.loses.remove(verb)
            raise DriverUnavailable("the Kubernetes API server said nothing for 30 s; try again later")
        return copy.deepcopy(answer)

    def _changed(self, found: Json) -> None:
        self._version += 1
        found["metadata"]["resourceVersion"] = str(self._version)

    def _forget(self, name: str) -> None:
        gone = self.objects.pop(("PersistentVolumeClaim", name))
        self.files = {key: text for key, text in self.files.items() if key[0] != gone["metadata"]["uid"]}

    def _claims(self) -> int:
        return sum(1 for kind, _ in self.objects if kind == CLAIM.name)

    def _default_class(self) -> str:
        for (kind, name), one in self.objects.items():
            if kind == STORAGE_CLASS.name and one["metadata"]["annotations"]:
                return name
        return ""

    def _check_change(self, name: str, before: Json, after: Json) -> None:
        old, new = before["spec"], after["spec"]
        if old == new:
            return
        sizes = [int(one["resources"]["requests"]["storage"].removesuffix("Mi")) for one in (old, new)]
        rest = [{**one, "resources": None} for one in (old, new)]
        if rest[0] != rest[1] or sizes[1] < sizes[0] or before["status"]["phase"] != "Bound":
            raise _refused(
                422, "Invalid", f'"{name}" is invalid: spec: Forbidden: is immutable after creation'
            )
        if not self.objects["StorageClass", old["storageClassName"]]["allowVolumeExpansion"]:
            raise _refused(
                403,
                "Forbidden",
                f'"{name}" is forbidden: the storageclass that provisions it must support resize',
            )


class ClaimFiles:
    """The workspaces of claims, which the server of a test remembers in place of pods."""

    def __init__(self, server: ClaimServer) -> None:
        self._server = server

    async def put(self, place: Place, name: str, text: str) -> None:
        claim = claim_of(place).name
        self._server.bind(claim)
        self._server.files[self._server.claim(claim)["metadata"]["uid"], name] = text

    async def get(self, place: Place, name: str) -> str:
        return self._server.files[self._server.claim(claim_of(place).name)["metadata"]["uid"], name]


def _refused(answered: int, reason: str, words: str) -> KubeRefused:
    return KubeRefused(f"the API server refuses (HTTP {answered}): {words}", answered=answered, reason=reason)


def _conflict(name: str, words: str) -> KubeConflict:
    return KubeConflict(f"the API server refuses: {words}", answered=409, reason="Conflict", subject=name)


def _step(target: Json, step: Json) -> None:
    """One step of RFC 6902: test, or add to an object."""
    *parents, last = [one.replace("~1", "/").replace("~0", "~") for one in step["path"].split("/")[1:]]
    for one in parents:
        target = target[one]
    match step["op"]:
        case "test":
            if last not in target or target[last] != step["value"]:
                raise _conflict("", f"testing value {step['path']} failed")
        case "add":
            target[last] = step["value"]
        case other:
            raise AssertionError(f"the server of the tests knows no {other}")


def _merge(target: Json, patch: Json) -> None:
    """RFC 7396."""
    for key, value in patch.items():
        if inner := as_dict(value):
            _merge(target.setdefault(key, {}), inner)
        elif value is None:
            target.pop(key, None)
        else:
            target[key] = value
