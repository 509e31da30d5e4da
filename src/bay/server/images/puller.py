"""The puller brings wanted images to this host, and removes images, layers and tops that nothing needs.

A pull is a row in state `pulling`: a Bay that ends goes on with it when it starts again. A deleted row
cancels its pull. The sandboxes that wait for an image are poked when its pull has ended.

Of replicas one pulls and collects. The others ask it how far its pulls are, and to collect: it knows which
files a pull under way is about to need.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from operator import itemgetter

import structlog

from bay.backoff import Backoff
from bay.errors import BayError, DatabaseUnavailable, ImageInvalid, ImageNotFound, InternalError
from bay.images.base import BroughtImage, HeldLayer, ImageLibrary, ImageSource
from bay.images.registries import Credentials
from bay.models import Failure, PullProgress, from_wire, to_wire
from bay.server.images.entrypoints import NAME, service_of
from bay.server.images.layers import held_by, rows_of
from bay.server.images.requests import HOST, ImageRequests
from bay.server.replicas.bus import Bus
from bay.server.replicas.leases import ReplicaLeases
from bay.server.sessions.core import Core
from bay.server.sessions.notifier import Notifier
from bay.server.sessions.work_queue import WorkQueue
from bay.store import checkpoints, events, images, sandboxes, services
from bay.store.connection import StoreConnection
from bay.store.records import ImageLayer, ImageRecord

log = structlog.get_logger("bay.images")

_ATTEMPTS = 8
_BACKOFF = Backoff(1.0, 60.0)
_COLLECT_S = 60.0
_AGAIN_S = 60.0
"""After a failure of Bay's own database."""
_RETRY_S = 5.0
"""After an outage of it."""
_JOB, _PROGRESS, _COLLECT = "images", "images.progress", "images.collect"
_ASKED = 40
"""Pulls of one question: the answer has to fit into a message."""


