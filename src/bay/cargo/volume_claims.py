"""Cargos as PersistentVolumeClaims of a Kubernetes cluster.

Bay's process never sees the files: only the pod of a session does. So there are no checkpoints, layers or
measurements here, and the owner of the workspace's top directory is the pod's `fsGroup`.

The name of a claim follows from the cargo's id, and is known before any call. A claim that is deleted keeps
its name until no pod uses it any more (`kubernetes.io/pvc-protection`). That does no harm, since no two
cargos ever have the same id. Labels have few values, as network plugins make an identity of each set of
labels: ids are annotations. No claim has an owner reference: the deletion of its owner would take the files
along.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from fractions import Fraction
from http import HTTPStatus
from typing import Protocol

import structlog

from bay.cargo.base import Fence, checkpoint_store
from bay.cargo.fences import check_newer, fence_of
from bay.drivers.kubernetes.kube import (
    CLAIM,
    STORAGE_CLASS,
    AlreadyExists,
    Json,
    JsonPatch,
    Kind,
    Kube,
    KubeAccess,
    KubeConflict,
    KubeRefused,
    as_dict,
    as_list,
)
from bay.errors import Conflict, DriverUnavailable, InvalidArgument, NotFound, StorageFull
from bay.ids import is_id, is_id_of
from bay.places import VolumeClaim
from bay.units import GIB, MIB

log = structlog.get_logger("bay.cargo")

MANAGED_BY, INSTALL = "app.kubernetes.io/managed-by", "bay.dev/install"
DATABASE = "bay.dev/database"
"""The label with the id of the database that knows a claim; one value for each Bay."""
CARGO, FENCE = "bay.dev/cargo", "bay.dev/fence"
ORIGIN = "bay.dev/origin"
"""The checkpoint whose files a claim begins with, until it has them."""
PREFIX = "bay-"
"""Of the names of all claims."""
_DEFAULT_CLASS = (
    "storageclass.kubernetes.io/is-default-class",
    "storageclass.beta.kubernetes.io/is-default-class",
)
_FENCES = 200
"""Most fences on one claim, each of about 120 bytes; all annotations of an object may have 256 KiB."""
_ATTEMPTS = 10
_UNITS = {
    "": Fraction(1), "m": Fraction(1, 1000), "k": Fraction(10**3), "M": Fraction(10**6), "G": Fraction(10**9),
    "T": Fraction(10**12), "P": Fraction(10**15), "E": Fraction(10**18), "Ki": Fraction(1 << 10), "Mi": Fraction(1 << 20),
    "Gi": Fraction(1 << 30), "Ti": Fraction(1 << 40), "Pi": Fraction(1 << 50), "Ei": Fraction(1 << 60),
}  # fmt: skip


class ClaimApi(Protocol):
    """The verbs of `bay.drivers.kubernetes.kube.Kube` that this backend uses, in one namespace."""

    async def create(self, kind: Kind, manifest: Json) -> Json: ...

    async def get(self, kind: Kind, name: str) -> Json | None: ...

    def list(self, kind: Kind, *, labels: str = "", metadata_only: bool = False) -> AsyncIterator[Json]: ...

    async def patch(self, kind: Kind, name: str, patch: JsonPatch | Json) -> Json | None: ...

    async def delete(
        self, kind: Kind, name: str, *, uid: str | None = None, version: str | None = None
    ) -> bool: ...

    async def events_of(self, uid: str) -> Sequence[Json]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimSettings:
    """How the claims of a Bay are made."""

    install: str
    """The name of this Bay among those that use the namespace, as the value of a label."""
    storage_class: str | None = None
    """None: the cluster's default one."""
    default_bytes: int = 10 * GIB
    """The size of a cargo without a limit: every claim has one."""
    read_write_once_pod: bool
    """Whether the storage has the access mode ReadWriteOncePod: CSI drivers may, others refuse it."""
    enforced: bool = False
    """Whether the storage holds a claim to its size. Kubernetes cannot tell: a folder of a node does not."""


