"""The builder makes the files of a template in a sandbox of its owner, step by step.

A build that Bay's end cut off begins again, and finds the snapshots after the steps that were done.
"""

import functools
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import structlog

from bay.builds.steps import BuildConfig, BuildPlan, Copy, Origin, Step, copies_of
from bay.cargo.base import CheckpointStore
from bay.errors import BayError, BuildFailed, Conflict, DatabaseUnavailable, Unauthorized, error_from_wire
from bay.images import scratch
from bay.linux.threads import in_new_thread
from bay.models import ContainerImage, Failure, Sandbox, SandboxSecret
from bay.server.builds.context import BuildContext
from bay.server.builds.files import BuildFiles, BuildLog
from bay.server.builds.stage_files import StageFiles
from bay.server.builds.step_keys import first_key, has_directories, step_keys
from bay.server.builds.step_runner import StepRunner
from bay.server.checkpoints import policy
from bay.server.checkpoints.requests import CheckpointRequests
from bay.server.execs.service import Execs
from bay.server.files.service import SandboxFiles
from bay.server.images.service import Images, WantedImage
from bay.server.sandboxes.service import NewSandbox, Sandboxes
from bay.server.sessions.core import Core
from bay.server.sessions.lifecycle import BUILD_LABEL
from bay.server.sessions.waker import Holds
from bay.server.templates.build_spec import BuildSpec, StageSpec
from bay.server.templates.freezing import changes_of
from bay.server.templates.maker import Source
from bay.server.web.auth import Caller
from bay.store import checkpoints, images, sandboxes, templates
from bay.store.connection import StoreConnection
from bay.store.records import CheckpointRecord, Filters, TemplateRecord

log = structlog.get_logger("bay.builds")

_START_S = 300.0
_PULL_S = 30.0
_LIFE_S = 86_400
_MAX_STEPS_KEPT = 100
"""Snapshots after steps of one owner."""
_MAX_FETCHED = 256
"""Sources that the copies of one build take from stages and images: each is a tar."""
_PAGE = 100


@dataclass(frozen=True, slots=True)
class _StageWork:
    """A stage: what it begins with, its plan, and the keys of its steps."""

    number: int
    title: str
    """It in the log, with a blank behind it; empty where a build has one stage."""
    base: int | None
    """The stage that it begins with; None: with the image alone."""
    image: ContainerImage
    plan: BuildPlan
    begin: str
    keys: Sequence[str]

    @property
    def end(self) -> str:
        """The key of its files."""
        return self.keys[-1] if self.keys else self.begin

    def shown(self, at: int) -> str:
        """The step as a line of the log."""
        return f"[{self.title}{at + 1}/{len(self.plan.steps)}] {self.plan.steps[at].text}\n"


