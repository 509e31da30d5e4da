"""The host index resolves host names to sandboxes, and finds opened links, from the store."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime

from bay.models import PortSettings, ServiceSpec
from bay.server.ports.links import Pass
from bay.server.sessions.core import Core
from bay.server.sessions.rows import SandboxRows
from bay.store import sandboxes, services, used_links
from bay.store.connection import StoreConnection
from bay.store.records import SandboxRecord


@dataclass(kw_only=True, eq=False)
class PortSites:
    """Sandboxes by what host names call them. It also uses up links that open once."""

    core: Core
    rows: SandboxRows

    async def at(self, host: str) -> SandboxRecord | None:
        """The sandbox of any owner with that id or host; its URL is that of a service if it has no other."""
        return await self.rows.get((None, host), lambda db: _at_host(db, host))

    async def use_link(self, given: Pass) -> bool:
        """Open by a link; False for one that opens once, and has."""
        if given.once is None:
            return True
        async with self.core.store.write() as db:
            return await used_links.use(db, given.once, given.expires_at, self.core.clock())

    def seconds_until(self, at: datetime) -> int:
        """How long it is until then, in whole seconds."""
        return max(0, math.ceil((at - self.core.clock()).total_seconds()))


async def _at_host(db: StoreConnection, host: str) -> SandboxRecord | None:
    found = await sandboxes.at_host(db, host)
    if found is None or found.url is not None:
        return found
    return replace(found, url=_served(found, await services.all_of(db, found.id)))


def _served(sandbox: SandboxRecord, specs: Iterable[ServiceSpec]) -> PortSettings | None:
    """The port of the first service that serves HTTP, for whom it is open."""
    served = next((spec.http_port for spec in specs if spec.enabled and spec.http_port is not None), None)
    if served is None:
        return None
    return next((port for port in sandbox.ports if port.port == served), PortSettings(port=served))
