"""Checkpoints of volume claims as VolumeSnapshots of the cluster, and archives of earlier ones beside them.

A claim cannot go back to a snapshot. A restore makes a second claim from it, beside the first and while that
is in use, has a pod bind it, and then one patch of the second says that it has the files from now on. So a
cargo has one of two names in turn, and the claims themselves say which: a row that a backup has put back
would name a claim that has gone. Each step leaves the files as they were or as they shall be:

    second claim made     The note PREPARED: not the cargo's. A restore, an open or a removal discards it.
    second claim bound    as before
    note taken off        The claim with the higher TURN has the files. The same patch copies the fences.
    first claim removed   by the next that looks for the cargo, if this Bay does not get to it

Snapshots and claims are asked for by name while something waits for them, after pauses that grow. There is no
watch of them that could lag, break, expire (410) or be lost, and Bay needs no right to watch.
"""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from bay.backoff import Backoff
from bay.cargo.base import Weight
from bay.cargo.claim_archives import ClaimArchives
from bay.cargo.claim_checkpoints import ArchivedClaims, Carriers, checked
from bay.cargo.volume_claims import (
    CARGO,
    FENCE,
    PREFIX,
    ClaimApi,
    ClaimSettings,
    claim_name,
    class_of,
    is_bound,
    is_terminating,
    metadata_of,
    name_of,
    quantity_bytes,
    size_of,
)
from bay.drivers.kubernetes.kube import (
    CLAIM,
    STORAGE_CLASS,
    VOLUME_SNAPSHOT,
    AlreadyExists,
    Json,
    KubeConflict,
    KubeRefused,
    as_dict,
)
from bay.errors import BayError, Conflict, DriverUnavailable, NotFound
from bay.ids import is_id_of
from bay.models import CheckpointKind
from bay.object_store.base import LARGEST, ObjectMissing
from bay.places import VolumeClaim

log = structlog.get_logger("bay.cargo")

