"""The step runner does the steps of a plan in a sandbox, one by one, and writes their output to a log.

Files that a step copies belong to root, or to the owner that the step names, so they go to a directory of the
build first, and a shell as root puts them in their places.
"""

import codecs
import hashlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
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
from bay.server.builds.context import BuildContext
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

_MAKE_DIRECTORY = '[ -d "$1" ] || { mkdir -p -- "$1" && chown -h -- "$2" "$1"; }'

_LINKS_AT_ONCE = 200
_LINKS = 'while [ $# -gt 1 ]; do ln -s -- "$2" "$1" || exit; shift 2; done'

_OWN = r"""
set -e
cd -- "$1"
shift
chown -hR -- 0:0 .
while [ $# -gt 1 ]; do
  xargs -0 chown -h -- "$1" < "$2"
  shift 2
done
"""

_PLACE = r"""
set -e
stage=$1 target=$2 owner=$3 mode=$4 only=$5 below=$6
[ -z "$owner" ] || chown -hR -- "$owner" "$stage"
[ -z "$mode" ] || find "$stage" ! -type l -exec chmod -- "$mode" {} +
new() { [ -d "$1" ] || { mkdir -p -- "$1"; chown -- "${owner:-0:0}" "$1"; }; }
if [ -z "$only" ] && ! [ -d "$target" ]; then
  new "$(dirname -- "$target")"
  cp -a -- "$stage" "${target%/}"
elif [ -z "$only" ]; then
  for one in "$stage"/* "$stage"/.[!.]* "$stage"/..?*; do
    if [ -e "$one" ] || [ -L "$one" ]; then cp -a -- "$one" "${target%/}/"; fi
  done
elif [ -n "$below" ] || [ -d "$target" ]; then
  new "$target"
  cp -a -- "$stage/$only" "${target%/}/"
else
  new "$(dirname -- "$target")"
  cp -a -- "$stage/$only" "$target"
fi
"""


_ASIDE = r"""
set -e
mkdir -p -- "$3" "$(dirname -- "$1")"
if [ -e "$1" ] || [ -L "$1" ]; then mv -- "$1" "$2"; fi
"""

_MOUNT = r"""
set -e
target=$1 kept=$2 aside=$3 owner=$4 mode=$5
mkdir -p -- "$6" "$(dirname -- "$target")"
if [ -e "$target" ] || [ -L "$target" ]; then mv -- "$target" "$aside"; fi
if [ -n "$kept" ] && [ -d "$kept" ]; then
  mv -- "$kept" "$target"
else
  mkdir -- "$target"
  chown -- "$owner" "$target"
  chmod -- "$mode" "$target"
fi
"""

_UNMOUNT = r"""
set -e
target=$1 kept=$2 aside=$3
if [ -n "$kept" ] && [ -d "$target" ] && ! [ -L "$target" ]; then
  rm -rf -- "$kept"
  mv -- "$target" "$kept"
else
  rm -rf -- "$target"
fi
if [ -e "$aside" ] || [ -L "$aside" ]; then mv -- "$aside" "$target"; fi
"""

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
                await self._shell(step, _MAKE_DIRECTORY, step.path, _owner(step.user))

    async def clear(self, step: Step) -> None:
        """Take away the directories that mounts leave for the next command."""
        await self._command(step, ["rm", "-rf", "--", MOUNTS_KEPT], user=_ROOT)

    async def _run(self, step: Run) -> None:
        for at, one in enumerate(step.mounts):
            await self._shell(step, _MOUNT, *_places(one, at), one.owner, f"{one.mode:04o}", MOUNTS_KEPT)
        first = len(step.mounts)
        for at, copy in enumerate(copies_of(step), first):
            await self._shell(step, _ASIDE, copy.target, _aside(at), MOUNTS_KEPT)
            await self._copy(copy)
        await self._run_mounted(step)
        for at, one in reversed(list(enumerate(step.files, first))):
            await self._shell(step, _UNMOUNT, one.target, "", _aside(at))
        for at, one in reversed(list(enumerate(step.mounts))):
            await self._shell(step, _UNMOUNT, *_places(one, at))

    async def _run_mounted(self, step: Run) -> None:
        argv = list(step.argv)
        if step.script is not None:
            await self._unpack(_script(step.script.encode()))
            place = f"{self._stage}/script"
            await self._command(step, ["chmod", "0755", self._stage, place], user=_ROOT)
            argv = [place if one == SCRIPT else one for one in argv]
        await self._command(
            step, argv, user=step.user or _ROOT, cwd=step.working_dir, env=dict(step.env), is_shown=True
        )
        if step.script is not None:
            await self._unstage(step)

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
        lists = dict(zip(owners, (f"owner-{at}" for at in range(len(owners))), strict=True))
        staging.inline += [(lists[owner], places) for owner, places in owners.items()]
        await self._unpack(context.tar(staging))
        for at in range(0, len(staging.links), _LINKS_AT_ONCE):
            some = staging.links[at : at + _LINKS_AT_ONCE]
            await self._shell(
                step, _LINKS, *(part for name, to in some for part in (f"{self._stage}/{name}", to))
            )
        mode = "" if step.mode is None else f"{step.mode:04o}"
        owner = "" if keeps_owners else _owner(step.owner)
        if keeps_owners:
            await self._shell(step, _OWN, self._stage, *(part for pair in lists.items() for part in pair))
        for one in staging.sources:
            place = f"{self._stage}/{one.name}"
            below = "yes" if one.below else ""
            await self._shell(step, _PLACE, place, one.target, owner, mode, one.only or "", below)
        await self._unstage(step)

    async def _unpack(self, tar: Generator[bytes]) -> None:
        await self.files.unpack(self.caller, self.sandbox_id, self._stage, "tar", _chunks_of(tar))

    async def _unstage(self, step: Step) -> None:
        await self._command(step, ["rm", "-rf", "--", self._stage], user=_ROOT)

    async def _shell(self, step: Step, script: str, *arguments: str) -> None:
        await self._command(step, ["/bin/sh", "-c", script, "sh", *arguments], user=_ROOT)

    async def _command(
        self,
        step: Step,
        argv: Sequence[str],
        *,
        user: str,
        cwd: str | None = None,
        env: dict[str, str] | None = None,
        is_shown: bool = False,
    ) -> None:
        """Run it to its end; its output is logged where it `is_shown`."""
        new = NewExec(
            argv=tuple(argv), user=user, cwd=cwd, env=env, timeout_s=self.step_timeout_s, wait_for_reader=True
        )
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


def _places(mount: DirectoryMount, at: int) -> tuple[str, str, str]:
    """The directory, that of its cache between commands or "", and the place of what stands there."""
    digest = "" if mount.cache is None else hashlib.sha256(mount.cache.encode()).hexdigest()[:32]
    return mount.target, digest and f"{MOUNTS_KEPT}/{digest}", _aside(at)


def _aside(at: int) -> str:
    """The place of what stands at that of the mount of this number, while its command runs."""
    return f"{MOUNTS_KEPT}/aside-{at}"


def _script(content: bytes) -> Generator[bytes]:
    yield header("script", FILE, mode=0o755, size=len(content)) + content + padding(len(content)) + END


async def _chunks_of(pieces: Generator[bytes]) -> AsyncGenerator[bytes]:
    while (piece := await in_new_thread(lambda: next(pieces, None))) is not None:
        if piece:
            yield piece


def _owner(user: str) -> str:
    """For chown: a user alone has the group of the same name or number, as Docker does it."""
    user = user or "0"
    return user if ":" in user else f"{user}:" if not user.isdigit() else f"{user}:{user}"


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
