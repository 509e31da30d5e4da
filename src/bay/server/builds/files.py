"""The files of builds in the data directory: the context of each, while it is built, and the log."""

import asyncio
import errno
import os
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex

import structlog

from bay.errors import PayloadTooLarge, StorageFull
from bay.linux import remove_tree
from bay.linux.threads import in_new_thread
from bay.server.sessions.notifier import Notifier
from bay.units import MIB

log = structlog.get_logger("bay.builds")

MAX_LOG = 16 * MIB
"""Bytes of the log of one build; more output is left out."""

MAX_LOGS = 256 * MIB
"""Bytes of the logs of one owner's builds that are over; the oldest go."""

_FULL = b"\n... the log has 16 MiB, the limit; what the steps print from here on is left out\n"
_READ_BYTES = 256 << 10


@dataclass(eq=False)
class BuildLog:
    """The log of one build, which is written to. Those who wait for the template are told."""

    path: Path
    notifier: Notifier
    _room: int = field(init=False, default=MAX_LOG)

    async def __call__(self, text: str) -> None:
        """Add text. A log that cannot be written is no reason for a build to fail."""
        if self._room <= 0:
            return
        data = text.encode("utf-8", "replace")
        if len(data) > self._room:
            data = data[: self._room] + _FULL
        self._room -= len(data)
        await in_new_thread(lambda: self._append(data))
        self.notifier.announce(self.path.parent.name)

    def begin(self) -> None:
        """Make its file, or go on with that of a build that Bay's end cut off."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(self.path, "ab") as file:
            self._room = MAX_LOG - file.tell()

    def _append(self, data: bytes) -> None:
        try:
            with open(self.path, "ab") as file:
                file.write(data)
        except OSError as error:
            log.warning("build.log_not_written", path=str(self.path), error=str(error))


@dataclass(eq=False)
class BuildFiles:
    """Everything below `directory`. One directory for each template, by its id."""

    directory: Path
    notifier: Notifier
    max_context: int

    def context(self, template_id: str) -> Path:
        """The place of a template's context."""
        return self.directory / template_id / "context.tar"

    @asynccontextmanager
    async def keeping_context(self, template_id: str, body: AsyncIterator[bytes]) -> AsyncGenerator[Path]:
        """All of `body` in a file of its own, which goes at the end unless it was moved to its place. Raises
        PayloadTooLarge, StorageFull.
        """
        place = self.context(template_id).with_suffix(f".{token_hex(4)}")
        try:
            await in_new_thread(lambda: place.parent.mkdir(mode=0o700, parents=True, exist_ok=True))
            with open(place, "xb") as file:  # noqa: ASYNC230 - opened once; what is slow is in threads
                taken = 0
                async for piece in body:
                    taken += len(piece)
                    if taken > self.max_context:
                        raise PayloadTooLarge(
                            f"the context has more than {self.max_context // MIB} MiB, the limit; leave files out by "
                            ".dockerignore"
                        )
                    await in_new_thread(lambda piece=piece: file.write(piece))
            yield place
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise StorageFull("the disk of Bay's data directory is full") from error
        finally:
            await in_new_thread(lambda: place.unlink(missing_ok=True))

    async def drop_contexts(self, *template_ids: str) -> None:
        """Remove the contexts of builds that have ended, and what a killed Bay had of one."""

        def drop() -> None:
            for template_id in template_ids:
                for one in (self.directory / template_id).glob("context.*"):
                    one.unlink(missing_ok=True)

        await in_new_thread(drop)

    async def bound_logs(self, owners: Mapping[str, str]) -> None:
        """Remove the oldest logs of an owner who has more than `MAX_LOGS` bytes; `owners` are those of
        templates whose builds are over.
        """
        await in_new_thread(lambda: self._bound_logs(owners))

    def _bound_logs(self, owners: Mapping[str, str]) -> None:
        room: defaultdict[str, int] = defaultdict(lambda: MAX_LOGS)
        logs: list[tuple[float, int, str]] = []
        for template_id in owners:
            with suppress(FileNotFoundError):
                facts = self._log(template_id).stat()
                logs.append((facts.st_mtime, facts.st_size, template_id))
        for _, size, template_id in sorted(logs, reverse=True):
            room[owners[template_id]] -= size
            if room[owners[template_id]] < 0:
                self._log(template_id).unlink(missing_ok=True)

    async def begin_log(self, template_id: str) -> BuildLog:
        """The log of a build that begins, or begins again."""
        made = BuildLog(self._log(template_id), self.notifier)
        await in_new_thread(made.begin)
        return made

    async def read_log(self, template_id: str, since: int) -> bytes:
        """Bytes of a log from there on; none at its end, and of a template without a log."""
        return await in_new_thread(lambda: _read(self._log(template_id), since))

    async def names(self) -> list[str]:
        """Ids of the templates that have files here."""
        return await asyncio.to_thread(_listed, self.directory)

    async def remove(self, template_id: str) -> None:
        """Remove all files of a template."""
        await remove_tree.remove(self.directory / template_id)

    def _log(self, template_id: str) -> Path:
        return self.directory / template_id / "log"


def _listed(directory: Path) -> list[str]:
    return os.listdir(directory) if directory.is_dir() else []


def _read(path: Path, since: int) -> bytes:
    try:
        with open(path, "rb") as file:
            file.seek(since)
            return file.read(_READ_BYTES)
    except FileNotFoundError:
        return b""
