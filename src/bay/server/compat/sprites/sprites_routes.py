"""Management of sprites: creates, lists, changes, restarts and checks."""

import json
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack
from typing import Annotated, Any, Literal

from fastapi import Query
from pydantic import BaseModel, Field, TypeAdapter, ValidationError
from starlette.responses import JSONResponse, Response

from bay.clock import utc_now
from bay.errors import BadRequest
from bay.models import Sandbox, Sizes
from bay.server.compat.routers import format_router
from bay.server.compat.sprites.wire import (
    PREFIX,
    PROFILE,
    UrlAuth,
    counts_of,
    name_of,
    sprite_of,
    status_of,
    time_of,
    url_settings,
)
from bay.server.sandboxes.service import NewSandbox, SandboxChanges, Sandboxes
from bay.server.sandboxes.states import SandboxStates, States
from bay.server.web.auth import Caller
from bay.server.web.bodies import Labels, Most
from bay.server.web.dependencies import Accept, Env, IdempotencyKey, Reader, Writer, service
from bay.server.web.replies import HeldResponse
from bay.server.web.sealing import Cursors
from bay.store.records import Filters

router = format_router(PREFIX)

SandboxesDep = Annotated[Sandboxes, service(Sandboxes)]
StatesDep = Annotated[SandboxStates, service(SandboxStates)]
CursorsDep = Annotated[Cursors, service(Cursors)]

_NDJSON = "application/x-ndjson"
_MOST_RESULTS = 50
_CAPACITY_S = 60.0
_labels: TypeAdapter[dict[str, str]] = TypeAdapter(Labels)

LabelTexts = Annotated[list[Annotated[str, Field(max_length=320)]], Most(64)]


class SpriteConfig(BaseModel):
    """The sizes of a sprite. `region` is taken and has no effect: there is one place."""

    ram_mb: Annotated[int | None, Field(ge=64, le=1 << 30)] = None
    cpus: Annotated[float | None, Field(ge=0.01, le=1024, allow_inf_nan=False)] = None
    storage_gb: Annotated[float | None, Field(gt=0, le=1 << 20, allow_inf_nan=False)] = None
    region: Annotated[str | None, Field(max_length=64)] = None

    def sizes(self) -> Sizes:
        """The same as Bay's sizes; None is the profile's."""
        disk_mb = None if self.storage_gb is None else max(16, round(self.storage_gb * 1024))
        return Sizes(cpus=self.cpus, memory_mb=self.ram_mb, disk_mb=disk_mb)


class UrlSettings(BaseModel):
    """Who may use the sprite's URL."""

    auth: UrlAuth | None = None
    private_access: bool | None = None


class CreateSprite(BaseModel):
    """A new sprite. Null is as good as a field that is left out."""

    name: Annotated[str, Field(min_length=1, max_length=63)]
    config: SpriteConfig | None = None
    environment: Env | None = None
    url_settings: UrlSettings | None = None
    labels: LabelTexts | None = None
    wait_for_capacity: bool | None = None
    runtime: Literal["default"] | None = None


class UpdateSprite(BaseModel):
    """The settings to change; those that are null or left out stay."""

    url_settings: UrlSettings | None = None
    labels: LabelTexts | None = None


@router.post("", status_code=201)
async def create_sprite(
    caller: Writer, sandboxes: SandboxesDep, body: CreateSprite, idempotency_key: IdempotencyKey = None
) -> Response:
    """Make a sprite; with `wait_for_capacity` answer once it runs."""
    new = NewSandbox(
        profile=PROFILE,
        name=body.name,
        env=body.environment or {},
        labels=_parsed(body.labels or []),
        url=url_settings(_auth(body.url_settings) or "sprite"),
        sizes=(body.config or SpriteConfig()).sizes(),
    )
    wait_s = _CAPACITY_S if body.wait_for_capacity else 0.0
    made = await sandboxes.create(caller, new, idempotency_key, wait_s)
    return JSONResponse(sprite_of(made, caller.owner), 201)


@router.get("")
async def list_sprites(
    caller: Reader,
    states: StatesDep,
    cursors: CursorsDep,
    prefix: Annotated[str | None, Query(max_length=63)] = None,
    max_results: Annotated[int, Query(ge=-(1 << 31), lt=1 << 31)] = _MOST_RESULTS,
    continuation_token: Annotated[str | None, Query(max_length=256)] = None,
    accept: Accept = "",
) -> Response:
    """Every sandbox with a name, oldest first; or all of them and each change, live, as lines of JSON."""
    filters = Filters(name_prefix=prefix or None, named=True)
    if _NDJSON in accept:
        stack = AsyncExitStack()
        news = await stack.enter_async_context(states.follow(caller, filters))
        return HeldResponse(stack, _lines(news, caller), media_type=_NDJSON)
    after = cursors.row(caller.owner, continuation_token)
    limit = min(max(1, max_results), _MOST_RESULTS)
    found = await states.page(caller, filters, after=after, limit=limit)
    token = cursors.of_row(caller.owner, found.page.next_cursor)
    return JSONResponse(
        {
            "name": caller.owner,
            "sprites": [sprite_of(one, caller.owner) for one in found.page.items],
            "has_more": token is not None,
            "next_continuation_token": token,
            **counts_of(found.counts),
        }
    )


