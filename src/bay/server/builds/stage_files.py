"""Files of an earlier stage or an image, for a copy: a sandbox of it makes a tar, which is read as a context.

The tar is what a stranger's program wrote, so it gets the bounds and checks of one that a client sends.
"""

import json
import posixpath
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace

from bay.builds.globs import expressions, is_pattern
from bay.builds.steps import Copy
from bay.errors import BuildFailed, InvalidArgument, PayloadTooLarge
from bay.linux.threads import in_new_thread
from bay.server.builds.context import BuildContext
from bay.server.builds.files import BuildFiles
from bay.server.execs.service import Execs, NewExec
from bay.server.ship.client import OutputEnd
from bay.server.web.auth import Caller
from bay.units import MIB

_NOT_THERE = 44  # as `ship.tools.build` ends
_MOST_TOLD = 8192
_END_S = 30.0


@dataclass(kw_only=True, eq=False)
class StageFiles:
    """Gets the files of copies out of sandboxes of the caller."""

    execs: Execs
    files: BuildFiles
    step_timeout_s: float

    @asynccontextmanager
    async def fetched(
        self, caller: Caller, sandbox_id: str, template_id: str, step: Copy, source: str
    ) -> AsyncGenerator[tuple[BuildContext, Copy]]:
        """Within, the files that `source` names, and the step by the names that they have there. Raises
        BuildFailed with the line of the step.
        """
        body = self._tar(caller, sandbox_id, step, source)
        async with AsyncExitStack() as stack:
            try:
                kept = await stack.enter_async_context(self.files.keeping_context(template_id, body))
                context = await in_new_thread(lambda: BuildContext.read(kept, has_owners=True))
            except PayloadTooLarge as error:
                limit = self.files.max_context // MIB
                raise failure(
                    step, f"/{source} has more than {limit} MiB, the limit; copy less of it"
                ) from error
            except InvalidArgument as error:
                raise failure(step, error.message) from error
            yield context, replace(step, sources=tuple(_sources(context)))

    async def _tar(self, caller: Caller, sandbox_id: str, step: Copy, source: str) -> AsyncGenerator[bytes]:
        words = [] if source == "." else source.split("/")
        first = next((at for at, word in enumerate(words) if is_pattern(word)), len(words))
        top, pattern = "/".join(words[:first]), "/".join(words[first:])
        names = expressions(pattern) if pattern else []
        shown = f"/{'/'.join(words)}"
        order = {"do": "pack", "top": f"/{top}", "names": names, "shown": shown}
        new = NewExec(
            tool="build",
            argv=(json.dumps(order),),
            user="root",
            timeout_s=self.step_timeout_s,
            wait_for_reader=True,
        )
        told = bytearray()
        began = await self.execs.create(caller, sandbox_id, new, None, None)
        async with self.execs.unattended_output(caller, sandbox_id, began.id) as chunks:
            async for chunk in chunks:
                if isinstance(chunk, OutputEnd):
                    continue
                if chunk.stream == "stdout":
                    yield chunk.data
                elif len(told) < _MOST_TOLD:
                    told += chunk.data
        ended = await self.execs.get(caller, sandbox_id, began.id, _END_S)
        why = told.decode("utf-8", "replace").strip()[-200:]
        if ended.exit_code == _NOT_THERE:
            raise failure(step, f"{why or f'there is no file {shown}'}; check the path")
        if ended.exit_code != 0:
            raise failure(step, f"{shown} could not be packed{why and ': '}{why}")


def failure(step: Copy, words: str) -> BuildFailed:
    """A copy that cannot be done, with its line."""
    where = f"Dockerfile line {step.line}: " if step.line else ""
    return BuildFailed(f"{where}{step.text}: {words}", details={"line": step.line})


def _sources(context: BuildContext) -> list[str]:
    """The names of what was packed, in its order: `f3/NAME` is a file, `d3` a directory."""
    tops = sorted((path for path in context.known if "/" not in path), key=_number)
    files = {posixpath.dirname(path): path for path, one in context.known.items() if one.kind == "file"}
    return [files.get(top, top) if top.startswith("f") else top for top in tops]


def _number(top: str) -> int:
    return int(top[1:]) if top[1:].isdecimal() else 0
