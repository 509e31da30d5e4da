"""The maker freezes the sandboxes that templates are asked for of, and removes templates that nobody finds.

A template that is to be made is a row in state `building`: a Bay that ends in the middle leaves nothing but
that row, and begins again when it starts.
"""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field, replace

import structlog

from bay.errors import BayError, InternalError, NotFound
from bay.models import Failure
from bay.server.checkpoints.requests import CheckpointRequests
from bay.server.images.puller import Puller
from bay.server.sessions.core import Core
from bay.server.sessions.notifier import Notifier
from bay.server.templates.freezing import TemplateFreezer, changes_of
from bay.store import checkpoints, events, images, sandboxes, templates
from bay.store.records import SandboxRecord, TemplateRecord
from bay.store.sqlite import StoreConnection

log = structlog.get_logger("bay.templates")

_AT_ONCE = 2
_AGAIN_S = 60.0


@dataclass(kw_only=True, eq=False)
class TemplateMaker:
    """Works until it is cancelled."""

    core: Core
    freezer: TemplateFreezer
    snapshots: CheckpointRequests
    puller: Puller
    notifier: Notifier
    _poked: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    _making: dict[str, asyncio.Task[None]] = field(init=False, default_factory=dict[str, asyncio.Task[None]])
    _places: asyncio.Semaphore = field(init=False, default_factory=lambda: asyncio.Semaphore(_AT_ONCE))

    def poke(self) -> None:
        """A row has changed."""
        self._poked.set()

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._poked.clear()
                try:
                    await self._look(group)
                except Exception:
                    log.exception("templates.failed")
                with suppress(TimeoutError):
                    async with asyncio.timeout(_AGAIN_S):
                        await self._poked.wait()

    async def fail(self, template: TemplateRecord, error: BayError) -> None:
        """Write down why a template could not be made."""
        now = self.core.clock()
        failure = Failure(code=error.code, message=error.message, at=now)
        async with self.core.store.write() as db:
            present = await templates.get(db, template.id)
            if present is None or present.deleted_at is not None or present.state != "building":
                return
            await templates.change(db, template.id, state="failed", error=failure)
            await events.add_of_image(
                db, template.owner, "template.failed", now,
                template_id=template.id, name=template.name, tag=template.tag, code=error.code, message=error.message,
            )  # fmt: skip
        log.warning("template.failed", id=template.id, code=error.code, error=error.message)
        self.notifier.announce(template.id)

    async def hide(self, db: StoreConnection, template: TemplateRecord) -> None:
        """Delete a template's row, and with it its image and its files, which nothing else uses."""
        now = self.core.clock()
        await templates.change(db, template.id, deleted_at=now)
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
        async with self.core.store.write() as db:
            for template in await templates.superseded(db):
                await self.hide(db, template)
        self.freezer.discard()
        await self.puller.collect()

    async def _look(self, group: asyncio.TaskGroup) -> None:
        async with self.core.store.read() as db:
            wanted = await templates.building(db)
            superseded = await templates.superseded(db)
        for template in wanted:
            if template.sandbox_id is not None and template.id not in self._making:
                making = self._making[template.id] = group.create_task(
                    self._make(template, template.sandbox_id)
                )
                making.add_done_callback(lambda _, template_id=template.id: self._making.pop(template_id))
        if superseded:
            await self.collect()

    async def _make(self, template: TemplateRecord, sandbox_id: str) -> None:
        try:
            async with self._places:
                await self._freeze(template, await self._sandbox(template, sandbox_id))
        except BayError as error:
            await self.fail(template, error)
        except Exception:
            log.exception("template.making_failed", id=template.id)
            await self.fail(template, InternalError("Bay failed on an internal error; see its log"))
        self.poke()  # it may have taken the tag of another

    async def _freeze(self, template: TemplateRecord, sandbox: SandboxRecord) -> None:
        own = {"user": template.user, "working_dir": template.working_dir}
        changes = replace(
            changes_of(template.config), **{name: value for name, value in own.items() if value is not None}
        )
        async with self.snapshots.origin(sandbox, None) as checkpoint:
            await self.freezer.freeze(template, checkpoint, changes)

    async def _sandbox(self, template: TemplateRecord, sandbox_id: str) -> SandboxRecord:
        async with self.core.store.read() as db:
            found = await sandboxes.get(db, sandbox_id)
        if found is None or found.deleted_at is not None or found.owner != template.owner:
            raise NotFound(f"sandbox {sandbox_id} was deleted before the template was made of it")
        return found
