"""The routes `/v1/keys`: API keys. For admin keys alone."""

from typing import Annotated

from fastapi import Query, Response
from pydantic import ConfigDict, Field, StringConstraints

from bay.models import Key, KeyScope, NewKey
from bay.server.keys.service import ApiKeys, KeyWish
from bay.server.settings import QuotaSettings
from bay.server.web.bodies import DURATION, Body, Moment
from bay.server.web.dependencies import Admin, Cursor, IdempotencyKey, Limit, noun_router, service
from bay.server.web.replies import PageOf, WireResponse
from bay.server.web.sealing import Cursors

router = noun_router("keys", "/v1/keys")

ApiKeysDep = Annotated[ApiKeys, service(ApiKeys)]

KeyName = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]+$")]
Owner = Annotated[str, Field(min_length=1, max_length=63)]


class KeyQuotas(QuotaSettings):
    """The quotas of the settings, which have numbers as text too; a request has not."""

    model_config = ConfigDict(strict=True)


class CreateKey(Body):
    """A new key's name, owner, scope, expiry and quotas."""

    name: Annotated[KeyName, Field(description="For people; need not be unique")]
    owner: Annotated[Owner | None, Field(description="Whose sandboxes it sees; else your own owner")] = None
    scope: Annotated[KeyScope, Field(description="What it may do")] = "write"
    expires_at: Annotated[Moment | None, Field(description="When it stops; null = never")] = None
    expires_in: Annotated[
        int | None,
        Field(ge=1, le=10 * 365 * 86400, description="The same in seconds from now"),
        DURATION,
    ] = None
    e2b: Annotated[bool, Field(description="A secret of the form that clients of E2B know")] = False
    quotas: Annotated[
        KeyQuotas | None,
        Field(description="What its sandboxes may use at once, beside its owner's quotas"),
    ] = None


class KeyList(PageOf[Key]):
    """A page of keys, oldest first."""


@router.post("", status_code=201, response_model=NewKey)
async def create_key(
    caller: Admin, keys: ApiKeysDep, body: CreateKey, idempotency_key: IdempotencyKey = None
) -> WireResponse:
    """Create a key. Its secret is only in this answer; a repeated call returns null instead."""
    given = body.model_dump(exclude={"quotas"})
    wish = KeyWish(**given, quotas=body.quotas.over(None) if body.quotas else None)
    return WireResponse(await keys.create(caller, wish, idempotency_key), 201)


@router.get("", response_model=KeyList)
async def list_keys(
    caller: Admin,
    keys: ApiKeysDep,
    cursors: Annotated[Cursors, service(Cursors)],
    limit: Limit = 50,
    cursor: Cursor = None,
    owner: Annotated[str | None, Query(max_length=128, description="Only of this owner")] = None,
) -> WireResponse:
    """The keys of every owner, revoked and expired ones too, oldest first; never a secret."""
    after = cursors.id(caller.owner, cursor)
    items, place = await keys.page(owner, after=after, limit=limit)
    following = cursors.of_id(caller.owner, place)
    return WireResponse({"items": items, "has_more": place is not None, "next_cursor": following})


@router.delete("/{key_id}", status_code=204)
async def revoke_key(_caller: Admin, keys: ApiKeysDep, key_id: str) -> Response:
    """Revoke the key, at once; a second call succeeds too."""
    await keys.revoke(key_id)
    return Response(status_code=204)
