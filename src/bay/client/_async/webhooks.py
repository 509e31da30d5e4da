"""Webhooks: the receivers of the server's events."""

from collections.abc import Sequence

from bay.client._async.http import AsyncNoun
from bay.client._calls import Call
from bay.client._paths import noun_path
from bay.models import Webhook


class AsyncWebhooks(AsyncNoun):
    """The webhooks of the key's owner."""

    async def create(self, url: str, types: Sequence[str] = ()) -> Webhook:
        """Have events of `types` (none = all) sent to `url`.

        This answer alone has the `secret` they are signed with. Raises InvalidArgument when the URL's host is
        not on a public address, QuotaExceeded beyond 20.
        """
        body = {"url": url, "types": list(types)}
        return await self._http.one(Webhook, Call.once("/v1/webhooks", body))

    async def list(self) -> list[Webhook]:
        """All of them, oldest first."""
        return await self._http.all(Webhook, Call.get("/v1/webhooks"))

    async def get(self, webhook_id: str) -> Webhook:
        """One, with how its deliveries go. Raises NotFound."""
        return await self._http.one(Webhook, Call.get(noun_path("webhooks", webhook_id)))

    async def delete(self, webhook_id: str) -> None:
        """Remove webhooks. Raises NotFound, also the second time."""
        await self._http.json(Call("DELETE", noun_path("webhooks", webhook_id), safe=True))
