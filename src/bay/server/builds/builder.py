"""The builder makes the files of a template in a sandbox of its owner, step by step.

A build that Bay's end cut off begins again, and finds the snapshots after the steps that were done.
"""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

import structlog

from bay.builds.steps import BuildConfig, BuildPlan, Step
from bay.errors import BayError, BuildFailed, Conflict, Unauthorized, error_from_wire
from bay.linux.threads import in_new_thread
from bay.models import ContainerImage, Failure, Sandbox
from bay.server.builds.context import BuildContext
from bay.server.builds.files import BuildFiles, BuildLog
from bay.server.builds.step_keys import step_keys
from bay.server.builds.step_runner import StepRunner
from bay.server.checkpoints import policy
from bay.server.checkpoints.requests import CheckpointRequests
from bay.server.execs.service import Execs
from bay.server.files.service import SandboxFiles
from bay.server.images.service import Images, WantedImage
from bay.server.sandboxes.service import NewSandbox, Sandboxes
from bay.server.sessions.core import Core
from bay.server.sessions.waker import Holds
from bay.server.templates.build_spec import BuildSpec
from bay.server.templates.freezing import changes_of
from bay.server.templates.maker import Source
from bay.server.web.auth import Caller
from bay.store import checkpoints, images, sandboxes, templates
from bay.store.records import CheckpointRecord, Filters, TemplateRecord
from bay.store.sqlite import StoreConnection

log = structlog.get_logger("bay.builds")

LABEL = "bay.build"
"""The label of a build's sandbox; its value is the template's id."""

_START_S = 300.0
_PULL_S = 30.0
_LIFE_S = 86_400
_MAX_STEPS_KEPT = 100
"""Snapshots after steps of one owner."""
_PAGE = 100


@dataclass(frozen=True, slots=True)
class _Work:
    """One build: whose it is, what is done, and where that is told."""

    template: TemplateRecord
    spec: BuildSpec
    caller: Caller
    image: ContainerImage
    plan: BuildPlan
    context: BuildContext
    log: BuildLog
    keys: Sequence[str]
    """Of the steps; empty where snapshots cost as much as a copy."""

    def shown(self, at: int) -> str:
        """The step as a line of the log."""
        return f"[{at + 1}/{len(self.plan.steps)}] {self.plan.steps[at].text}\n"


