"""The routes `/v1/webhooks`: the receivers of events."""

from typing import Annotated

from fastapi import Response
from pydantic import Field

from bay.models import EVENT_TYPES, Webhook
from bay.server.events.webhooks import Webhooks
from bay.server.web.bodies import Body, Most
from bay.server.web.dependencies import IdempotencyKey, Reader, Writer, noun_router, service
from bay.server.web.replies import PageOf, WireResponse

router = noun_router("webhooks", "/v1/webhooks")

WebhooksDep = Annotated[Webhooks, service(Webhooks)]


class CreateWebhook(Body):
    """The URL and the types of a webhook."""

    url: Annotated[
        str, Field(min_length=1, max_length=2048, description="http or https, on a public address")
    ]
    types: Annotated[
        list[Annotated[str, Field(max_length=64, json_schema_extra={"enum": [*EVENT_TYPES]})]],
        Field(description="Empty means all"),
        Most(64),
    ] = Field(default_factory=list)


class WebhookList(PageOf[Webhook]):
    """All webhooks, oldest first: there are never so many that they need pages."""


@router.post("", status_code=201, response_model=Webhook)
async def create_webhook(
    caller: Writer, webhooks: WebhooksDep, body: CreateWebhook, idempotency_key: IdempotencyKey = None
) -> WireResponse:
    """Send events to a URL. `secret`, which signs them, is only in this answer."""
    return WireResponse(await webhooks.create(caller, body.url, body.types, idempotency_key), 201)


@router.get("", response_model=WebhookList)
async def list_webhooks(caller: Reader, webhooks: WebhooksDep) -> WireResponse:
    """Your webhooks, oldest first."""
    items = await webhooks.all(caller)
    return WireResponse({"items": items, "has_more": False, "next_cursor": None})


@router.get("/{webhook_id}", response_model=Webhook)
async def get_webhook(caller: Reader, webhooks: WebhooksDep, webhook_id: str) -> WireResponse:
    """One webhook, with the error of its last attempt, if any."""
    return WireResponse(await webhooks.get(caller, webhook_id))


@router.delete("/{webhook_id}", status_code=204)
async def delete_webhook(caller: Writer, webhooks: WebhooksDep, webhook_id: str) -> Response:
    """Delete a webhook."""
    await webhooks.delete(caller, webhook_id)
    return Response(status_code=204)