@dataclass(kw_only=True, eq=False)
class Puller:
    """Works until it is cancelled; `places` pulls at once. `keep`: how long an unused image stays."""

    core: Core
    library: ImageLibrary
    requests: ImageRequests
    queue: WorkQueue
    notifier: Notifier
    credentials: Callable[[ImageRecord], Awaitable[Credentials | None]]
    places: int
    keep: timedelta | None
    poked: asyncio.Event
    """Set when a row has changed."""
    leases: ReplicaLeases
    bus: Bus
    _pulls: dict[str, asyncio.Task[None]] = field(init=False, default_factory=dict[str, asyncio.Task[None]])
    _progress: dict[str, PullProgress] = field(init=False, default_factory=dict[str, PullProgress])

    def __post_init__(self) -> None:
        self.bus.answer(_PROGRESS, self._progress_here)
        self.bus.answer(_COLLECT, self._collect_here)

    def poke(self) -> None:
        """A row has changed."""
        self.poked.set()

    async def progress(self, image_ids: Sequence[str]) -> dict[str, PullProgress]:
        """How far the pulls of those images have come that are under way, as far as that is known."""
        found = dict[str, PullProgress]()
        for first in range(0, len(image_ids), _ASKED):
            item = json.dumps(image_ids[first : first + _ASKED])
            told: dict[str, object] | None = await self.leases.ask_holder(_JOB, _PROGRESS, item)
            found |= {one: from_wire(PullProgress, value) for one, value in (told or {}).items()}
        return found

    async def _progress_here(self, item: str) -> object:
        wanted: list[str] = json.loads(item)
        return {one: to_wire(self._progress[one]) for one in wanted if one in self._progress}

    async def take_over(self) -> None:
        """After a restart: ask for the images of the profiles, and again for those whose files are lost."""
        async with self.core.store.read() as db:
            there = await images.ready(db)
            layers = {image.id: await images.layers_of(db, image.id) for image in there}
        for image in there:
            if image.source == "upload":  # an earlier Bay may have ended between the row and this
                await self.library.drop_upload(image.id)
        lost = [i for i in there if not await self.library.is_whole(i.id, _diff_ids(layers[i.id]))]
        async with self.core.store.write() as db:
            for image in lost:
                await self._ask_again(db, image)
            for profile in self.core.profiles.values() if self.core.driver.capabilities.layered else ():
                if profile.image != HOST:
                    await self.requests.of_profile(db, profile.image)

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._collect_often())
            while True:
                self.poked.clear()
                wait_s = await self._looked(group)
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await self.poked.wait()

    async def collect(self) -> None:
        """Remove once what may go: images unused for long, and files that no row needs."""
        await self.leases.ask_holder(_JOB, _COLLECT, "", _COLLECT_S)

    async def _collect_here(self, _item: str) -> bool:
        if self.keep is not None:
            async with self.core.store.write() as db:
                for image in await images.unused(db, self.core.clock() - self.keep):
                    await self.hide(db, image)
        await self.library.collect(self._needed)
        return True

    async def hide(self, db: StoreConnection, image: ImageRecord) -> None:
        """Delete an image's row; its files go with the next collection, and a pull of it is cancelled."""
        now = self.core.clock()
        await images.change(db, image.id, deleted_at=now)
        await checkpoints.hide_steps_of(db, image.id, now)
        await events.add_of_image(db, image.owner, "image.deleted", now, image_id=image.id, ref=image.ref)

    async def _looked(self, group: asyncio.TaskGroup) -> float | None:
        try:
            return await self._look(group)
        except Exception:
            log.exception("images.not_looked_at")
            return _AGAIN_S

    async def _look(self, group: asyncio.TaskGroup) -> float | None:
        """Begin what is due and cancel what is no longer wanted; seconds until something else is due."""
        async with self.core.store.read() as db:
            wanted = await images.pulling(db)
            deleted = await images.deleted(db, self._pulls.keys())
        for image_id in deleted & self._pulls.keys():
            if not self._pulls[image_id].cancelling():  # a second time it would not clear up
                self._pulls[image_id].cancel()
        now = self.core.clock()
        idle = [image for image in wanted if image.id not in self._pulls]
        due = [image for image in idle if image.retry_at is None or image.retry_at <= now]
        owners = [image.owner for image in wanted if image.id in self._pulls]
        for image in in_turn(due, owners, self.places)[: max(0, self.places - len(self._pulls))]:
            pull = self._pulls[image.id] = group.create_task(self._pull(image))
            pull.add_done_callback(lambda _, image_id=image.id: self._ended(image_id))
        later = [image.retry_at for image in idle if image.retry_at is not None and image.retry_at > now]
        return (min(later) - now).total_seconds() if later else None

    def _ended(self, image_id: str) -> None:
        del self._pulls[image_id]
        self._progress.pop(image_id, None)
        self.poke()

    async def _pull(self, image: ImageRecord) -> None:
        self._progress[image.id] = PullProgress(step="waiting")
        try:
            await self._bring(image)
        except DatabaseUnavailable as error:  # no fault of the image
            await self._wait_out(image, error)
        except BayError as error:
            await self._give_up(image, error)
        except Exception:
            log.exception("image.pull_failed", id=image.id)
            await self._give_up(image, InternalError("Bay failed on an internal error; see its log"))

    async def _give_up(self, image: ImageRecord, error: BayError) -> None:
        try:
            await self._failed(image, error)
        except Exception:
            log.exception("image.failure_not_written", id=image.id)  # the disk may be full for this, too
            await asyncio.sleep(_AGAIN_S)  # the row is as it was, and begins again when this ends

    async def _wait_out(self, image: ImageRecord, error: DatabaseUnavailable) -> None:
        """Return when the database answers again. A row that still counts as pulling begins again then."""
        while True:
            log.warning("image.waits", id=image.id, error=error.message)
            await asyncio.sleep(_RETRY_S)
            try:
                await self._wake(image.id)  # the end may be written, and only its answer lost
            except DatabaseUnavailable as again:
                error = again
            else:
                return

    async def _bring(self, image: ImageRecord) -> None:
        def note(progress: PullProgress) -> None:
            before, self._progress[image.id] = self._progress[image.id], progress
            if progress.layers_done > before.layers_done:
                self._tell(image, progress)

        if image.config is None:  # not one that was here before, and counts already
            async with self.core.store.read() as db:
                await self.requests.quotas.admit_pull(db, image.owner, image.size_bytes or 0)
        source = ImageSource(
            ref=image.ref, owner=image.owner, digest=image.digest, is_upload=image.source == "upload",
            credentials=await self.credentials(image),
        )  # fmt: skip

        async def held() -> tuple[HeldLayer, ...]:
            async with self.core.store.read() as db:
                return held_by(await images.layers_for(db, image.owner))

        async with self.library.bring(image.id, source, held, note) as brought:
            await self.core.deferred.flush()  # its progress comes before its end
            async with self.core.store.write() as db:
                await self._ready(db, image, brought)
        log.info("image.ready", id=image.id, ref=image.ref, digest=brought.digest)
        await self._wake(image.id)

    def _tell(self, image: ImageRecord, progress: PullProgress) -> None:
        data = {"layers_done": progress.layers_done, "layers_total": progress.layers_total}
        of = {"image_id": image.id, "ref": image.ref, **data}
        now = self.core.clock()
        self.core.deferred.put(lambda db: events.add_of_image(db, image.owner, "image.progress", now, **of))

    async def _ready(self, db: StoreConnection, image: ImageRecord, brought: BroughtImage) -> None:
        present = await images.get(db, image.id)
        if present is None or present.deleted_at is not None:
            return
        now = self.core.clock()
        await images.change(
            db, image.id, state="ready", digest=brought.digest, config=dict(brought.config), facts=dict(brought.facts),
            layers=len(brought.layers), size_bytes=brought.size_bytes, attempts=0, retry_at=None, last_used_at=now,
        )  # fmt: skip
        await images.set_layers(db, image.id, rows_of(image.id, brought))
        await events.add_of_image(
            db, image.owner, "image.ready", now, image_id=image.id, ref=image.ref, digest=brought.digest
        )
        ready = await images.get(db, image.id)
        if ready is not None:
            await self._begin_services(db, ready)
        superseded = {one.id for one in await images.older(db, ready or image)}
        for older in await images.unused(db, now, owner=image.owner):
            if older.id in superseded:
                await self.hide(db, older)

    async def _begin_services(self, db: StoreConnection, image: ImageRecord) -> None:
        """Give the image's command, as a service, to the sandboxes that asked for it before it was here."""
        for sandbox_id in await images.wanting_service(db, image.id):
            sandbox = await sandboxes.get(db, sandbox_id)
            profile = self.core.profiles.get(sandbox.profile) if sandbox else None
            if sandbox is None or profile is None:
                continue
            await sandboxes.change(db, sandbox.id, entrypoint=None)
            try:
                await services.put(db, sandbox.id, service_of(image, profile))
            except ImageInvalid as error:
                now = self.core.clock()
                await events.add(db, sandbox, "service.failed", now, service=NAME, message=error.message)

    async def _failed(self, image: ImageRecord, error: BayError) -> None:
        now, attempts = self.core.clock(), image.attempts + 1
        failure = Failure(code=error.code, message=error.message, at=now)
        is_over = not error.retryable or attempts >= _ATTEMPTS
        pause = _pause(error, attempts)
        log.warning(
            "image.failed",
            id=image.id,
            ref=image.ref,
            code=error.code,
            error=error.message,
            again=not is_over,
        )
        async with self.core.store.write() as db:
            present = await images.get(db, image.id)
            if present is None or present.deleted_at is not None or present.state != "pulling":
                return
            if is_over:
                over = {"state": "failed", "attempts": attempts, "size_bytes": None}
                await images.change(db, image.id, **over, error=failure)
                await events.add_of_image(
                    db, image.owner, "image.failed", now, image_id=image.id, ref=image.ref, code=error.code, message=error.message
                )  # fmt: skip
            else:
                await images.change(db, image.id, attempts=attempts, retry_at=now + pause, error=failure)
        await self._wake(image.id)
        if is_over:
            await self.library.drop_upload(image.id)

    async def _wake(self, image_id: str) -> None:
        async with self.core.store.read() as db:
            found = await images.waiting(db, image_id)
        self.notifier.announce(image_id)
        for sandbox_id in found:
            self.queue.put(sandbox_id)

    async def _ask_again(self, db: StoreConnection, image: ImageRecord) -> None:
        """Fetch an image whose files are lost; of any other its owner hears that they are."""
        log.warning("image.lost", id=image.id, ref=image.ref)
        await images.drop_layers(db, image.id)
        if image.source == "registry":
            await images.change(db, image.id, state="pulling", attempts=0, retry_at=None)
            return
        way_out = "upload it again" if image.source == "upload" else "make the template again"
        gone = ImageNotFound(f"the files of this image are lost; {way_out}")
        failure = Failure(code=gone.code, message=gone.message, at=self.core.clock())
        await images.change(db, image.id, state="failed", error=failure)

    async def _needed(self) -> tuple[set[str], set[str]]:
        async with self.core.store.read() as db:
            return await images.needed(db)

    async def _collect_often(self) -> None:
        while True:
            try:
                await self._collect_here("")
            except BayError as error:
                log.warning("images.not_collected", error=error.message)
            except Exception:
                log.exception("images.collection_failed")
            await asyncio.sleep(_COLLECT_S)
            self.poke()  # a pool tells nobody that it wants an image again whose pull failed: one pull a minute


def in_turn(due: Sequence[ImageRecord], running: Sequence[str], places: int) -> list[ImageRecord]:
    """The pulls that may begin beside those of the owners `running`, in this order: who has fewest comes
    first, and one owner's are never in the last of several places.
    """
    counts = Counter(running)
    ranked: list[tuple[int, ImageRecord]] = []
    for image in due:
        ranked.append((counts[image.owner], image))
        counts[image.owner] += 1
    most = max(1, places - 1)
    turns = sorted((one for one in ranked if one[0] < most), key=itemgetter(0))
    return [image for _, image in turns]


def _pause(error: BayError, attempts: int) -> timedelta:
    """The back-off, and no less than the registry asked for, within a bound."""
    asked = error.details.get("retry_after_ms")
    return timedelta(seconds=max(_BACKOFF.pause(attempts), min(asked / 1000, 300.0) if asked else 0.0))


def _diff_ids(layers: list[ImageLayer]) -> list[str]:
    return [layer.diff_id for layer in layers]
