"""The step runner does the steps of a plan in a sandbox, one by one, and writes their output to a log.

Files that a step copies belong to root, or to the owner that the step names, so they go to a directory of the
build first, the stage, and Ship's tool `build` puts them in their places as root. The image has to have what
the commands of RUN need, and nothing more.
"""

import codecs
import hashlib
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass, field, replace
from secrets import token_hex

from bay.builds.steps import (
    MOUNTS_KEPT,
    SCRIPT,
    Copy,
    DirectoryMount,
    MakeWorkdir,
    Origin,
    Run,
    Step,
    copies_of,
)
from bay.errors import BuildFailed, InvalidArgument
from bay.linux.threads import in_new_thread
from bay.models import Exec
from bay.server.builds.context import BuildContext, Staging
from bay.server.execs.service import Execs, NewExec
from bay.server.files.service import SandboxFiles
from bay.server.ship.client import OutputEnd
from bay.server.web.auth import Caller
from tree_tar.headers import END, FILE, header, padding

OnLog = Callable[[str], Awaitable[None]]

_TAIL = 4096
_SHOWN = 200
_ROOT = "root"
_END_S = 30.0
_ORDER = "order.json"  # as `ship.tools.build` reads it

Fetch = Callable[[Copy, Origin, str], AbstractAsyncContextManager[tuple[BuildContext, Copy]]]
"""Gives the files that one source of a copy names in another place than the context, and the same copy by
the names that they have there.
"""


@dataclass(kw_only=True, eq=False)
class StepRunner:
    """Does steps in the sandbox `sandbox_id` of the caller, which nothing else uses."""

    execs: Execs
    files: SandboxFiles
    caller: Caller
    sandbox_id: str
    context: BuildContext
    fetch: Fetch
    secrets: Mapping[str, str]
    """The files of secrets, by their names."""
    log: OnLog
    step_timeout_s: float
    _stage: str = field(init=False, default_factory=lambda: f"/workspace/.bay-build-{token_hex(8)}")

    async def run(self, step: Step) -> None:
        """Do one step. Raises BuildFailed when it fails; `details.output` has the end of its output."""
        match step:
            case Run():
                await self._run(step)
            case Copy():
                await self._copy(step)
            case MakeWorkdir():
                await self._tool(step, "workdir", path=step.path, owner=step.user)

    async def clear(self, step: Step) -> None:
        """Take away the directories that mounts leave for the next command."""
        await self._tool(step, "remove", path=MOUNTS_KEPT)

    async def _run(self, step: Run) -> None:
        for at, one in enumerate(step.mounts):
            await self._tool(step, "mount", **_places(one, at), owner=one.owner, mode=one.mode)
        first = len(step.mounts)
        for at, copy in enumerate(copies_of(step), first):
            await self._tool(step, "aside", target=copy.target, aside=_aside(at))
            await self._copy(copy)
        links = {
            str(one.target): self.secrets[one.name]
            for one in step.secrets
            if one.is_elsewhere and one.name in self.secrets
        }
        for at, (target, file) in enumerate(links.items(), first + len(step.files)):
            await self._tool(step, "link", target=target, to=file, aside=_aside(at))
        await self._run_mounted(step)
        for at, target in reversed(list(enumerate((*(one.target for one in step.files), *links), first))):
            await self._tool(step, "unmount", target=target, kept="", aside=_aside(at))
        for at, one in reversed(list(enumerate(step.mounts))):
            await self._tool(step, "unmount", **_places(one, at))

    async def _run_mounted(self, step: Run) -> None:
        argv = list(step.argv)
        if step.script is not None:
            await self._unpack(_script(step.script.encode()))
            place = f"{self._stage}/script"
            await self._tool(step, "let_run", stage=self._stage, script=place)
            argv = [place if one == SCRIPT else one for one in argv]
        new = NewExec(argv=tuple(argv), user=step.user or _ROOT, cwd=step.working_dir, env=dict(step.env))
        await self._exec(step, new, is_shown=True)
        if step.script is not None:
            await self._tool(step, "remove", path=self._stage)

    async def _copy(self, step: Copy) -> None:
        if step.origin is None:
            await self._copy_of(self.context, step)
            return
        for source in step.sources:
            async with self.fetch(step, step.origin, source) as (context, named):
                try:
                    await self._copy_of(context, named)
                except InvalidArgument as error:  # the files are not as the step says; its words were right
                    raise BuildFailed(error.message, details=error.details) from error

    async def _copy_of(self, context: BuildContext, step: Copy) -> None:
        staging = await in_new_thread(lambda: context.staging(step))
        keeps_owners = step.origin is not None and not step.owner
        owners = await in_new_thread(lambda: context.owners(staging)) if keeps_owners else {}
        order = await in_new_thread(lambda: _order(step, staging, owners))
        staging.inline.append((_ORDER, order))
        await self._unpack(context.tar(staging))
        await self._tool(step, "place", stage=self._stage)

    async def _unpack(self, tar: Generator[bytes]) -> None:
        await self.files.unpack(self.caller, self.sandbox_id, self._stage, "tar", _chunks_of(tar))

    async def _tool(self, step: Step, do: str, **order: object) -> None:
        order["do"] = do
        await self._exec(step, NewExec(tool="build", argv=(json.dumps(order),), user=_ROOT))

    async def _exec(self, step: Step, new: NewExec, *, is_shown: bool = False) -> None:
        """Run it to its end; its output is logged where it `is_shown`."""
        new = replace(new, timeout_s=self.step_timeout_s, wait_for_reader=True)
        began = await self.execs.create(self.caller, self.sandbox_id, new, None, None)
        tail, decoder = "", codecs.getincrementaldecoder("utf-8")("replace")
        async with self.execs.unattended_output(self.caller, self.sandbox_id, began.id) as chunks:
            async for chunk in chunks:
                if isinstance(chunk, OutputEnd):
                    continue
                text = decoder.decode(chunk.data)
                tail = (tail + text)[-_TAIL:]
                if is_shown:
                    await self.log(text)
        if is_shown and tail and not tail.endswith("\n"):
            await self.log("\n")
        ended = await self.execs.get(self.caller, self.sandbox_id, began.id, _END_S)
        if ended.exit_code != 0 or ended.timed_out:
            raise _failure(step, ended, tail, self.step_timeout_s)


