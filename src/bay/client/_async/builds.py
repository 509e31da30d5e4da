"""Builds of templates: a plan's steps, one after the other, in a sandbox that is frozen at the end."""

import codecs
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any

from bay.builds.steps import SCRIPT, BuildPlan, Copy, MakeWorkdir, Run
from bay.client._async.box import AsyncBox
from bay.client._async.http import AsyncHttp
from bay.client._async.transfer import streamed
from bay.client._build_body import BuildOptions, OnLog, Recipe, check_ref, freeze_body
from bay.client._calls import Call
from bay.client._context import BuildContext, Staging
from bay.client._local import Meter
from bay.client._options import CreateOptions, known
from bay.client._paths import sandbox_path
from bay.client._results import RunResult
from bay.client._seam import async_in_thread
from bay.errors import BuildFailed, Conflict

if TYPE_CHECKING:
    from bay.client._async.client import AsyncClient

_STEP_S = 3600.0
_START_S = 300.0
_TAIL = 4096
_SHOWN = 200
_ROOT = "root"

_MAKE_DIRECTORY = '[ -d "$1" ] || { mkdir -p -- "$1" && chown -h -- "$2" "$1"; }'

_LINKS = 'while [ $# -gt 1 ]; do ln -s -- "$2" "$1" || exit; shift 2; done'

