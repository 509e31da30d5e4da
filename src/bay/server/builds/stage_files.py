"""Files of an earlier stage or an image, for a copy: a sandbox of it makes a tar, which is read as a context.

The tar is what a stranger's program wrote, so it gets the bounds and checks of one that a client sends.
"""

import posixpath
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace

from bay.builds.globs import is_pattern
from bay.builds.steps import Copy
from bay.errors import BayError, BuildFailed, InvalidArgument, PayloadTooLarge
from bay.linux.threads import in_new_thread
from bay.server.builds.context import BuildContext
from bay.server.builds.files import BuildFiles
from bay.server.execs.service import Execs, NewExec
from bay.server.files.service import SandboxFiles
from bay.server.files.ship_client import Wanted
from bay.server.ship.client import OutputEnd
from bay.server.web.auth import Caller
from bay.units import MIB
from tree_tar.headers import END, FILE, header, padding

_PACK = r"""
command -v readlink > /dev/null && command -v tar > /dev/null || exit 127
place=$(readlink -f -- "$1") && [ -e "$place" ] || exit 44
printf '%s\0' "$place" >&2
exec tar -C / -cf - -- ".$place"
"""
_NOT_THERE, _NO_PROGRAM = 44, 127
_MOST_TOLD = 8192
_END_S = 30.0


@dataclass(slots=True)
class _Packed:
    """The answer of a sandbox beside the tar that it makes; `place` is the path behind all links."""

    place: str
    told: bytearray = field(default_factory=bytearray)

    @property
    def words(self) -> str:
        """The end of what its program wrote to stderr."""
        text = self.told.partition(b"\0")[2].decode("utf-8", "replace").strip()
        return f": {text[-200:]}" if text else ""


@dataclass(kw_only=True, eq=False)
class StageFiles:
    """Gets the files of copies out of sandboxes of the caller."""

    execs: Execs
    sandbox_files: SandboxFiles
    files: BuildFiles
    step_timeout_s: float

    @asynccontextmanager
    async def fetched(
        self, caller: Caller, sandbox_id: str, template_id: str, step: Copy, source: str
    ) -> AsyncGenerator[tuple[BuildContext, Copy]]:
        """Within, the files that `source` names, and the step by the names that they have there. Raises
        BuildFailed with the line of the step.
        """
        top = _literal_top(source)
        packed = _Packed(f"/{top}")
        body = self._tar(caller, sandbox_id, step, packed)
        async with AsyncExitStack() as stack:
            try:
                kept = await stack.enter_async_context(self.files.keeping_context(template_id, body))
                context = await in_new_thread(lambda: BuildContext.read(kept, has_owners=True))
            except PayloadTooLarge as error:
                limit = self.files.max_context // MIB
                raise failure(
                    step, f"/{top} has more than {limit} MiB, the limit; copy less of it"
                ) from error
            except InvalidArgument as error:
                raise failure(step, error.message) from error
            yield context, _named(step, source, top, packed.place, context)

    async def _tar(
        self, caller: Caller, sandbox_id: str, step: Copy, packed: _Packed
    ) -> AsyncGenerator[bytes]:
        argv = ("/bin/sh", "-c", _PACK, "sh", packed.place)
        new = NewExec(argv=argv, user="root", timeout_s=self.step_timeout_s, wait_for_reader=True)
        began = await self.execs.create(caller, sandbox_id, new, None, None)
        async with self.execs.unattended_output(caller, sandbox_id, began.id) as chunks:
            async for chunk in chunks:
                if isinstance(chunk, OutputEnd):
                    continue
                if chunk.stream == "stdout":
                    yield chunk.data
                elif len(packed.told) < _MOST_TOLD:
                    packed.told += chunk.data
        ended = await self.execs.get(caller, sandbox_id, began.id, _END_S)
        if ended.exit_code == _NO_PROGRAM:
            async for piece in self._file(caller, sandbox_id, step, packed.place):
                yield piece
        elif ended.exit_code == _NOT_THERE:
            raise failure(step, f"there is no file {packed.place}; check the path")
        elif ended.exit_code != 0 or b"\0" not in packed.told:
            raise failure(step, f"{packed.place} could not be packed{packed.words}")
        else:
            packed.place = packed.told.partition(b"\0")[0].decode("utf-8", "surrogateescape")

    async def _file(self, caller: Caller, sandbox_id: str, step: Copy, place: str) -> AsyncGenerator[bytes]:
        """The tar of one file of an image that has no shell, or no tar."""
        try:
            async with self.sandbox_files.download(caller, sandbox_id, place, Wanted()) as opened:
                yield header(place.lstrip("/"), FILE, mode=int(opened.mode, 8) & 0o777, size=opened.size)
                async for chunk in opened.chunks:
                    yield chunk
                yield padding(opened.size) + END
        except BayError as error:
            raise failure(
                step,
                f"{place} could not be read: {error.message}; of an image without /bin/sh, readlink and tar only "
                "files can be copied that its user may read",
            ) from error


def failure(step: Copy, words: str) -> BuildFailed:
    """A copy that cannot be done, with its line."""
    where = f"Dockerfile line {step.line}: " if step.line else ""
    return BuildFailed(f"{where}{step.text}: {words}", details={"line": step.line})


def _literal_top(source: str) -> str:
    """The longest directory of the path that is no pattern; all of it where it has none."""
    words = source.split("/")
    first = next((at for at, word in enumerate(words) if is_pattern(word)), len(words))
    return "/".join(words[:first])


def _named(step: Copy, source: str, top: str, place: str, context: BuildContext) -> Copy:
    """The step for one source, by its name behind all links. A file keeps the name that the step gives it."""
    found = posixpath.normpath(f"{place}{source[len(top) :]}").lstrip("/")
    target, known = step.target, context.known.get(found)
    if known is not None and known.kind != "directory" and target.endswith("/"):
        target += posixpath.basename(source)
    return replace(step, sources=(found,), target=target)