@dataclass(kw_only=True, eq=False)
class Builder:
    """Makes the sources that templates are frozen from. `keep` is how long an unused snapshot stays,
    `keep_bytes` how much an owner has of them.
    """

    core: Core
    sandboxes: Sandboxes
    execs: Execs
    sandbox_files: SandboxFiles
    images: Images
    snapshots: CheckpointRequests
    files: BuildFiles
    holds: Holds
    is_key: Callable[[str], bool]
    keep: timedelta
    keep_bytes: int

    @asynccontextmanager
    async def source(self, template: TemplateRecord) -> AsyncGenerator[Source]:
        """Within, a checkpoint has the files that the steps of the template's build made. Raises BuildFailed
        for a step that fails, and what sandboxes, execs and images raise.
        """
        spec = BuildSpec.of_row(template.build or {})
        if not self.is_key(spec.key_id):
            raise Unauthorized(
                "the key that asked for the build was revoked, or has expired; ask with another"
            )
        caller = Caller(template.owner, spec.scope, spec.key_id)
        await self.clear(template)  # of a build that was cut off
        told = await self.files.begin_log(template.id)
        try:
            work = await self._work(template, spec, caller, told)
            async with self._built(work) as checkpoint:
                await told("freezing\n")
                config = changes_of(work.plan.config.to_oci())
                yield Source(checkpoint, config, work.plan.start_command)
        except BayError as error:
            await told(f"failed: {error.message}\n")
            await self.files.drop_contexts(template.id)
            raise
        await self.files.drop_contexts(template.id)

    async def clear(self, template: TemplateRecord) -> None:
        """Delete the sandbox that a build of the template left."""
        filters = Filters(labels=((LABEL, template.id),))
        async with self.core.store.read() as db:
            now = self.core.clock()
            found = await sandboxes.page(db, template.owner, filters, now=now, after=0, limit=_PAGE)
        for record in found.items:
            await self._delete(Caller(template.owner, "write", ""), record.id)

    async def collect(self) -> None:
        """Remove what nobody needs: files of templates that are gone, contexts of builds that are over, the
        oldest logs of an owner who has many, snapshots after steps, and sandboxes that a killed Bay left.
        """
        names = await self.files.names()
        async with self.core.store.read() as db:
            known = await templates.among(db, names)
            boxes = await sandboxes.with_label(db, LABEL)
        for name in names:
            if _is_gone(known.get(name)):
                await self.files.remove(name)
        over = {name: one for name, one in known.items() if not one.is_building}
        await self.files.drop_contexts(*over)
        await self.files.bound_logs({name: one.owner for name, one in over.items()})
        for record in boxes:
            template = known.get(record.labels[LABEL])
            if template is not None and template.owner == record.owner and not template.is_building:
                await self._delete(Caller(record.owner, "write", ""), record.id)
        await self._collect_steps()

    async def _collect_steps(self) -> None:
        now = self.core.clock()
        async with self.core.store.read() as db:
            stale = await checkpoints.stale_steps(db, now - self.keep, _MAX_STEPS_KEPT, self.keep_bytes)
        if stale:
            async with self.core.store.write() as db:
                await self._hide(db, stale)

    async def _hide(self, db: StoreConnection, ids: Sequence[str]) -> None:
        """Delete snapshots that no build has just found."""
        free = [one for one in ids if not self.holds.any(one)]
        await checkpoints.hide(db, free, self.core.clock())

    async def _work(self, template: TemplateRecord, spec: BuildSpec, caller: Caller, told: BuildLog) -> _Work:
        base = await in_new_thread(lambda: spec.base)
        await told(f"FROM {base}\n")
        image = await self._image(caller, base, spec)
        async with self.core.store.read() as db:
            record = await images.get(db, image.id)
        config = BuildConfig.of(record.config if record and record.config else {})
        plan = await in_new_thread(lambda: spec.plan(config, image.platform or "linux/amd64"))
        if plan.unused_args:
            await told(f"note: no ARG asks for {', '.join(plan.unused_args)}\n")
        place = self.files.context(template.id) if spec.context == "here" else None
        try:
            context = await in_new_thread(lambda: BuildContext.read(place))
        except FileNotFoundError as error:  # a data directory that was put back lacks it
            raise BuildFailed("the context of the build is gone; build again") from error
        keys = await in_new_thread(lambda: self._keys(template, spec, image, plan.steps, context))
        return _Work(template, spec, caller, image, plan, context, told, keys)

    async def _image(self, caller: Caller, ref: str, spec: BuildSpec) -> ContainerImage:
        wanted = WantedImage(ref=ref, pull=spec.pull)
        found = await self.images.pull(caller, wanted, wait_s=_PULL_S, idempotency_key=None)
        while found.state == "pulling":
            found = await self.images.get(caller, found.id, _PULL_S)
        if found.state == "failed":
            raise _error_of(found.error, f"image {ref} could not be fetched")
        return found

    def _keys(
        self, template: TemplateRecord, spec: BuildSpec, image: ContainerImage, steps: Sequence[Step], context: BuildContext
    ) -> list[str]:  # fmt: skip
        """The keys, and the check of each copy before there is work that would be lost."""
        names = sorted(f"{one.name} {one.env} {one.file}" for one in spec.secrets)
        found = step_keys([image.id, template.profile, *names], steps, context)
        return found if self.core.cargo.shares_blocks and self.keep else []

    @asynccontextmanager
    async def _built(self, work: _Work) -> AsyncGenerator[CheckpointRecord]:
        """The last step's result. A build whose steps are all known needs no sandbox."""
        async with AsyncExitStack() as stack:
            done, checkpoint = await self._known(work, stack)
            for at in range(done):
                await work.log(work.shown(at) + "cached\n")
            if checkpoint is None or done < len(work.plan.steps):
                checkpoint = await self._made(work, checkpoint, done, stack)
            yield checkpoint

    async def _made(
        self, work: _Work, origin: CheckpointRecord | None, done: int, stack: AsyncExitStack
    ) -> CheckpointRecord:
        """The result of the steps from number `done` on, held in the stack, done in a sandbox that is gone
        when this returns.
        """
        box = await self._sandbox(work, origin)
        runner = StepRunner(
            execs=self.execs, files=self.sandbox_files, caller=work.caller, sandbox_id=box.id, context=work.context,
            log=work.log, step_timeout_s=work.spec.step_timeout_s,
        )  # fmt: skip
        made = None
        try:
            for at, step in enumerate(work.plan.steps[done:], done):
                await work.log(work.shown(at))
                await runner.run(step)
                if work.keys:
                    made = await self._snapshot(box.id, work.keys[at], stack)
            made = made or await self._snapshot(box.id, None, stack)
        except Exception:  # not when it is cancelled: Bay may be ending, and the next one clears up
            await self._delete(work.caller, box.id)
            raise
        await self._delete(work.caller, box.id)
        return made

    async def _known(self, work: _Work, stack: AsyncExitStack) -> tuple[int, CheckpointRecord | None]:
        """The number of steps whose result is here, and that of the last of these, held in the stack."""
        async with self.core.store.write() as db:
            found = await checkpoints.steps_among(db, work.caller.owner, work.keys)
            for at in reversed(range(len(work.keys))):
                if (checkpoint := found.get(work.keys[at])) is not None:
                    await checkpoints.change(db, checkpoint.id, used_at=self.core.clock())
                    stack.enter_context(self.holds.hold(checkpoint.id))
                    return at + 1, checkpoint
        return 0, None

    async def _sandbox(self, work: _Work, checkpoint: CheckpointRecord | None) -> Sandbox:
        new = NewSandbox(
            profile=work.template.profile,
            image=work.image.id,
            ttl=_LIFE_S,
            labels={LABEL: work.template.id},
            from_checkpoint=checkpoint and checkpoint.id,
            secrets=work.spec.secrets,
            sizes=work.template.sizes,
        )
        made = await self.sandboxes.create(work.caller, new, None, _START_S)
        if made.status != "ready":
            await self._delete(work.caller, made.id)
            raise _error_of(made.error, f"the build's sandbox did not start within {_START_S:g} s")
        return made

    async def _snapshot(self, box: str, key: str | None, stack: AsyncExitStack) -> CheckpointRecord:
        """A snapshot of now, held in the stack, which outlives the sandbox. With a key the next build may
        begin with it; without one it goes at the end.
        """
        async with self.core.store.read() as db:
            record = await sandboxes.get(db, box)
        if record is None or record.deleted_at is not None:
            raise Conflict(f"the build's sandbox {box} was deleted")
        now = self.core.clock()
        made = await self.snapshots.make(record, policy.asked(record, now, hidden=True))
        stack.enter_context(self.holds.hold(made.id))
        if key is None:
            stack.push_async_callback(self._drop, made.id)
        values = {"sandbox_id": made.id, "parent_id": None, "build_key": key, "used_at": now}
        async with self.core.store.write() as db:
            earlier = await checkpoints.steps_among(db, record.owner, [key] if key else [])
            await checkpoints.change(db, made.id, **values)
            await self._hide(db, [one.id for one in earlier.values()])
        return made

    async def _drop(self, checkpoint_id: str) -> None:
        async with self.core.store.write() as db:
            await checkpoints.hide(db, [checkpoint_id], self.core.clock())

    async def _delete(self, caller: Caller, sandbox_id: str) -> None:
        try:
            await self.sandboxes.delete(caller, sandbox_id)
        except BayError as error:
            log.warning("build.sandbox_stays", id=sandbox_id, error=error.message)


def _is_gone(template: TemplateRecord | None) -> bool:
    return template is None or template.deleted_at is not None


def _error_of(failure: Failure | None, otherwise: str) -> BayError:
    if failure is None:
        return BuildFailed(otherwise)
    return error_from_wire(0, {"error": {"code": failure.code, "message": failure.message}})
