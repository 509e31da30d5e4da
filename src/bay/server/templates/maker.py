"""The maker freezes the sandboxes that templates are asked for of, and removes templates that nobody finds.

A template that is to be made is a row in state `building`: a Bay that ends in the middle leaves nothing but
that row, and begins again when it starts.

Of replicas one makes and collects, which knows the snapshots that builds under way have found. The others ask
it to stop a build, and to collect.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Protocol

import structlog

from bay.builds.steps import SHELL
from bay.errors import BayError, DatabaseUnavailable, InternalError, NotFound, Timeout
from bay.models import Failure
from bay.server.checkpoints.requests import CheckpointRequests
from bay.server.images.puller import Puller
from bay.server.replicas.bus import Bus
from bay.server.replicas.leases import ReplicaLeases
from bay.server.sessions.core import Core
from bay.server.sessions.notifier import Notifier
from bay.server.templates.freezing import ConfigChanges, TemplateFreezer, changes_of
from bay.store import checkpoints, events, images, sandboxes, templates
from bay.store.connection import StoreConnection
from bay.store.records import CheckpointRecord, SandboxRecord, TemplateRecord

log = structlog.get_logger("bay.templates")

_AT_ONCE = 2
_BUILDS_OF_OWNER = 2
"""Builds of one owner at once; more wait. Their sandboxes count against the owner's quotas."""
_AGAIN_S = 60.0
_RETRY_S = 5.0
_CONTEXT_WITHIN = timedelta(hours=1)
_JOB, _STOP, _COLLECT = "templates", "templates.stop", "templates.collect"
_STOP_S, _COLLECT_S = 30.0, 60.0


@dataclass(frozen=True, slots=True)
class Source:
    """The checkpoint that a template is frozen from, the changes to its image's config, and the start command
    that the steps of a build named.
    """

    checkpoint: CheckpointRecord
    changes: ConfigChanges
    start_command: str | None = None


class TemplateSources(Protocol):
    """The part that makes the files of templates that are built."""

    def source(self, template: TemplateRecord) -> AbstractAsyncContextManager[Source]:
        """Within, the source is there. Raises BayError when a step fails."""
        ...

    async def clear(self, template: TemplateRecord) -> None:
        """Remove what a build that was cut off left."""

    async def collect(self) -> None:
        """Remove the files of templates that are gone."""


