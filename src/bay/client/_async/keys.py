"""API keys, for holders of an admin key."""

from collections.abc import AsyncGenerator
from datetime import datetime

from bay.client._async.http import AsyncNoun
from bay.client._calls import Call, given
from bay.client._paths import noun_path
from bay.clock import to_rfc3339
from bay.models import Key, KeyScope, Limits, NewKey, to_wire


class AsyncKeys(AsyncNoun):
    """The keys of every owner."""

    async def create(
        self,
        name: str,
        *,
        owner: str | None = None,
        scope: KeyScope = "write",
        expires_in: int | str | None = None,
        expires_at: datetime | None = None,
        quotas: Limits | None = None,
        e2b: bool = False,
    ) -> NewKey:
        """A new key, of your own owner unless named. Its `secret` is in this answer and nowhere else.

        It expires after `expires_in` seconds (or ``"7d"``), or at `expires_at`, or never. `quotas` bound what
        its sandboxes use, beside the quotas of its owner. Never sent twice by itself, since a second answer
        would lack the secret: after a ConnectionFailed look through `list` and revoke what you do not know.
        `e2b` gives the secret the form that clients of E2B know.
        """
        body = given(
            name=name,
            owner=owner,
            scope=scope,
            expires_in=expires_in,
            expires_at=expires_at and to_rfc3339(expires_at),
            quotas=quotas and given(**to_wire(quotas)),
            e2b=e2b or None,
        )
        return await self._http.one(NewKey, Call("POST", "/v1/keys", body=body))

    def list(self, *, owner: str | None = None, limit: int | None = None) -> AsyncGenerator[Key, None]:
        """All keys, or one owner's, oldest first, with the revoked and expired; `limit` is a page's size."""
        return self._http.paged(Key, "/v1/keys", {"owner": owner, "limit": limit})

    async def revoke(self, key_id: str) -> None:
        """Revoke a key from now on. Idempotent. Raises Conflict for the last admin key."""
        await self._http.json(Call("DELETE", noun_path("keys", key_id), safe=True))
