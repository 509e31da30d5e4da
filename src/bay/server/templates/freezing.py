"""Freezing makes a template ready: a checkpoint's changes to its root become one more layer of its image, and
its workspace becomes files that sandboxes of the template begin with.

All of it is done beside what is there, and one transaction makes it count. A Bay that ends before that leaves
files without a row, which go when the next one starts.
"""

import json
import os
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import structlog

from bay.cargo.base import CheckpointFiles, DiskUsage, checkpoint_files, checkpoint_store
from bay.errors import BayError, Conflict, InvalidArgument
from bay.ids import new_id
from bay.images.base import BroughtImage, FrozenRoot, HeldLayer
from bay.images.config import Healthcheck, ImageConfig
from bay.linux import remove_tree
from bay.linux.threads import in_new_thread
from bay.server.images.layers import held_by, rows_of
from bay.server.sessions.core import Core
from bay.server.sessions.notifier import Notifier
from bay.store import checkpoints, events, images, templates
from bay.store.connection import StoreConnection
from bay.store.lost_commits import may_be_there
from bay.store.records import CheckpointRecord, ImageRecord, TemplateRecord

log = structlog.get_logger("bay.templates")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigChanges:
    """Changes to an image's config; None leaves what it says. `env`, `labels`, `exposed_ports` add to it."""

    env: Mapping[str, str] = field(default_factory=dict[str, str])
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    exposed_ports: tuple[str, ...] = ()
    user: str | None = None
    working_dir: str | None = None
    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    stop_signal: str | None = None
    healthcheck: Healthcheck | None = None

    def applied_to(self, config: ImageConfig) -> ImageConfig:
        """The config with these changes."""
        names = ("user", "working_dir", "entrypoint", "cmd", "stop_signal", "healthcheck")
        given = {name: value for name in names if (value := getattr(self, name)) is not None}
        return replace(
            config, env={**config.env, **self.env}, labels={**config.labels, **self.labels},
            exposed_ports=tuple(dict.fromkeys((*config.exposed_ports, *self.exposed_ports))), **given,
        )  # fmt: skip


_KEYS = {
    "Env": "env", "User": "user", "WorkingDir": "working_dir", "Entrypoint": "entrypoint", "Cmd": "cmd",
    "StopSignal": "stop_signal", "ExposedPorts": "exposed_ports", "Labels": "labels", "Healthcheck": "healthcheck",
}  # fmt: skip


def changes_of(config: Mapping[str, Any] | None) -> ConfigChanges:
    """The changes that the keys of a config in the form of OCI name. Raises ImageInvalid for one that breaks
    a rule of images, and InvalidArgument for another key.
    """
    given = config or {}
    if unknown := given.keys() - _KEYS.keys():
        raise InvalidArgument(f"config.{min(unknown)[:80]} is not known here; there is {', '.join(_KEYS)}")
    whole = json.dumps({"os": "linux", "architecture": "any", "config": given})
    found = ImageConfig.from_json(whole.encode())
    return ConfigChanges(**{name: getattr(found, name) for key, name in _KEYS.items() if key in given})


@dataclass(frozen=True, slots=True)
class _Frozen:
    """The results of a freeze that no row names yet. `checkpoint_id`: the files of the workspace."""

    image: BroughtImage
    image_id: str
    checkpoint_id: str | None