@asynccontextmanager
async def connected(access: KubeAccess) -> AsyncGenerator[ClaimApi]:
    """A client of the cluster, closed at the end. Raises DriverUnavailable."""
    kube = await Kube.connect(access)
    try:
        yield kube
    finally:
        await kube.aclose()


class VolumeClaimCargo:
    """A claim for each cargo. Has `SizeLimits`: a claim grows where its class allows that, and never shrinks.

    All calls raise DriverUnavailable when the API server is out of reach, or refuses, with its own words.
    """

    name = "volume-claims"

    def __init__(
        self, connect: Callable[[], AbstractAsyncContextManager[ClaimApi]], settings: ClaimSettings
    ) -> None:
        """`connect` reaches the cluster for as long as the backend is open, as `connected` does."""
        self._connect = connect
        self._settings = settings
        self._database_id = ""
        self._stack = AsyncExitStack()
        self._opened: ClaimApi | None = None

    def belong_to(self, database_id: str) -> None:
        self._database_id = database_id

    async def open(self, *, beside_others: bool = False) -> None:
        """Check that there is a storage class, and that no claim of this Bay is another database's. Raises
        DriverUnavailable.
        """
        async with AsyncExitStack() as stack:
            self._opened = await stack.enter_async_context(self._connect())
            try:
                await self._check_class()
            except KubeRefused as error:
                if error.answered != HTTPStatus.FORBIDDEN:
                    raise
                log.warning("cargo.classes_unknown", error=error.message)
            await self._check_database()
            self._stack = stack.pop_all()

    async def aclose(self) -> None:
        self._opened = None
        await self._stack.aclose()

    async def run(self) -> None:
        """The cluster deletes by itself."""
        await asyncio.Event().wait()

    async def create(
        self, cargo_id: str, *, limit_bytes: int | None = None, origin: str | None = None
    ) -> None:
        """Raises Conflict for a claim of that name that is another Bay's, or is being removed."""
        if origin is not None:
            checkpoint_store(self)
        await self._make(cargo_id, self._manifest(cargo_id, limit_bytes))

    async def _make(self, cargo_id: str, manifest: Json) -> None:
        # Looked at before: a create that fails is counted by a quota of the namespace for a while.
        found = await self._found(cargo_id)
        if found is None:
            found = await self._created(cargo_id, manifest)
        self._check_own(cargo_id, found)
        if is_terminating(found):
            raise Conflict(f"cargo {cargo_id} is being removed; make another")

    async def _created(self, cargo_id: str, manifest: Json) -> Json:
        """The claim, also where it was there. Raises StorageFull for a quota."""
        try:
            return await self._kube.create(CLAIM, manifest)
        except AlreadyExists:
            found = await self._kube.get(CLAIM, manifest["metadata"]["name"])
            if found is None:
                raise
            return found
        except KubeRefused as error:
            raise _full(cargo_id, error) or error from None

    def place(self, cargo_id: str) -> VolumeClaim:
        return self._place(f"{PREFIX}{cargo_id}")

    def _place(self, name: str) -> VolumeClaim:
        return VolumeClaim(name=name, read_write_once_pod=self._settings.read_write_once_pod)

    async def _found(self, cargo_id: str) -> Json | None:
        """The claim that has the cargo's files, or one that is being removed; None when there is none."""
        return await self._kube.get(CLAIM, claim_name(cargo_id))

    async def remove(self, cargo_id: str) -> None:
        """Returns once the API server has the deletion. A pod that runs keeps its files until it ends."""
        if (found := await self._found(cargo_id)) is not None:
            await self._remove(cargo_id, found)

    async def _remove(self, cargo_id: str, found: Json) -> None:
        self._check_own(cargo_id, found)
        if not is_terminating(found):
            await self._kube.delete(CLAIM, name_of(found), uid=metadata_of(found)["uid"])

    async def list_ids(self) -> set[str]:
        labels = ",".join(f"{name}={value}" for name, value in self._labels.items())
        found = self._kube.list(CLAIM, labels=labels, metadata_only=True)
        names = {str(metadata_of(one).get("name")) async for one in found if not is_terminating(one)}
        return {cargo_id for name in names if is_id_of("ws", cargo_id := self._cargo_of(name))}

    def _cargo_of(self, name: str) -> str:
        return name.removeprefix(PREFIX)

    async def check_room(self, what: str) -> None:
        """Only a create tells whether the cluster has room."""

    async def fence(self, cargo_id: str, sandbox_id: str, generation: int, session_id: str) -> None:
        """Raises NotFound for a cargo that is not there. Of more than 200 sandboxes that have had a cargo,
        the fences of those that had it first are forgotten.
        """
        fence = Fence(sandbox_id=_checked(sandbox_id), generation=generation, session_id=session_id)
        for _ in range(_ATTEMPTS):
            found = await self._own(cargo_id)
            fences = _fences(found)
            before = fences.pop(sandbox_id, None)
            if before == fence:
                return
            if before is not None:
                check_newer(cargo_id, before, fence)
            kept = [*fences.values(), fence][-_FENCES:]
            try:
                if await self._kube.patch(CLAIM, name_of(found), _with_fences(found, kept)) is not None:
                    return
            except KubeConflict:  # another session's fence, or another controller's annotation, came between
                continue
            raise _absent(cargo_id)
        raise DriverUnavailable(
            f"the volume claim of {cargo_id} changes too often to be fenced; try again later"
        )

    async def fenced(self, cargo_id: str, sandbox_id: str) -> Fence | None:
        sandbox = _checked(sandbox_id)
        found = await self._found(cargo_id)
        return None if found is None or is_terminating(found) else _fences(found).get(sandbox)

    @property
    def enforced(self) -> bool:
        return self._settings.enforced

    async def check_limit(self, cargo_id: str, limit_bytes: int | None) -> None:
        """Raises Conflict for less than the claim has, and for more where it cannot grow now."""
        found = await self._found(cargo_id)
        if found is None:
            return
        present, wanted = size_of(found), self._rounded(limit_bytes)
        if wanted < present:
            raise Conflict(
                f"cargo {cargo_id} has {present // MIB} MiB, and a volume claim never shrinks; ask for as much or more, "
                "or make a smaller cargo and copy the files"
            )
        if wanted == present:
            return
        if not is_bound(found):
            raise Conflict(
                f"cargo {cargo_id} has no volume yet, and only a volume can grow; start its sandbox first"
            )
        if not await self._may_grow(found):
            raise Conflict(
                f"cargo {cargo_id} is of storage class {class_of(found)}, whose volumes cannot grow; make a larger "
                "cargo and copy the files"
            )

    async def set_limit(self, cargo_id: str, limit_bytes: int | None) -> None:
        """Have the claim grow. One that is as large already, or has no volume yet, stays as it is. Raises
        Conflict where the class does not let it grow, NotFound, and StorageFull for a quota.
        """
        found = await self._own(cargo_id)
        wanted = self._rounded(limit_bytes)
        if limit_bytes is None or wanted <= size_of(found) or not is_bound(found):
            return
        storage = {"resources": {"requests": {"storage": _quantity(wanted)}}}
        try:
            await self._kube.patch(
                CLAIM, name_of(found), {"metadata": {"uid": metadata_of(found)["uid"]}, "spec": storage}
            )
        except KubeRefused as error:
            if (full := _full(cargo_id, error)) is not None:
                raise full from None
            raise Conflict(
                f"cargo {cargo_id} cannot grow to {wanted // MIB} MiB: {error.message}; make a larger cargo and copy "
                "the files"
            ) from None

    async def charged(self, cargo_id: str) -> int | None:
        """None: only a pod that mounts the claim knows."""
        claim_name(cargo_id)

    @property
    def _kube(self) -> ClaimApi:
        if self._opened is None:
            raise DriverUnavailable("the cargo backend volume-claims is not open")
        return self._opened

    @property
    def _labels(self) -> dict[str, str]:
        own = {MANAGED_BY: "bay", INSTALL: self._settings.install}
        return {**own, DATABASE: self._database_id} if self._database_id else own

    async def _check_database(self) -> None:
        """Raises DriverUnavailable for claims that another database knows: this one would take them for
        orphans.
        """
        install = self._settings.install
        foreign = 0
        async for one in self._kube.list(
            CLAIM, labels=f"{MANAGED_BY}=bay,{INSTALL}={install}", metadata_only=True
        ):
            labels = as_dict(metadata_of(one).get("labels"))
            foreign += not is_terminating(one) and labels.get(DATABASE, "") != self._database_id
        if foreign:
            raise DriverUnavailable(
                f"{foreign} volume claims of install {install} belong to a Bay with another database, as after a "
                "database that was lost; restore a backup with `bay admin restore`, give this Bay another install, or "
                "delete the claims"
            )

    async def _check_class(self) -> None:
        wanted = self._settings.storage_class
        if wanted is None:
            async for one in self._kube.list(STORAGE_CLASS, metadata_only=True):
                notes = as_dict(metadata_of(one).get("annotations"))
                if any(notes.get(key) == "true" for key in _DEFAULT_CLASS):
                    return
            raise DriverUnavailable(
                "the cluster has no default storage class, and the settings name none, so no cargo could be made; "
                "name one that `kubectl get storageclass` lists"
            )
        if await self._kube.get(STORAGE_CLASS, wanted) is None:
            raise DriverUnavailable(
                f"the cluster has no storage class {wanted}; name one that `kubectl get storageclass` lists"
            )

    def _manifest(self, cargo_id: str, limit_bytes: int | None, origin: str | None = None) -> Json:
        settings = self._settings
        mode = "ReadWriteOncePod" if settings.read_write_once_pod else "ReadWriteOnce"
        spec: Json = {
            "accessModes": [mode],
            "volumeMode": "Filesystem",
            "resources": {"requests": {"storage": _quantity(self._rounded(limit_bytes))}},
        }
        if settings.storage_class is not None:
            spec["storageClassName"] = settings.storage_class
        metadata = {
            "name": claim_name(cargo_id),
            "labels": self._labels,
            # Never absent, so that the first fence can be compared as well.
            "annotations": {CARGO: cargo_id, FENCE: "[]"} | ({ORIGIN: origin} if origin else {}),
        }
        return {"metadata": metadata, "spec": spec}

    def _rounded(self, limit_bytes: int | None) -> int:
        size = self._settings.default_bytes if limit_bytes is None else limit_bytes
        return -(-size // MIB) * MIB

    async def _own(self, cargo_id: str) -> Json:
        """The claim. Raises NotFound, also for one that is being removed, and Conflict for another Bay's."""
        found = await self._found(cargo_id)
        if found is None or is_terminating(found):
            raise _absent(cargo_id)
        self._check_own(cargo_id, found)
        return found

    def _check_own(self, cargo_id: str, found: Json) -> None:
        labels = as_dict(metadata_of(found).get("labels"))
        if any(labels.get(name) != value for name, value in self._labels.items()):
            raise Conflict(
                f"the volume claim of cargo {cargo_id} is not this Bay's, as its labels {INSTALL} and {DATABASE} say; "
                "give each Bay a namespace of its own, or restore the labels"
            )

    async def _may_grow(self, found: Json) -> bool:
        try:
            known = await self._kube.get(STORAGE_CLASS, class_of(found))
        except KubeRefused:  # Bay may not look; the API server says it when the claim is to grow
            return True
        return known is not None and known.get("allowVolumeExpansion") is True


def _checked(name: str) -> str:
    if not is_id(name):
        raise InvalidArgument(f"{name!r} is not an id")
    return name


def claim_name(cargo_id: str) -> str:
    """The name of a cargo's claim. Raises InvalidArgument for what is no id of a cargo."""
    if not is_id_of("ws", cargo_id):
        raise InvalidArgument(f"{cargo_id!r} is not the id of a cargo")
    return f"{PREFIX}{cargo_id}"


def _absent(cargo_id: str) -> NotFound:
    return NotFound(f"there is no cargo {cargo_id} in this cluster")


def _full(cargo_id: str, error: KubeRefused) -> StorageFull | None:
    """The error of a quota, which answers as for a missing permission."""
    if error.answered != HTTPStatus.FORBIDDEN or "exceeded quota" not in error.message:
        return None
    return StorageFull(
        f"the namespace's quota leaves no room for cargo {cargo_id}; delete sandboxes or cargos, or have the operator "
        f"raise it: {error.message}"
    )


def metadata_of(found: Json) -> Json:
    """The metadata of an object."""
    return as_dict(found.get("metadata"))


def is_terminating(found: Json) -> bool:
    """Whether it was deleted, and is there until nothing uses it."""
    return metadata_of(found).get("deletionTimestamp") is not None


def name_of(found: Json) -> str:
    """The name of an object."""
    return str(metadata_of(found).get("name"))


def is_bound(found: Json) -> bool:
    """Whether a claim has its volume."""
    return as_dict(found.get("status")).get("phase") == "Bound"


def class_of(found: Json) -> str:
    """The storage class of a claim."""
    return str(as_dict(found.get("spec")).get("storageClassName") or "")


def _fences(found: Json) -> dict[str, Fence]:
    """The fences on a claim by sandbox, the newest last; what cannot be understood is none."""
    try:
        parsed = json.loads(as_dict(metadata_of(found).get("annotations")).get(FENCE, "[]"))
    except (ValueError, TypeError, RecursionError):
        return {}
    return {fence.sandbox_id: fence for one in as_list(parsed) if (fence := fence_of(one)) is not None}


def _with_fences(found: Json, fences: list[Fence]) -> JsonPatch:
    """A patch for the claim as it was found, and no other."""
    metadata, value = metadata_of(found), json.dumps([asdict(one) for one in fences])
    notes, path = as_dict(metadata.get("annotations")), f"/metadata/annotations/{FENCE.replace('/', '~1')}"
    same: Json = {"op": "test", "path": "/metadata/uid", "value": metadata["uid"]}
    if FENCE in notes:
        return [same, {"op": "test", "path": path, "value": notes[FENCE]}, _set(path, value)]
    # Somebody has removed it. Nothing but the version tells then whether another fence came between.
    version: Json = {"op": "test", "path": "/metadata/resourceVersion", "value": metadata["resourceVersion"]}
    return [same, version, _set("/metadata/annotations", {**notes, FENCE: value})]


def _set(path: str, value: object) -> Json:
    return {"op": "add", "path": path, "value": value}


def _quantity(size: int) -> str:
    return f"{size // MIB}Mi"


def size_of(found: Json) -> int:
    """The bytes that a claim asks for. Raises DriverUnavailable for a quantity that is none."""
    requests = as_dict(as_dict(as_dict(found.get("spec")).get("resources")).get("requests"))
    text = str(requests.get("storage"))
    if (size := quantity_bytes(text)) is None:
        raise DriverUnavailable(f"volume claim {name_of(found)} asks for {text!r} of storage")
    return size


def quantity_bytes(text: str) -> int | None:
    """The bytes of a quantity; None for a text that is none.

    Source: `k8s.io/apimachinery/pkg/api/resource`, whose units are powers of 1000 and of 1024.
    """
    number = text.rstrip("".join({letter for unit in _UNITS for letter in unit}))
    try:
        return int(Fraction(number) * _UNITS[text[len(number) :]])
    except (ValueError, KeyError, ZeroDivisionError):
        return None