@router.get("/{name}")
async def get_sprite(caller: Reader, sandboxes: SandboxesDep, name: str) -> Response:
    """One sprite, by name or id."""
    return JSONResponse(sprite_of(await sandboxes.get(caller, name), caller.owner))


@router.put("/{name}")
async def update_sprite(caller: Writer, sandboxes: SandboxesDep, name: str, body: UpdateSprite) -> Response:
    """Change its labels, all of them, or who may use its URL; answers with the whole sprite."""
    auth = _auth(body.url_settings)
    changes = SandboxChanges(
        given=frozenset(_given(labels=body.labels, url_access=auth)),
        labels=_parsed(body.labels or []),
        url_access=auth and url_settings(auth),
    )
    return JSONResponse(sprite_of(await sandboxes.update(caller, name, changes), caller.owner))


@router.delete("/{name}", status_code=204)
async def delete_sprite(caller: Writer, sandboxes: SandboxesDep, name: str) -> Response:
    """Remove it with its files."""
    await sandboxes.delete(caller, name)
    return Response(status_code=204)


@router.post("/{name}/upgrade", status_code=204)
async def upgrade_sprite(caller: Writer, sandboxes: SandboxesDep, name: str) -> Response:
    """End its compute: the next call starts it with this server's runtime."""
    await sandboxes.stop(caller, name)
    return Response(status_code=204)


@router.post("/{name}/restart")
async def restart_sprite(caller: Writer, sandboxes: SandboxesDep, name: str) -> Response:
    """End its compute and start it anew; answers when the old one has ended."""
    sandbox = await sandboxes.restart(caller, name)
    told = {"sprite_name": name_of(sandbox), "machine_id": sandbox.id, "message": "the sprite is restarting"}
    return JSONResponse(told)


@router.get("/{name}/check")
async def check_sprite(caller: Reader, sandboxes: SandboxesDep, name: str) -> Response:
    """Its health: that of its runtime while it runs. One that sleeps is healthy and is not woken."""
    began = time.monotonic()
    sandbox = await sandboxes.get(caller, name)
    reason = _ailment(sandbox)
    return JSONResponse(
        {
            "sprite_name": name_of(sandbox),
            "sprite_id": sandbox.id,
            "status": "unhealthy" if reason else "healthy",
            "reason": reason,
            "checked_at": time_of(utc_now()),
            "elapsed": round((time.monotonic() - began) * 1000),
        }
    )


async def _lines(news: AsyncIterator[States], caller: Caller) -> AsyncGenerator[bytes]:
    """A line for each sprite that is there or changed; a heartbeat where there are none for a while."""
    async for states in news:
        organization = {"org": {"name": caller.owner, **counts_of(states.counts)}}
        told = [_state(one, status_of(one)) for one in states.present]
        told += [_state(one, "deleted") for one in states.removed]
        for line in told or [{"type": "heartbeat"}]:
            yield json.dumps({**line, "timestamp": time_of(utc_now()), **organization}).encode() + b"\n"


def _state(sandbox: Sandbox, status: str) -> dict[str, Any]:
    whole = sprite_of(sandbox, "")
    kept = {key: whole[key] for key in ("id", "name", "last_running_at", "last_warming_at")}
    return {**kept, "status": status}


def _ailment(sandbox: Sandbox) -> str | None:
    if sandbox.status in ("failed", "expired"):
        return sandbox.error.message if sandbox.error else f"the sprite is {sandbox.status}"
    if any(not one.healthy for one in sandbox.containers or ()):
        return "the sprite's runtime does not answer"
    return None


def _auth(given: UrlSettings | None) -> UrlAuth | None:
    if given is not None and given.private_access:
        raise BadRequest("private_access is not served; auth is sprite or public")
    return None if given is None else given.auth


def _parsed(texts: list[str]) -> dict[str, str]:
    """Labels from their texts. Raises BadRequest."""
    pairs = (text.partition("=") for text in texts)
    try:
        return _labels.validate_python({name: value for name, _, value in pairs})
    except ValidationError as error:
        raise BadRequest("a label must be letters, digits and ._/- , with or without =value") from error


def _given(**fields: object) -> set[str]:
    return {name for name, value in fields.items() if value is not None}
