"""The webhook service keeps the receivers of an owner's events, which `webhook_delivery` sends."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bay.clock import Clock
from bay.errors import InvalidArgument, NotFound, QuotaExceeded
from bay.ids import new_id
from bay.models import EVENT_TYPES, Webhook
from bay.server.web import idempotency
from bay.server.web.auth import Caller
from bay.server.web.public_addresses import Addresses, checked_url
from bay.store import audit, events, webhooks
from bay.store.engine import Store
from bay.store.records import WebhookRecord
from bay.webhook_signature import new_webhook_secret

MAX_WEBHOOKS = 20


@dataclass(eq=False, kw_only=True)
class Webhooks:
    """The service behind `/v1/webhooks`."""

    store: Store
    addresses: Addresses
    on_change: Callable[[], None]
    clock: Clock

    async def create(
        self, caller: Caller, url: str, types: Sequence[str], idempotency_key: str | None
    ) -> Webhook:
        """Send future events to `url`. The answer alone has the secret that they are signed with."""
        request = idempotency.request(caller, idempotency_key, "POST /v1/webhooks", [url, list(types)])
        _check_types(types)
        await self.addresses.public(checked_url(url))
        async with self.store.write() as db:
            if request and (claim := await request.earlier(db)) is not None:
                made = claim.resource_id
                return _view(_found(await webhooks.find(db, caller.owner, made), made), show=True)
            if await webhooks.count(db, caller.owner) >= MAX_WEBHOOKS:
                raise QuotaExceeded(f"you have {MAX_WEBHOOKS} webhooks, the limit; delete one")
            record = self._record(caller.owner, url, types, await events.newest(db, caller.owner))
            await webhooks.add(db, record)
            audit.about(record.id)
            if request:
                await request.claim(db, record.id, None, self.clock())
        self.on_change()
        return _view(record, show=True)

    async def all(self, caller: Caller) -> list[Webhook]:
        """The caller's webhooks, oldest first."""
        async with self.store.read() as db:
            return [_view(record) for record in await webhooks.of_owner(db, caller.owner)]

    async def get(self, caller: Caller, webhook_id: str) -> Webhook:
        """One webhook and how its deliveries go."""
        async with self.store.read() as db:
            return _view(_found(await webhooks.find(db, caller.owner, webhook_id), webhook_id))

    async def delete(self, caller: Caller, webhook_id: str) -> None:
        """Send it nothing more; a delivery under way is aborted."""
        async with self.store.write() as db:
            if not await webhooks.remove(db, caller.owner, webhook_id):
                raise NotFound(f"there is no webhook {webhook_id}")
        self.on_change()

    def _record(self, owner: str, url: str, types: Sequence[str], after_seq: int) -> WebhookRecord:
        return WebhookRecord(
            id=new_id("hook"), owner=owner, url=url, secret=new_webhook_secret(),
            types=tuple(sorted(set(types))), after_seq=after_seq, attempts=0, last_error=None, next_attempt_at=None,
            created_at=self.clock(),
        )  # fmt: skip


def _check_types(types: Sequence[str]) -> None:
    unknown = sorted(set(types) - set(EVENT_TYPES))
    if unknown:
        raise InvalidArgument(
            f"there is no event type {unknown[0]}; details.available lists the types",
            details={"available": list(EVENT_TYPES)},
        )


def _found(record: WebhookRecord | None, webhook_id: str) -> WebhookRecord:
    if record is None:
        raise NotFound(f"there is no webhook {webhook_id}")
    return record


def _view(record: WebhookRecord, *, show: bool = False) -> Webhook:
    return Webhook(
        id=record.id, url=record.url, types=record.types, created_at=record.created_at, attempts=record.attempts,
        next_attempt_at=record.next_attempt_at, last_error=record.last_error, secret=record.secret if show else None,
    )  # fmt: skip
