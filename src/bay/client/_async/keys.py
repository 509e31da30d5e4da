"""API keys, for holders of an admin key."""

from collections.abc import AsyncIterator
from datetime import datetime

from bay.client._answers import model
from bay.client._async.http import AsyncHttp
from bay.client._async.paging import paged
from bay.client._calls import Call, given
from bay.client._paths import key_path
from bay.clock import to_rfc3339
from bay.models import Key, KeyScope, Limits, NewKey, to_wire


class AsyncKeys:
    """The keys of every owner."""

    def __init__(self, http: AsyncHttp) -> None:
        self._http = http

    async def create(
        self,
        name: str,
        *,
        owner: str | None = None,
        scope: KeyScope = "write",
        expires_in: int | str | None = None,
        expires_at: datetime | None = None,
        quotas: Limits | None = None,
    ) -> NewKey:
        """A new key, of your own owner unless named. Its `secret` is in this answer and nowhere else.

        It expires after `expires_in` seconds (or ``"7d"``), or at `expires_at`, or never. `quotas` bound what
        its sandboxes use, beside the quotas of its owner. Never sent twice by itself, since a second answer
        would lack the secret: after a ConnectionFailed look through `list` and revoke what you do not know.
        """
        body = given(
            name=name,
            owner=owner,
            scope=scope,
            expires_in=expires_in,
            expires_at=expires_at and to_rfc3339(expires_at),
            quotas=quotas and given(**to_wire(quotas)),
        )
        return model(NewKey, await self._http.json(Call(method="POST", path="/v1/keys", body=body)))

    async def list(self, *, owner: str | None = None, limit: int | None = None) -> AsyncIterator[Key]:
        """All keys, or those of one owner, oldest first, revoked and expired ones too.

        `limit` is the page size.
        """
        async for item in paged(self._http, "/v1/keys", {"owner": owner, "limit": limit}):
            yield model(Key, item)

    async def revoke(self, key_id: str) -> None:
        """Revoke a key from now on. Idempotent. Raises Conflict for the last admin key."""
        await self._http.json(Call(method="DELETE", path=key_path(key_id), safe=True))