SOURCE = "bay.dev/source"
"""The label of a claim that was made from a snapshot: the checkpoint. Claims are looked up by it, and no
network plug-in reads their labels."""
PREPARED, TURN = "bay.dev/prepared", "bay.dev/turn"
SIZE = "bay.dev/size-bytes"
"""The size of the claim that a snapshot is of, for drivers that tell none."""
_SECOND = "-b"
_GROUP = "snapshot.storage.k8s.io"
_CREATES = 3
_NO_STORE = "among the cluster's VolumeSnapshots; if it is an archive, set object_store again"
_ASK = Backoff(0.2, 5.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotTimeouts:
    """The patience with the cluster, in seconds."""

    cut: float = 60.0
    """Until a snapshot has its moment. The programs of its sandbox stand still as long."""
    ready: float = 1800.0
    """Until a claim can be made from it: some clouds copy it elsewhere first."""
    bound: float = 300.0
    gone: float = 60.0
    error: float = 5.0
    """Controllers write an error, try again, and take it back."""
    silence: float = 60.0
    """Without an answer of the API server."""
    leftover: float = 7200.0
    """The age of a claim that was prepared for a restore which no Bay goes on with."""
    sweep: float = 600.0
    """Between two looks for those."""


class ClaimSnapshots(ArchivedClaims):
    """Volume claims with a `CheckpointStore`, `CheckpointsInTwoSteps`, and `DiskUsage` of checkpoints. Of a
    class `snapshot_class` are the new ones.
    """

    checkpoint_kind: CheckpointKind = "snapshot"

    def __init__(
        self,
        connect: Callable[[], AbstractAsyncContextManager[ClaimApi]],
        settings: ClaimSettings,
        archives: ClaimArchives,
        carriers: Carriers,
        *,
        snapshot_class: str,
        timeouts: SnapshotTimeouts | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        super().__init__(connect, settings, archives, carriers)
        self.seen_kinds = frozenset(("snapshot", "archive") if archives.are_kept else ("snapshot",))
        self._elsewhere = "any more" if archives.are_kept else _NO_STORE
        self._class = snapshot_class
        self._timeouts = timeouts or SnapshotTimeouts()
        self._clock = clock
        self._sleep = sleep
        self._second: set[str] = set()
        """The cargos whose claim has the second name, as this Bay saw last."""
        self._beside: dict[str, str] = {}
        """The uid of the claim that each cargo is to have after its restore."""
        self._unsure: set[str] = set()
        """Checkpoints of which a create was sent, and whose answer was lost."""
        self._late: dict[str, float] = {}
        """Since when such are removed, and the create may still take effect."""

    async def open(self, *, beside_others: bool = False) -> None:
        """Raises DriverUnavailable also where the cluster has no snapshots."""
        await super().open(beside_others=beside_others)
        try:
            await self.list_snapshots()
            if not beside_others:
                await self._sweep(older_s=0.0)
        except BaseException as error:
            await self.aclose()
            if isinstance(error, KubeRefused):
                raise DriverUnavailable(
                    f"setting snapshot_class: this cluster gives Bay no VolumeSnapshots ({error.message}); install its "
                    "CSI driver's snapshots and the rights of docs/kubernetes.md, or unset it"
                ) from None
            raise

    async def run(self) -> None:
        """Remove what restores and creates that broke off have left, until cancelled."""
        while True:
            await self._sleep(self._timeouts.sweep)
            try:
                await self._sweep(older_s=self._timeouts.leftover)
            except BayError as error:
                log.warning("cargo.sweep_failed", error=error.message)

    def place(self, cargo_id: str) -> VolumeClaim:
        """As this Bay saw it last; `fence` and `create` look."""
        return self._place(_names(cargo_id)[cargo_id in self._second])

    async def create(
        self, cargo_id: str, *, limit_bytes: int | None = None, origin: str | None = None
    ) -> None:
        """With `origin` the claim has it as its source, and the cluster brings the files when the first pod
        comes. Until then the checkpoint cannot be removed.
        """
        claim_name(cargo_id)
        snapshot = None if origin is None else await self._snapshot(checked(origin))
        if origin is None or snapshot is None or await self._found(cargo_id) is not None:
            await super().create(cargo_id, limit_bytes=limit_bytes, origin=origin)
            return
        await self.complete(origin)
        await self._make(cargo_id, self._from_snapshot(cargo_id, snapshot, limit_bytes))
        made = await self._own(cargo_id)
        try:
            self._check_source(made, origin)
        except DriverUnavailable:
            await self._drop(cargo_id, made)
            raise

    async def remove(self, cargo_id: str) -> None:
        for name in _names(cargo_id):
            if (found := await self._kube.get(CLAIM, name)) is not None:
                await self._remove(cargo_id, found)
        self._second.discard(cargo_id)
        self._beside.pop(cargo_id, None)

    async def checkpoint(self, cargo_id: str, checkpoint_id: str) -> None:
        """Returns when the snapshot has its moment."""
        claim_name(cargo_id)
        if await self._snapshot(checked(checkpoint_id)) is None:
            if await self._archives.manifest(checkpoint_id) is not None:
                return
            source = await self._own(cargo_id)
            await self._bind(
                cargo_id, source
            )  # no pod may have used it yet, and of nothing there is no snapshot
            await self._take(source, checkpoint_id)
        await self._wait(checkpoint_id, _is_cut, self._timeouts.cut)

    async def complete(self, checkpoint_id: str) -> None:
        if await self._snapshot(checked(checkpoint_id)) is not None:
            await self._wait(checkpoint_id, _is_ready, self._timeouts.ready)
        elif await self._archives.manifest(checkpoint_id) is None:
            raise self._missing(checkpoint_id)

    async def prepare_restore(self, cargo_id: str, checkpoint_id: str, *, limit_bytes: int | None) -> None:
        """Make a claim from the snapshot, and see to it that it is bound. That takes a pod where volumes wait
        for one.
        """
        claim_name(cargo_id)
        self._beside.pop(cargo_id, None)
        snapshot = await self._snapshot(checked(checkpoint_id))
        if snapshot is None:
            await super().prepare_restore(cargo_id, checkpoint_id, limit_bytes=limit_bytes)
            return
        self._prepared.pop(cargo_id, None)
        await self.complete(checkpoint_id)
        made = await self._made_beside(cargo_id, snapshot, limit_bytes)
        try:
            self._check_source(made, checkpoint_id)
            await self._bind(cargo_id, made)
        except BayError:
            await self._drop(cargo_id, made)
            raise
        self._beside[cargo_id] = str(metadata_of(made)["uid"])

    async def restore(self, cargo_id: str) -> None:
        """One patch. The former claim is removed after it, now or by the next look."""
        claim_name(cargo_id)
        if (uid := self._beside.get(cargo_id)) is None:
            await super().restore(cargo_id)
            return
        current = await self._found(cargo_id)
        made = next((one for one in await self._claims(cargo_id) if metadata_of(one)["uid"] == uid), None)
        fences = "[]" if current is None else _notes(current).get(FENCE, "[]")
        done: Json | None = None
        if made is not None and not is_terminating(made):
            in_place = {"uid": uid, "annotations": {PREPARED: None, FENCE: fences}}
            done = await self._kube.patch(CLAIM, name_of(made), {"metadata": in_place})
        self._beside.pop(cargo_id, None)
        if done is None or is_terminating(done):
            raise NotFound(
                f"nothing is prepared for cargo {cargo_id} any more, as somebody removed its new claim; restore again"
            )
        self._note(cargo_id, done)
        if current is not None:
            await self._drop(cargo_id, current)

    async def remove_checkpoint(self, checkpoint_id: str) -> None:
        """Raises Conflict while a claim waits for its first pod to have the files of this one."""
        found = await self._snapshot(checked(checkpoint_id))
        if found is not None:
            async for one in self._kube.list(CLAIM, labels=self._selector({SOURCE: checkpoint_id})):
                if not is_bound(one) and not is_terminating(one):
                    raise Conflict(
                        f"volume claim {name_of(one)} begins with the files of {checkpoint_id}, and no pod has used it "
                        "yet; start its sandbox or delete it"
                    )
            with suppress(KubeConflict):
                await self._kube.delete(VOLUME_SNAPSHOT, name_of(found), uid=metadata_of(found)["uid"])
        if checkpoint_id in self._unsure:
            self._unsure.remove(checkpoint_id)
            self._late[checkpoint_id] = self._clock()
        await super().remove_checkpoint(checkpoint_id)

    async def list_checkpoints(self) -> set[str]:
        """Those that are being made too: their rows say so."""
        return await self.list_snapshots() | await super().list_checkpoints()

    async def list_snapshots(self) -> set[str]:
        """Ids of the checkpoints that are snapshots."""
        found = self._kube.list(VOLUME_SNAPSHOT, labels=self._selector(), metadata_only=True)
        names = [name_of(one).removeprefix(PREFIX) async for one in found if not is_terminating(one)]
        return {name for name in names if is_id_of("ckpt", name)}

    async def weigh(self, ids: Sequence[str]) -> dict[str, Weight]:
        """Of a snapshot the least size of a claim, as its driver tells it: more than its files have."""
        found = await super().weigh(ids)
        for one in set(ids) - found.keys():
            if is_id_of("ckpt", one) and (snapshot := await self._snapshot(one)) is not None:
                found[one] = Weight(used_bytes=_least_bytes(snapshot), used_inodes=None, exclusive_bytes=None)
        return found

    async def _found(self, cargo_id: str) -> Json | None:
        live = [one for one in await self._claims(cargo_id) if not _is_prepared(one)]
        live.sort(key=lambda one: (not is_terminating(one), _turn(one)))
        if not live:
            return None
        *former, current = live
        for one in former:
            await self._drop(cargo_id, one)
        self._note(cargo_id, current)
        return current

    async def _claims(self, cargo_id: str) -> list[Json]:
        names = _names(cargo_id)
        found = await asyncio.gather(*(self._kube.get(CLAIM, name) for name in names))
        return [one for one in found if one is not None]

    def _note(self, cargo_id: str, current: Json) -> None:
        if name_of(current) == _names(cargo_id)[1]:
            self._second.add(cargo_id)
        else:
            self._second.discard(cargo_id)

    def _cargo_of(self, name: str) -> str:
        return super()._cargo_of(name).removesuffix(_SECOND)

    async def _snapshot(self, checkpoint_id: str) -> Json | None:
        """The snapshot, if it is there to stay. Raises Conflict for another Bay's."""
        found = await self._kube.get(VOLUME_SNAPSHOT, snapshot_name(checkpoint_id))
        if found is None or is_terminating(found):
            return None
        self._check_snapshot(checkpoint_id, found)
        return found

    def _check_snapshot(self, checkpoint_id: str, found: Json) -> None:
        labels = as_dict(metadata_of(found).get("labels"))
        if any(labels.get(name) != value for name, value in self._labels.items()):
            raise Conflict(
                f"VolumeSnapshot {snapshot_name(checkpoint_id)} is not this Bay's, as its labels say"
            )

    def _selector(self, more: dict[str, str] | None = None) -> str:
        return ",".join(f"{name}={value}" for name, value in {**self._labels, **(more or {})}.items())

    async def _take(self, source: Json, checkpoint_id: str) -> None:
        """Have the snapshot there. The answer of a create may be lost: the same name is asked for again, and
        one of the two is refused then. So nothing comes into being later that nobody expects.
        """
        cargo_id = as_dict(metadata_of(source).get("annotations")).get(CARGO)
        manifest = {
            "metadata": {
                "name": snapshot_name(checkpoint_id),
                "labels": self._labels,
                "annotations": {CARGO: cargo_id, SIZE: str(size_of(source))},
            },
            "spec": {
                "volumeSnapshotClassName": self._class,
                "source": {"persistentVolumeClaimName": name_of(source)},
            },
        }
        for attempt in range(1, _CREATES + 1):
            try:
                await self._kube.create(VOLUME_SNAPSHOT, manifest)
            except AlreadyExists:
                return
            except KubeRefused as error:
                raise DriverUnavailable(f"the cluster takes no snapshot: {error.message}") from None
            except DriverUnavailable:
                self._unsure.add(checkpoint_id)
                if attempt == _CREATES:
                    raise
                await self._sleep(_ASK.pause(attempt))
            else:
                self._unsure.discard(checkpoint_id)
                return

    async def _wait(self, checkpoint_id: str, fact: Callable[[Json], bool], limit_s: float) -> None:
        """Return once the status of the snapshot has that. Raises NotFound when it goes, and
        DriverUnavailable with the error that stands in it, or at the limit.
        """
        began = heard = self._clock()
        failing_since: float | None = None
        for attempt in itertools.count(1):
            now = self._clock()
            try:
                found = await self._snapshot(checkpoint_id)
            except KubeRefused:
                raise
            except DriverUnavailable:  # the API server starts again, say
                if now - heard > self._timeouts.silence:
                    raise
            else:
                if found is None:
                    raise NotFound(
                        f"there is no checkpoint {checkpoint_id}, as somebody removed its VolumeSnapshot"
                    )
                heard, status = now, as_dict(found.get("status"))
                if fact(status):
                    return
                told = as_dict(status.get("error"))
                failing_since = (failing_since or now) if told else None
                if failing_since is not None and now - failing_since >= self._timeouts.error:
                    raise DriverUnavailable(
                        f"the cluster takes no snapshot of class {self._class}: {str(told.get('message'))[:500]}"
                    )
            if now - began > limit_s:
                raise DriverUnavailable(
                    f"VolumeSnapshot {snapshot_name(checkpoint_id)} of class {self._class} was not done in "
                    f"{limit_s:g} s; see `kubectl describe volumesnapshot`"
                )
            await self._sleep(_ASK.pause(attempt))

    def _from_snapshot(self, cargo_id: str, snapshot: Json, limit_bytes: int | None, least: int = 0) -> Json:
        """The manifest of a claim from it, never smaller than the volume that the snapshot is of."""
        checkpoint_id = name_of(snapshot).removeprefix(PREFIX)
        size = max(self._rounded(limit_bytes), self._rounded(_least_bytes(snapshot)), least)
        made = self._manifest(cargo_id, size)
        made["metadata"]["labels"] = {**self._labels, SOURCE: checkpoint_id}
        made["spec"]["dataSource"] = {
            "apiGroup": _GROUP,
            "kind": VOLUME_SNAPSHOT.name,
            "name": name_of(snapshot),
        }
        return made

    def _check_source(self, made: Json, checkpoint_id: str) -> None:
        """Raises DriverUnavailable for a claim without the source: it would be empty."""
        source = as_dict(as_dict(made.get("spec")).get("dataSource"))
        if source.get("name") != snapshot_name(checkpoint_id):
            raise DriverUnavailable(
                f"volume claim {name_of(made)} has not the source {snapshot_name(checkpoint_id)}: this API server "
                "makes no claims from snapshots; use Kubernetes 1.20 or later, or archives"
            )

    async def _made_beside(self, cargo_id: str, snapshot: Json, limit_bytes: int | None) -> Json:
        current = await self._found(cargo_id)
        for one in await self._claims(cargo_id):
            if _is_prepared(one):  # of a restore that broke off, which may have been to another checkpoint
                await self._remove(cargo_id, one)
        first, second = _names(cargo_id)
        name = first if current is None or name_of(current) == second else second
        await self._wait_name_free(cargo_id, name)
        made = self._from_snapshot(
            cargo_id, snapshot, limit_bytes, 0 if current is None else size_of(current)
        )
        metadata = made["metadata"]
        metadata["name"] = name
        turn = 0 if current is None else _turn(current) + 1
        metadata["annotations"] = {**metadata["annotations"], PREPARED: name_of(snapshot), TURN: str(turn)}
        if current is not None and (of_class := class_of(current)):
            made["spec"]["storageClassName"] = of_class
        return await self._created(cargo_id, made)

    async def _wait_name_free(self, cargo_id: str, name: str) -> None:
        def is_free(found: Json | None) -> bool:
            return found is None

        if not await self._until(name, is_free, self._timeouts.gone):
            raise DriverUnavailable(
                f"a former volume claim of cargo {cargo_id} is still there, since a pod uses it; try again later"
            )

    async def _bind(self, cargo_id: str, claim: Json) -> None:
        """Return once the claim has its volume. Raises DriverUnavailable with the cluster's reason."""
        name, limit_s = name_of(claim), self._timeouts.bound

        def is_settled(found: Json | None) -> bool:
            return found is None or is_terminating(found) or is_bound(found)

        if is_bound(claim):
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                if await self._waits_for_pod(claim):
                    async with self._carriers.open(cargo_id, self._place(name)):
                        limit_s = self._timeouts.gone
        if not await self._until(name, is_settled, limit_s):
            told = await self._kube.events_of(metadata_of(claim)["uid"])
            why = str(told[-1].get("message"))[:500] if told else "see `kubectl describe pvc`"
            raise DriverUnavailable(
                f"volume claim {name} has no volume after {self._timeouts.bound:g} s: {why}"
            )
        found = await self._kube.get(CLAIM, name)
        if found is None or not is_bound(found):
            raise NotFound(f"volume claim {name} was removed before it had a volume")

    async def _until(self, name: str, fact: Callable[[Json | None], bool], limit_s: float) -> bool:
        """Whether the claim came to be so in time."""
        since = self._clock()
        for attempt in itertools.count(1):
            if fact(await self._kube.get(CLAIM, name)):
                return True
            if self._clock() - since > limit_s:
                break
            await self._sleep(_ASK.pause(attempt))
        return False

    async def _waits_for_pod(self, claim: Json) -> bool:
        try:
            known = await self._kube.get(STORAGE_CLASS, class_of(claim))
        except KubeRefused:  # Bay may not look
            return True
        return known is None or known.get("volumeBindingMode") == "WaitForFirstConsumer"

    async def _drop(self, cargo_id: str, claim: Json) -> None:
        """Remove a claim that has no use any more; the next look does it otherwise."""
        try:
            await self._remove(cargo_id, claim)
        except KubeConflict:  # another one by now
            return
        except BayError as error:
            log.warning("claim.stays", id=cargo_id, name=name_of(claim), error=error.message)

    async def _sweep(self, *, older_s: float) -> None:
        """Remove claims that were prepared and not put in place, and such as were replaced. One that is put
        in place meanwhile has another version, and stays.
        """
        now = datetime.now(UTC)
        doubled: set[str] = set()
        async for one in self._kube.list(CLAIM, labels=self._selector(), metadata_only=True):
            if is_terminating(one):
                continue
            if _is_prepared(one) and (now - _made_at(one, now)).total_seconds() >= older_s:
                metadata = metadata_of(one)
                with suppress(KubeConflict):
                    await self._kube.delete(
                        CLAIM, name_of(one), uid=metadata["uid"], version=metadata["resourceVersion"]
                    )
            elif not _is_prepared(one) and _turn(one):
                doubled.add(self._cargo_of(name_of(one)))
        for cargo_id in doubled:
            if is_id_of("ws", cargo_id):
                await self._found(cargo_id)
        for checkpoint_id, since in list(self._late.items()):
            with suppress(Conflict):  # another Bay's, or a claim waits for it: the next sweep looks again
                await self.remove_checkpoint(checkpoint_id)
            if self._clock() - since > self._timeouts.leftover:
                self._late.pop(checkpoint_id)


def snapshot_name(checkpoint_id: str) -> str:
    """The name of a checkpoint's VolumeSnapshot."""
    return f"{PREFIX}{checkpoint_id}"


def _names(cargo_id: str) -> tuple[str, str]:
    first = claim_name(cargo_id)
    return first, f"{first}{_SECOND}"


def _notes(found: Json) -> Json:
    return as_dict(metadata_of(found).get("annotations"))


def _is_prepared(claim: Json) -> bool:
    return PREPARED in _notes(claim)


def _turn(claim: Json) -> int:
    text = str(_notes(claim).get(TURN, "0"))
    return int(text) if text.isascii() and text.isdigit() else 0


def _made_at(claim: Json, now: datetime) -> datetime:
    """When the API server made it, by its clock; `now` where it does not say."""
    try:
        return datetime.fromisoformat(str(metadata_of(claim).get("creationTimestamp")))
    except ValueError:
        return now


def _is_cut(status: Json) -> bool:
    return bool(status.get("creationTime")) or _is_ready(status)


def _is_ready(status: Json) -> bool:
    return status.get("readyToUse") is True


def _least_bytes(snapshot: Json) -> int:
    """The least size of a claim from it: `restoreSize`, or the size of its claim."""
    told = quantity_bytes(str(as_dict(snapshot.get("status")).get("restoreSize")))
    noted = str(_notes(snapshot).get(SIZE, "0"))
    return told or (int(noted) if noted.isascii() and noted.isdigit() else 0)


class NoArchives:
    """The object store of a Bay that has none: no checkpoint is there."""

    place = "no object store"

    async def put(self, key: str, data: bytes, *, only_new: bool = False) -> bool:
        """Raises DriverUnavailable."""
        raise DriverUnavailable("there is no object store in the settings, so no archive is written")

    async def get(self, key: str, most: int = LARGEST) -> bytes:
        """Raises ObjectMissing."""
        raise ObjectMissing(key)

    async def folders(self, prefix: str, *, after: str, limit: int) -> list[str]:
        """None."""
        return []

    async def keys(self, prefix: str) -> dict[str, int]:
        """None."""
        return {}

    async def delete(self, keys: Collection[str]) -> None:
        """Nothing is there."""
