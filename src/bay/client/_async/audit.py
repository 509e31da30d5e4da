"""The audit: which key changed what, and the outcome."""

from collections.abc import AsyncIterator, Mapping
from datetime import datetime

from bay.client._answers import model
from bay.client._async.http import AsyncHttp
from bay.client._async.paging import paged
from bay.clock import to_rfc3339
from bay.models import AuditEntry


class AsyncAudit:
    """The calls that were meant to change something: everybody's for an admin key, else your owner's."""

    def __init__(self, http: AsyncHttp) -> None:
        self._http = http

    async def list(
        self,
        *,
        owner: str | None = None,
        key_id: str | None = None,
        method: str | None = None,
        request_id: str | None = None,
        resource_id: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[AuditEntry]:
        """All that match, oldest first, page by page as they are taken.

        `since` is included, `until` is not.
        """
        filters: Mapping[str, object] = {
            "owner": owner,
            "key_id": key_id,
            "method": method,
            "request_id": request_id,
            "resource_id": resource_id,
            "since": since and to_rfc3339(since),
            "until": until and to_rfc3339(until),
            "limit": limit,
        }
        async for item in paged(self._http, "/v1/audit", filters):
            yield model(AuditEntry, item)