_PLACE = r"""
set -e
stage=$1 target=$2 owner=$3 mode=$4 only=$5 below=$6
chown -hR -- "$owner" "$stage"
[ -z "$mode" ] || find "$stage" ! -type l -exec chmod -- "$mode" {} +
new() { [ -d "$1" ] || { mkdir -p -- "$1"; chown -- "$owner" "$1"; }; }
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


@asynccontextmanager
async def built(
    client: "AsyncClient", http: AsyncHttp, context: str | PathLike[str], name: str, options: BuildOptions
) -> AsyncGenerator[dict[str, Any], None]:
    """Within, a sandbox is as a Dockerfile, or the steps in the options, describe: the body of its freeze."""
    known("build", options, BuildOptions)
    check_ref(name)
    log = options.get("log") or _silent
    recipe = await async_in_thread(Recipe.of, Path(context), options)
    files = await async_in_thread(BuildContext.of, Path(context), recipe.ignored)
    log(f"FROM {recipe.base}\n")
    image = await client.images.pull(recipe.base, pull=options.get("pull") or "missing")
    plan = recipe.plan(image)
    await async_in_thread(files.check, plan.steps)
    if plan.unused_args:
        log(f"note: no ARG asks for {', '.join(plan.unused_args)}\n")
    wanted: CreateOptions = {
        "image": image.id,
        "profile": options.get("profile"),
        "secrets": options.get("secrets"),
        "labels": {"bay.build": name.replace(":", "_")},
        "wait": _START_S,
    }
    async with client.sandbox(**wanted) as box:
        _check_can_freeze(box)
        limit = options.get("step_timeout_s") or _STEP_S
        build = AsyncTemplateBuild(
            http=http, box=box, plan=plan, context=files, log=log, step_timeout_s=limit
        )
        await build.run()
        log("freezing\n")
        yield freeze_body(box.id, name, plan, options)


def _check_can_freeze(box: AsyncBox) -> None:
    """Raises Conflict before there is work that would be lost."""
    if box.info.persist != "machine":
        raise Conflict(
            f"profile {box.info.profile} keeps /workspace alone, so a build in it could not be kept; name a profile "
            "with `persist: machine`"
        )


def _silent(_: str) -> None:
    pass


@dataclass(kw_only=True, eq=False)
class AsyncTemplateBuild:
    """One build in the sandbox `box`, which nothing else uses."""

    http: AsyncHttp
    box: AsyncBox
    plan: BuildPlan
    context: BuildContext
    log: OnLog
    step_timeout_s: float
    _stage: str = field(init=False, default_factory=lambda: f"/workspace/.bay-build-{token_hex(8)}")

    async def run(self) -> None:
        """Do all steps. Raises BuildFailed for one that fails; `details.output` has the end of its output."""
        steps = self.plan.steps
        for number, step in enumerate(steps, 1):
            self.log(f"[{number}/{len(steps)}] {step.text}\n")
            match step:
                case Run():
                    await self._run(step)
                case Copy():
                    await self._copy(step)
                case MakeWorkdir():
                    await self._make_workdir(step)

    async def _run(self, step: Run) -> None:
        argv = list(step.argv)
        if step.script is not None:
            place = f"{self._stage}/script"
            await self.box.files.write(place, step.script, mode=0o755)
            await self._command(step, ["chmod", "0755", self._stage, place], user=_ROOT)
            argv = [place if one == SCRIPT else one for one in argv]
        await self._command(
            step, argv, user=step.user or _ROOT, cwd=step.working_dir, env=dict(step.env), is_shown=True
        )
        if step.script is not None:
            await self._unstage(step)

    async def _copy(self, step: Copy) -> None:
        staging = await async_in_thread(self.context.staging, step)
        await self._upload(staging)
        links = [part for name, target in staging.links for part in (f"{self._stage}/{name}", target)]
        if links:
            await self._shell(step, _LINKS, *links)
        mode = "" if step.mode is None else f"{step.mode:04o}"
        owner = _owner(step.owner)
        for one in staging.sources:
            place = f"{self._stage}/{one.name}"
            below = "yes" if one.below else ""
            await self._shell(step, _PLACE, place, one.target, owner, mode, one.only or "", below)
        await self._unstage(step)

    async def _make_workdir(self, step: MakeWorkdir) -> None:
        await self._shell(step, _MAKE_DIRECTORY, step.path, _owner(step.user))

    async def _upload(self, staging: Staging) -> None:
        meter = Meter(None, None)
        call = Call(
            "PUT",
            f"{sandbox_path(self.box.id)}/files/archive",
            params={"path": self._stage, "format": "tar"},
            headers={"Content-Type": "application/octet-stream"},
        )
        await self.http.json(call, streamed(lambda: staging.stream(meter), meter, counted=False))

    async def _unstage(self, step: Run | Copy) -> None:
        await self._command(step, ["rm", "-rf", "--", self._stage], user=_ROOT)

    async def _shell(self, step: Run | Copy | MakeWorkdir, script: str, *arguments: str) -> None:
        await self._command(step, ["/bin/sh", "-c", script, "sh", *arguments], user=_ROOT)

    async def _command(
        self,
        step: Run | Copy | MakeWorkdir,
        argv: list[str],
        *,
        user: str,
        cwd: str = "/",
        env: dict[str, str] | None = None,
        is_shown: bool = False,
    ) -> None:
        """Run it to its end; its output is logged where it `is_shown`."""
        proc = await self.box.spawn(argv, user=user, cwd=cwd, env=env, timeout_s=self.step_timeout_s)
        tail, decoder = "", codecs.getincrementaldecoder("utf-8")("replace")
        async with aclosing(proc.output()) as chunks:
            async for chunk in chunks:
                text = decoder.decode(chunk.data)
                tail = (tail + text)[-_TAIL:]
                if is_shown:
                    self.log(text)
        if is_shown and tail and not tail.endswith("\n"):
            self.log("\n")
        result = await proc.wait()
        if result.exit_code != 0 or result.timed_out:
            raise _failure(step, result, tail, self.step_timeout_s)


def _owner(user: str) -> str:
    """For chown: a user alone has the group of the same name or number, as Docker does it."""
    user = user or "0"
    return user if ":" in user else f"{user}:" if not user.isdigit() else f"{user}:{user}"


def _end(result: RunResult, limit_s: float) -> str:
    if result.timed_out:
        return f"took longer than {limit_s:g} s"
    if result.exit_code is not None:
        return f"ended with {result.exit_code}"
    return "was lost with its sandbox" if result.signal is None else f"was ended by signal {result.signal}"


def _failure(step: Run | Copy | MakeWorkdir, result: RunResult, tail: str, limit_s: float) -> BuildFailed:
    where = f"Dockerfile line {step.line}: " if step.line else ""
    how = _end(result, limit_s)
    last = tail.strip().rpartition("\n")[2].strip()
    output = f"; its last line: {last[-_SHOWN:]}" if last else ""
    details = {"line": step.line, "exit_code": result.exit_code, "output": tail}
    return BuildFailed(f"{where}{step.text} {how}{output}", details=details)
