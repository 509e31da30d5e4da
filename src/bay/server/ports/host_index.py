"""Which sandbox a host name leads to, and which links were opened: what the door to the ports asks the store."""

import math
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime

from bay.clock import Clock
from bay.models import PortSettings, ServiceSpec
from bay.server.ports.links import Pass
from bay.store import sandboxes, services, used_links
from bay.store.engine import Store
from bay.store.records import SandboxRecord

_MOST_KNOWN = 10_000


class PortSites:
    """Sandboxes by what host names call them. Rows are read again only if anything may have changed since."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._found: dict[str, SandboxRecord | None] = {}
        self._found_at = 0

    async def at(self, host: str) -> SandboxRecord | None:
        """The sandbox that has that id or host, whoever owns it. Without a URL of its own it has that of a service."""
        version = self._store.version
        if version != self._found_at or len(self._found) >= _MOST_KNOWN:
            self._found.clear()
            self._found_at = version
        if host in self._found:
            return self._found[host]
        async with self._store.read() as db:
            found = await sandboxes.at_host(db, host)
            if found is not None and found.url is None:
                found = replace(found, url=_served(found, await services.all_of(db, found.id)))
        if self._store.version == version:
            self._found[host] = found
        return found

    async def use_link(self, given: Pass) -> bool:
        """Open by a link; False for one that opens once, and has."""
        if given.once is None:
            return True
        async with self._store.write() as db:
            return await used_links.use(db, given.once, given.expires_at, self._clock())

    def seconds_until(self, at: datetime) -> int:
        """How long it is until then, in whole seconds."""
        return max(0, math.ceil((at - self._clock()).total_seconds()))


def _served(sandbox: SandboxRecord, specs: Iterable[ServiceSpec]) -> PortSettings | None:
    """The port of the first service that serves HTTP, for whom it is open."""
    served = next((spec.http_port for spec in specs if spec.enabled and spec.http_port is not None), None)
    if served is None:
        return None
    return next((port for port in sandbox.ports if port.port == served), PortSettings(port=served))
