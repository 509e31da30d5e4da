"""The audit: which key changed what, and the outcome."""

from collections.abc import AsyncGenerator
from datetime import datetime

from bay.client._async.http import AsyncNoun
from bay.clock import to_rfc3339
from bay.models import AuditEntry


class AsyncAudit(AsyncNoun):
    """The calls that were meant to change something: everybody's for an admin key, else your owner's."""

    def list(
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
    ) -> AsyncGenerator[AuditEntry, None]:
        """All that match, oldest first, as they are taken; with `since` included and `until` not."""
        filters = {
            "owner": owner,
            "key_id": key_id,
            "method": method,
            "request_id": request_id,
            "resource_id": resource_id,
            "since": since and to_rfc3339(since),
            "until": until and to_rfc3339(until),
            "limit": limit,
        }
        return self._http.paged(AuditEntry, "/v1/audit", filters)
