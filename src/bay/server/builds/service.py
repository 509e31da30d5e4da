"""The build service: takes the contexts of builds, and shows their logs."""

from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bay.errors import NotFound
from bay.linux.threads import in_new_thread
from bay.models import Template
from bay.server.builds.context import BuildContext
from bay.server.builds.files import BuildFiles
from bay.server.sessions.notifier import Notifier
from bay.server.templates.service import Templates, not_found
from bay.server.web.auth import Caller
from bay.server.web.open_connections import OpenConnections, one_place
from bay.store import templates
from bay.store.engine import Store

_LOOK_S = 60.0
_MAX_UPLOADS = 2
_UPLOADING = "contexts of this owner are being sent, the limit; wait for one"


@dataclass(kw_only=True, eq=False)
class Builds:
    """The service behind `/v1/templates/{ref}/context` and `…/log`."""

    store: Store
    templates: Templates
    files: BuildFiles
    notifier: Notifier
    connections: OpenConnections
    _uploads: Counter[str] = field(init=False, default_factory=Counter[str])

    async def take_context(self, caller: Caller, ref: str, body: AsyncIterator[bytes]) -> Template:
        """Keep the context of a build that waits for it, and begin. Raises NotFound, Conflict, and
        InvalidArgument for a body that is no tar of files.
        """

        with one_place(self._uploads, caller.owner, _MAX_UPLOADS, _UPLOADING):
            return await self._take_context(caller, ref, body)

    async def _take_context(self, caller: Caller, ref: str, body: AsyncIterator[bytes]) -> Template:
        @asynccontextmanager
        async def keep(template_id: str) -> AsyncGenerator[Callable[[], Awaitable[Path]]]:
            async with self.files.keeping_context(template_id, body) as kept:
                await in_new_thread(lambda: BuildContext.read(kept))
                place = self.files.context(template_id)
                yield lambda: in_new_thread(lambda: kept.rename(place))

        return await self.templates.take_context(caller, ref, keep)

    @asynccontextmanager
    async def log(
        self, caller: Caller, ref: str, since: int, *, follow: bool
    ) -> AsyncGenerator[AsyncIterator[bytes]]:
        """The log from byte `since` on, followed until the build has ended. Raises NotFound."""
        async with self.store.read() as db:
            found = await templates.find(db, caller.owner, ref)
        if found is None or found.owner != caller.owner:
            raise not_found(ref)
        if found.sandbox_id is not None:
            raise NotFound(f"template {found.id} has no log: it was frozen from a sandbox, not built")
        with ExitStack() as held:
            if follow:
                held.enter_context(self.connections.place(caller.owner))
            async with aclosing(self._chunks(found.id, since, follow=follow)) as chunks:
                yield self.connections.allowed(caller, chunks) if follow else chunks

    async def _chunks(self, template_id: str, since: int, *, follow: bool) -> AsyncGenerator[bytes]:
        async def more() -> bytes | None:
            is_over = not follow or await self._has_ended(template_id)  # first: all of the log is there then
            data = await self.files.read_log(template_id, since)
            return data or (b"" if is_over else None)

        while True:
            data = await self.notifier.wait_for(template_id, more, _LOOK_S)
            if data == b"":
                return
            if data is not None:
                since += len(data)
                yield data

    async def _has_ended(self, template_id: str) -> bool:
        async with self.store.read() as db:
            found = await templates.get(db, template_id)
        return found is None or not found.is_building
