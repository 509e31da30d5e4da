"""The audit: which key changed what, and the outcome."""

from collections.abc import AsyncGenerator
from datetime import datetime
from typing import Literal

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
        path: str | None = None,
        status: str | None = None,
        request_id: str | None = None,
        resource_id: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        order: Literal["oldest", "newest"] | None = None,
        limit: int | None = None,
    ) -> AsyncGenerator[AuditEntry, None]:
        """All that match, as they are taken: oldest first, or as `order` says.

        `since` is included and `until` not. `path` is the beginning of a path, and `status` a number such as
        ``"404"``, or ``"4xx"`` for all of its kind.
        """
        filters = {
            "owner": owner,
            "key_id": key_id,
            "method": method,
            "path": path,
            "status": status,
            "request_id": request_id,
            "resource_id": resource_id,
            "since": since and to_rfc3339(since),
            "until": until and to_rfc3339(until),
            "order": order,
            "limit": limit,
        }
        return self._http.paged(AuditEntry, "/v1/audit", filters)