@dataclass(kw_only=True, eq=False)
class TemplateMaker:
    """Works until it is cancelled."""

    core: Core
    freezer: TemplateFreezer
    snapshots: CheckpointRequests
    puller: Puller
    notifier: Notifier
    poked: asyncio.Event
    """Set when a row has changed."""
    leases: ReplicaLeases
    bus: Bus
    builds: TemplateSources = field(init=False)
    _making: dict[str, asyncio.Task[None]] = field(init=False, default_factory=dict[str, asyncio.Task[None]])
    _places: asyncio.Semaphore = field(init=False, default_factory=lambda: asyncio.Semaphore(_AT_ONCE))
    _of_owner: defaultdict[str, asyncio.Semaphore] = field(
        init=False, default_factory=lambda: defaultdict(lambda: asyncio.Semaphore(_BUILDS_OF_OWNER))
    )

    def __post_init__(self) -> None:
        self.bus.answer(_STOP, self._stop_here)
        self.bus.answer(_COLLECT, self._collect_here)

    def poke(self) -> None:
        """A row has changed."""
        self.poked.set()

    async def run(self) -> None:
        """Work until cancelled."""
        await self._collected()
        async with asyncio.TaskGroup() as group:
            while True:
                self.poked.clear()
                try:
                    await self._look(group)
                except Exception:
                    log.exception("templates.failed")
                try:
                    async with asyncio.timeout(_AGAIN_S):
                        await self.poked.wait()
                except TimeoutError:
                    await self._collected()

    async def _collected(self) -> None:
        try:
            await self.builds.collect()
        except Exception:
            log.exception("templates.not_collected")

    async def fail(self, template: TemplateRecord, error: BayError) -> None:
        """Write down why a template could not be made."""
        now = self.core.clock()
        failure = Failure(code=error.code, message=error.message, at=now)
        async with self.core.store.write() as db:
            present = await templates.get(db, template.id)
            if present is None or not present.is_building:
                return
            await templates.change(db, template.id, state="failed", error=failure, build=None)
            await events.add_of_image(
                db, template.owner, "template.failed", now,
                template_id=template.id, name=template.name, tag=template.tag, code=error.code, message=error.message,
            )  # fmt: skip
        log.warning("template.failed", id=template.id, code=error.code, error=error.message)
        self.notifier.announce(template.id)

    async def hide(self, db: StoreConnection, template: TemplateRecord) -> None:
        """Delete a template's row, and with it its image and its files, which nothing else uses."""
        now = self.core.clock()
        await templates.change(db, template.id, deleted_at=now, build=None)
        await templates.drop_aliases(db, template.id)
        if template.image_id is not None:
            await images.change(db, template.image_id, deleted_at=now)
            await checkpoints.hide_steps_of(db, template.image_id, now)
        if template.checkpoint_id is not None:
            await checkpoints.change(db, template.checkpoint_id, deleted_at=now)
        await events.add_of_image(
            db, template.owner, "template.deleted", now,
            template_id=template.id, name=template.name, tag=template.tag,
        )  # fmt: skip

    async def collect(self) -> None:
        """Remove once the files of templates that were deleted, and templates that lost their tag and are not
        in use.
        """
        await self.leases.ask_holder(_JOB, _COLLECT, "", _COLLECT_S)

    async def _collect_here(self, _item: str) -> bool:
        async with self.core.store.write() as db:
            for template in await templates.superseded(db):
                await self.hide(db, template)
        await self.builds.collect()
        self.freezer.discard()
        await self.puller.collect()
        return True

    async def stop(self, template: TemplateRecord) -> None:
        """End the work on a template that was deleted, and remove what it left."""
        await self.leases.ask_holder(_JOB, _STOP, template.id, _STOP_S)
        if template.build is not None:
            await self.builds.clear(template)

    async def _stop_here(self, template_id: str) -> bool:
        if (making := self._making.get(template_id)) is not None:
            making.cancel()
            await asyncio.wait([making])
        return True

    async def _look(self, group: asyncio.TaskGroup) -> None:
        async with self.core.store.read() as db:
            wanted = await templates.building(db)
            superseded = await templates.superseded(db)
        for template in wanted:
            if template.id not in self._making and await self._may_begin(template):
                making = self._making[template.id] = group.create_task(self._make(template))
                making.add_done_callback(lambda _, template_id=template.id: self._making.pop(template_id))
        if superseded:
            await self._collect_here("")

    async def _may_begin(self, template: TemplateRecord) -> bool:
        """Whether all is here that it is made of; one whose context does not come fails."""
        if template.build is None or template.build["context"] != "awaited":
            return True
        if self.core.clock() - template.created_at > _CONTEXT_WITHIN:
            within = f"{_CONTEXT_WITHIN / timedelta(minutes=1):g} minutes"
            await self.fail(template, Timeout(f"the context of the build did not come within {within}"))
        return False

    async def _make(self, known: TemplateRecord) -> None:
        try:
            await self._try_to_make(known)
        except Exception:
            # Such as a database that cannot be used just now: the row is as it was, and begins again.
            log.exception("template.end_not_written", id=known.id)
            await asyncio.sleep(_RETRY_S)
            self.notifier.announce(known.id)  # its end may be written, and only the answer lost
        self.poke()  # it may have taken the tag of another

    async def _try_to_make(self, known: TemplateRecord) -> None:
        async with self.core.store.read() as db:  # the row may be older than a delete, or than its own end
            template = await templates.get(db, known.id)
        if template is None or not template.is_building:
            return
        try:
            async with self._source(template) as source:
                await self._freeze(template, source)
        except DatabaseUnavailable:
            raise  # no fault of the template
        except BayError as error:
            await self.fail(template, error)
        except Exception:
            log.exception("template.making_failed", id=template.id)
            await self.fail(template, InternalError("Bay failed on an internal error; see its log"))

    @asynccontextmanager
    async def _source(self, template: TemplateRecord) -> AsyncGenerator[Source]:
        if template.sandbox_id is None:
            async with self._of_owner[template.owner], self.builds.source(template) as source:
                yield source
            return
        sandbox = await self._sandbox(template, template.sandbox_id)
        async with self.snapshots.origin(sandbox, None) as checkpoint:
            yield Source(checkpoint, changes_of(template.config))

    async def _freeze(self, template: TemplateRecord, source: Source) -> None:
        own = {"user": template.user, "working_dir": template.working_dir}
        changes = replace(source.changes, **{name: value for name, value in own.items() if value is not None})
        if source.start_command is not None and template.start_command is None:
            command = (*SHELL, source.start_command)
            async with self.core.store.write() as db:
                await templates.change(db, template.id, start_command=command)
        async with self._places:
            await self.freezer.freeze(template, source.checkpoint, changes)

    async def _sandbox(self, template: TemplateRecord, sandbox_id: str) -> SandboxRecord:
        async with self.core.store.read() as db:
            found = await sandboxes.get(db, sandbox_id)
        if found is None or found.deleted_at is not None or found.owner != template.owner:
            raise NotFound(f"sandbox {sandbox_id} was deleted before the template was made of it")
        return found
