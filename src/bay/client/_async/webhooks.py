"""Webhooks: the receivers of the server's events."""

from collections.abc import Sequence

from bay.client._answers import items, model
from bay.client._async.http import AsyncHttp
from bay.client._calls import Call
from bay.client._paths import webhook_path
from bay.ids import new_id
from bay.models import Webhook


class AsyncWebhooks:
    """The webhooks of the key's owner."""

    def __init__(self, http: AsyncHttp) -> None:
        self._http = http

    async def create(self, url: str, types: Sequence[str] = ()) -> Webhook:
        """Have events of `types` (none = all) sent to `url`.

        This answer alone has the `secret` they are signed with. Raises InvalidArgument when the URL's host is
        not on a public address, QuotaExceeded beyond 20.
        """
        call = Call(
            method="POST",
            path="/v1/webhooks",
            body={"url": url, "types": list(types)},
            headers={"Idempotency-Key": new_id("key")},
            safe=True,
        )
        return model(Webhook, await self._http.json(call))

    async def list(self) -> list[Webhook]:
        """All of them, oldest first."""
        page = await self._http.json(Call(method="GET", path="/v1/webhooks", safe=True))
        return [model(Webhook, item) for item in items(page)]

    async def get(self, webhook_id: str) -> Webhook:
        """One, with how its deliveries go. Raises NotFound."""
        call = Call(method="GET", path=webhook_path(webhook_id), safe=True)
        return model(Webhook, await self._http.json(call))

    async def delete(self, webhook_id: str) -> None:
        """Remove webhooks. Raises NotFound, also the second time."""
        await self._http.json(Call(method="DELETE", path=webhook_path(webhook_id), safe=True))