@dataclass(slots=True)
class _Work:
    """One build: whose it is, what is done, and where that is told."""

    template: TemplateRecord
    spec: BuildSpec
    caller: Caller
    context: BuildContext
    log: BuildLog
    stages: Mapping[int, _StageWork]
    images: Mapping[str, ContainerImage]
    """Those that copies name."""
    stack: AsyncExitStack
    """Lets go of the results of stages."""
    results: dict[int, CheckpointRecord | None] = field(default_factory=dict[int, CheckpointRecord | None])
    source: tuple[Origin, str] | None = None
    """The place that the last copy named, and the sandbox that has its files."""

    @property
    def last(self) -> _StageWork:
        """The stage that the template is made of."""
        return self.stages[max(self.stages)]

    def key_of(self, origin: Origin) -> str:
        """The key of the files of a place that copies name."""
        return self.stages[origin].end if isinstance(origin, int) else first_key([self.images[origin].id])


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
            async with AsyncExitStack() as stack:
                work = await self._work(template, spec, caller, told, stack)
                checkpoint = await self._built(work)
                await told("freezing\n")
                plan = work.last.plan
                yield Source(checkpoint, changes_of(plan.config.to_oci()), plan.start_command)
        except DatabaseUnavailable:  # no fault of the build, which begins again with its context
            await told("Bay's database cannot be used just now; the build begins again\n")
            raise
        except BayError as error:
            await told(f"failed: {error.message}\n")
            await self.files.drop_contexts(template.id)
            raise
        await self.files.drop_contexts(template.id)

    async def clear(self, template: TemplateRecord) -> None:
        """Delete the sandbox that a build of the template left."""
        filters = Filters(labels=((BUILD_LABEL, template.id),))
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
            boxes = await sandboxes.with_label(db, BUILD_LABEL)
        for name in names:
            if _is_gone(known.get(name)):
                await self.files.remove(name)
        over = {name: one for name, one in known.items() if not one.is_building}
        await self.files.drop_contexts(*over)
        await self.files.bound_logs({name: one.owner for name, one in over.items()})
        for record in boxes:
            template = known.get(record.labels[BUILD_LABEL])
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
        free = [one for one in ids if not self.holds.any_here(one)]
        await checkpoints.hide(db, free, self.core.clock())

    async def _work(
        self, template: TemplateRecord, spec: BuildSpec, caller: Caller, told: BuildLog, stack: AsyncExitStack
    ) -> _Work:
        wanted = await in_new_thread(spec.stages)
        images: dict[str, ContainerImage] = {}
        for one in wanted:
            if isinstance(one.base, str):
                await told(f"FROM {one.base}\n" if len(wanted) == 1 else f"FROM {one.base} ({_title(one)})\n")
                images[one.base] = await self._image(caller, one.base, spec)
        for ref in await in_new_thread(spec.images_copied):
            if ref not in images:
                await told(f"COPY --from={ref}\n")
                images[ref] = await self._image(caller, ref, spec)
        place = self.files.context(template.id) if spec.context == "here" else None
        try:
            context = await in_new_thread(lambda: BuildContext.read(place))
        except FileNotFoundError as error:  # a data directory that was put back lacks it
            raise BuildFailed("the context of the build is gone; build again") from error
        stages: dict[int, _StageWork] = {}
        work = _Work(template, spec, caller, context, told, stages, images, stack)
        for one in wanted:
            stages[one.number] = await self._stage(work, one, f"{_title(one)} " if len(wanted) > 1 else "")
        fetched = sum(_fetched_sources(step) for stage in stages.values() for step in stage.plan.steps)
        if fetched > _MAX_FETCHED:
            raise BuildFailed(
                f"the copies take {fetched} sources from stages and images, where the limit is {_MAX_FETCHED}; copy "
                "directories"
            )
        if unused := work.last.plan.unused_args:
            await told(f"note: no ARG asks for {', '.join(unused)}\n")
        return work

    async def _stage(self, work: _Work, wanted: StageSpec, title: str) -> _StageWork:
        """A stage of the build, whose earlier ones are known."""
        base, below = None, None
        if isinstance(wanted.base, int):
            parent = work.stages[wanted.base]
            base, image, config, begin = parent.number, parent.image, parent.plan.config, parent.end
            below = parent.plan
        else:
            image = work.images[wanted.base]
            async with self.core.store.read() as db:
                record = await images.get(db, image.id)
            config = BuildConfig.of(record.config if record and record.config else {})
            names = sorted(f"{one.name} {one.env} {one.file}" for one in work.spec.secrets)
            begin = first_key([image.id, work.template.profile, *names])
        platform = image.platform or "linux/amd64"
        plan = await in_new_thread(lambda: work.spec.plan(config, platform, wanted.number, below))
        # Also the check of each copy before there is work that would be lost.
        keys = await in_new_thread(lambda: step_keys(begin, plan.steps, work.context, work.key_of))
        return _StageWork(wanted.number, title, base, image, plan, begin, keys)

    async def _image(self, caller: Caller, ref: str, spec: BuildSpec) -> ContainerImage:
        if ref == scratch.REF:
            found = await self.images.scratch(caller, _PULL_S)
        else:
            wanted = WantedImage(ref=ref, pull=spec.pull)
            found = await self.images.pull(caller, wanted, wait_s=_PULL_S, idempotency_key=None)
        while found.state == "pulling":
            found = await self.images.get(caller, found.id, _PULL_S)
        if found.state == "failed":
            raise _error_of(found.error, f"image {ref} could not be fetched")
        return found

    @property
    def _is_cached(self) -> bool:
        """Whether snapshots after steps are kept: elsewhere each would copy all files."""
        cargo = self.core.cargo
        return isinstance(cargo, CheckpointStore) and cargo.checkpoint_kind == "snapshot" and bool(self.keep)

    async def _built(self, work: _Work) -> CheckpointRecord:
        """The last stage's result, held in the stack of the build."""
        try:
            found = await self._result(work, work.last) or await self._made(work, work.last, None, 0)
        except Exception:  # not when it is cancelled, as in `_made`
            await self._drop_source(work)
            raise
        await self._drop_source(work)
        return found

    async def _result(self, work: _Work, stage: _StageWork) -> CheckpointRecord | None:
        """The files behind a stage's last step; None for one that is an image and nothing more. A stage whose
        steps are all known needs no sandbox, and none of the stages before it.
        """
        if stage.number not in work.results:
            done, checkpoint = await self._known(work, stage)
            for at in range(done):
                await work.log(stage.shown(at) + "cached\n")
            if done == 0 and stage.base is not None:
                checkpoint = await self._result(work, work.stages[stage.base])
            for step in stage.plan.steps[done:]:  # before this stage has a sandbox
                for copy in copies_of(step):
                    if isinstance(copy.origin, int):
                        await self._result(work, work.stages[copy.origin])
            if done < len(stage.plan.steps):
                checkpoint = await self._made(work, stage, checkpoint, done)
            work.results[stage.number] = checkpoint
        return work.results[stage.number]

    async def _made(
        self, work: _Work, stage: _StageWork, origin: CheckpointRecord | None, done: int
    ) -> CheckpointRecord:
        """The result of the steps from number `done` on, done in a sandbox that is gone when this returns."""
        box = await self._sandbox(work, stage.image, origin, secrets=work.spec.secrets)
        runner = StepRunner(
            execs=self.execs, files=self.sandbox_files, caller=work.caller, sandbox_id=box.id, context=work.context,
            fetch=functools.partial(self._fetched, work), log=work.log,
            secrets={one.name: one.file for one in work.spec.secrets if one.file},
            step_timeout_s=work.spec.step_timeout_s,
        )  # fmt: skip
        made, steps = None, stage.plan.steps
        has_mounts = any(map(has_directories, steps))
        try:
            if has_mounts and done == 0:  # an image of a stranger may have such a directory
                await runner.clear(steps[0])
            for at, step in enumerate(steps[done:], done):
                await work.log(stage.shown(at))
                await runner.run(step)
                if has_mounts and at == len(steps) - 1:
                    await runner.clear(step)
                if self._is_cached:
                    made = await self._snapshot(box.id, stage.keys[at], work.stack)
            made = made or await self._snapshot(box.id, None, work.stack)
        except Exception:  # not when it is cancelled: Bay may be ending, and the next one clears up
            await self._delete(work.caller, box.id)
            raise
        await self._delete(work.caller, box.id)
        return made

    @asynccontextmanager
    async def _fetched(
        self, work: _Work, step: Copy, origin: Origin, source: str
    ) -> AsyncGenerator[tuple[BuildContext, Copy]]:
        """Files of the place that a copy names. One sandbox at a time has them."""
        if work.source is not None and work.source[0] != origin:
            await self._drop_source(work)
        if work.source is None:
            if isinstance(origin, int):
                made = await self._sandbox(work, work.stages[origin].image, work.results[origin], secrets=())
            else:
                made = await self._sandbox(work, work.images[origin], None, secrets=())
            work.source = origin, made.id
        source_files = StageFiles(execs=self.execs, files=self.files, step_timeout_s=work.spec.step_timeout_s)
        async with source_files.fetched(work.caller, work.source[1], work.template.id, step, source) as found:
            yield found

    async def _drop_source(self, work: _Work) -> None:
        if work.source is not None:
            _, box = work.source
            work.source = None
            await self._delete(work.caller, box)

    async def _known(self, work: _Work, stage: _StageWork) -> tuple[int, CheckpointRecord | None]:
        """The number of steps whose result is here, and that of the last of these, held in the stack."""
        keys = stage.keys if self._is_cached else ()
        async with self.core.store.write() as db:
            found = await checkpoints.steps_among(db, work.caller.owner, keys)
            for at in reversed(range(len(keys))):
                if (checkpoint := found.get(keys[at])) is not None:
                    await checkpoints.change(db, checkpoint.id, used_at=self.core.clock())
                    work.stack.enter_context(self.holds.hold(checkpoint.id))
                    return at + 1, checkpoint
        return 0, None

    async def _sandbox(
        self,
        work: _Work,
        image: ContainerImage,
        checkpoint: CheckpointRecord | None,
        *,
        secrets: tuple[SandboxSecret, ...],
    ) -> Sandbox:
        new = NewSandbox(
            profile=work.template.profile,
            image=image.id,
            ttl=_LIFE_S,
            labels={BUILD_LABEL: work.template.id},
            from_checkpoint=checkpoint and checkpoint.id,
            secrets=secrets,
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
            log.warning("build.sandbox_stays", sandbox=sandbox_id, error=error.message)


def _fetched_sources(step: Step) -> int:
    return sum(len(copy.sources) for copy in copies_of(step) if copy.origin is not None)


def _title(stage: StageSpec) -> str:
    return stage.name or f"stage {stage.number}"


def _is_gone(template: TemplateRecord | None) -> bool:
    return template is None or template.deleted_at is not None


def _error_of(failure: Failure | None, otherwise: str) -> BayError:
    if failure is None:
        return BuildFailed(otherwise)
    return error_from_wire(0, {"error": {"code": failure.code, "message": failure.message}})