def _places(mount: DirectoryMount, at: int) -> dict[str, object]:
    """The directory, that of its cache between commands or "", and the place of what stands there."""
    digest = "" if mount.cache is None else hashlib.sha256(mount.cache.encode()).hexdigest()[:32]
    return {"target": mount.target, "kept": digest and f"{MOUNTS_KEPT}/{digest}", "aside": _aside(at)}


def _aside(at: int) -> str:
    """The place of what stands at that of the mount of this number, while its command runs."""
    return f"{MOUNTS_KEPT}/aside-{at}"


def _script(content: bytes) -> Generator[bytes]:
    yield header("script", FILE, mode=0o755, size=len(content)) + content + padding(len(content)) + END


async def _chunks_of(pieces: Generator[bytes]) -> AsyncGenerator[bytes]:
    while (piece := await in_new_thread(lambda: next(pieces, None))) is not None:
        if piece:
            yield piece


def _order(step: Copy, staging: Staging, owners: Mapping[str, Sequence[str]]) -> bytes:
    """The targets of a stage's files, for Ship's tool. Blocks."""
    order = {
        "owner": step.owner, "owners": owners, "mode": step.mode, "links": staging.links,
        "sources": [asdict(one) for one in staging.sources],
    }  # fmt: skip
    return json.dumps(order, ensure_ascii=False).encode("utf-8", "surrogateescape")


def _end(ended: Exec, limit_s: float) -> str:
    if ended.timed_out:
        return f"took longer than {limit_s:g} s"
    if ended.exit_code is not None:
        return f"ended with {ended.exit_code}"
    return "was lost with its sandbox" if ended.signal is None else f"was ended by signal {ended.signal}"


def _failure(step: Step, ended: Exec, tail: str, limit_s: float) -> BuildFailed:
    where = f"Dockerfile line {step.line}: " if step.line else ""
    last = tail.strip().rpartition("\n")[2].strip()
    output = f"; its last line: {last[-_SHOWN:]}" if last else ""
    details = {"line": step.line, "exit_code": ended.exit_code, "output": tail}
    return BuildFailed(f"{where}{step.text} {_end(ended, limit_s)}{output}", details=details)
