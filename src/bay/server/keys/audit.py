"""The audit service reads the audit for callers."""

from dataclasses import replace

from bay.errors import Forbidden
from bay.models import AuditEntry
from bay.server.web.auth import Caller
from bay.store import audit
from bay.store.deferred import DeferredWrites
from bay.store.engine import Store
from bay.store.records import AuditFilters, Page


class Audits:
    """The service behind `/v1/audit`."""

    def __init__(self, *, store: Store, deferred: DeferredWrites) -> None:
        self._store = store
        self._deferred = deferred

    async def page(
        self, caller: Caller, filters: AuditFilters, *, after: int, limit: int
    ) -> Page[AuditEntry]:
        """Part of the audit, oldest first: an admin key sees everybody's calls, another key its
        own owner's.
        """
        if caller.scope != "admin":
            if filters.owner not in (None, caller.owner):
                raise Forbidden("only an admin key may read the audit of other owners; leave out owner")
            filters = replace(filters, owner=caller.owner)
        await self._deferred.flush()
        async with self._store.read() as db:
            return await audit.page(db, filters, after=after, limit=limit)