@dataclass(kw_only=True, eq=False)
class TemplateFreezer:
    """Makes templates of checkpoints. `discard` is called when files may have become garbage."""

    core: Core
    notifier: Notifier
    discard: Callable[[], None]

    async def freeze(
        self, template: TemplateRecord, checkpoint: CheckpointRecord, changes: ConfigChanges
    ) -> TemplateRecord:
        """Make the template, a row in state `building`, ready: with the root and the workspace of the
        checkpoint, which stays as it is, and may be hidden. Its tag is its own from then on.

        When it fails or is cancelled nothing stays, and the row is as before; after DatabaseUnavailable the
        template may be ready, and files without a row may stay until Bay's next start. Raises Conflict for a
        checkpoint without the root of an image, or when the template was deleted meanwhile, and what
        `ImageLibrary.freeze` and the cargo backend raise.
        """
        base = await self._base(checkpoint)
        config = changes.applied_to(ImageConfig.from_row(base.config or {})).to_json()
        async with self.core.store.read() as db:
            layers = held_by(await images.layers_of(db, base.id))
        async with self._made(checkpoint, layers, config) as frozen, self.core.store.write() as db:
            ready = await self._ready(db, template, checkpoint, frozen)
        self.discard()
        self.notifier.announce(template.id)
        log.info("template.ready", id=template.id, ref=template.ref, image=frozen.image_id)
        await self._measure(checkpoint, frozen)
        return ready

    async def _base(self, checkpoint: CheckpointRecord) -> ImageRecord:
        async with self.core.store.read() as db:
            image = await images.get(db, checkpoint.image_id) if checkpoint.image_id else None
        if checkpoint.persist != "machine" or image is None or image.config is None:
            raise Conflict(
                f"checkpoint {checkpoint.id} has no root file system of an image, so no template can be made of it; "
                "use a sandbox of a profile with `persist: machine` and of another image than `host`"
            )
        return image

    @asynccontextmanager
    async def _made(
        self, checkpoint: CheckpointRecord, base: tuple[HeldLayer, ...], config: Mapping[str, Any]
    ) -> AsyncGenerator[_Frozen]:
        """The image and the files, there and without a row in the block."""
        files, copy, image_id = checkpoint_files(self.core.cargo), new_id("ckpt"), new_id("img")
        try:
            directory = await files.begin_import(copy, limit_bytes=None, origin=checkpoint.id)
            root = FrozenRoot(base=base, layer_id=f"template:{copy}", directory=directory)
            async with self.core.images.freeze(image_id, root, config) as image:
                has_files = await self._keep_files(files, copy, directory)
                yield _Frozen(image, image_id, copy if has_files else None)
        except BaseException as error:
            if not await may_be_there(self.core.store, error, lambda db: images.get(db, image_id)):
                await checkpoint_store(self.core.cargo).remove_checkpoint(copy)
            raise
        finally:
            await files.drop_import(copy)

    async def _keep_files(self, files: CheckpointFiles, copy: str, directory: Path) -> bool:
        """Make the workspace in `directory` a checkpoint of its own, if there is something in it."""
        if not await in_new_thread(lambda: os.listdir(directory / "workspace")):
            return False
        layers = await in_new_thread(lambda: os.listdir(directory / "machine"))
        if layers:
            await remove_tree.remove(*(directory / "machine" / name for name in layers))
        await files.keep_import(copy)
        return True

    async def _ready(
        self, db: StoreConnection, template: TemplateRecord, checkpoint: CheckpointRecord, frozen: _Frozen
    ) -> TemplateRecord:
        present = await templates.get(db, template.id)
        if present is None or not present.is_building:
            raise Conflict(f"template {template.id} was deleted while it was made")
        await self._add_image(db, present, frozen)
        await self._add_files(db, present, checkpoint, frozen)
        await templates.take_name(db, present, present.name, present.tag)
        await templates.drop_failed(db, present, self.core.clock())
        made = {
            "state": "ready",
            "error": None,
            "build": None,
            "image_id": frozen.image_id,
            "checkpoint_id": frozen.checkpoint_id,
        }
        await templates.change(db, present.id, **made)
        await events.add_of_image(
            db, present.owner, "template.ready", self.core.clock(),
            template_id=present.id, name=present.name, tag=present.tag, image_id=frozen.image_id,
        )  # fmt: skip
        return await templates.get(db, present.id) or present

    async def _add_image(self, db: StoreConnection, template: TemplateRecord, frozen: _Frozen) -> None:
        now, made = self.core.clock(), frozen.image
        await images.add(db, ImageRecord(
            id=frozen.image_id, owner=template.owner, shared=template.shared, ref=f"template:{template.id}",
            source="template", state="ready", config=dict(made.config), facts=dict(made.facts), layers=len(made.layers),
            size_bytes=made.size_bytes, created_at=now, last_used_at=now,
        ))  # fmt: skip
        await images.set_layers(db, frozen.image_id, rows_of(frozen.image_id, made))

    async def _add_files(
        self, db: StoreConnection, template: TemplateRecord, checkpoint: CheckpointRecord, frozen: _Frozen
    ) -> None:
        if frozen.checkpoint_id is None:
            return
        await checkpoints.add(db, CheckpointRecord(
            id=frozen.checkpoint_id, owner=template.owner, sandbox_id=template.id, name=None, comment=None, hidden=True,
            persist="workspace", image=checkpoint.image, parent_id=None, state="ready", created_at=self.core.clock(),
        ))  # fmt: skip

    async def _measure(self, checkpoint: CheckpointRecord, frozen: _Frozen) -> None:
        """Write down the size of the new layer. It is for people to see, so a failure is none."""
        cargo, files = self.core.cargo, frozen.checkpoint_id
        unknown = [layer.diff_id for layer in frozen.image.layers if layer.size_bytes == 0]
        if not unknown or not isinstance(cargo, DiskUsage):
            return
        try:
            found = await cargo.weigh([checkpoint.id, *([files] if files else [])])
        except BayError as error:
            log.warning("template.not_measured", image=frozen.image_id, error=error.message)
            return
        if checkpoint.id in found:
            kept = found[files].used_bytes if files in found else 0
            async with self.core.store.write() as db:
                size = max(0, found[checkpoint.id].used_bytes - kept)
                await images.measure(db, frozen.image_id, unknown[-1], size)
