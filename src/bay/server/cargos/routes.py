"""The routes `/v1/cargos`: the files of sandboxes, and cargos that belong to none."""

from typing import Annotated

from fastapi import Query, Response
from pydantic import Field

from bay.models import Cargo
from bay.server.cargos.service import Cargos
from bay.server.web.bodies import Body
from bay.server.web.dependencies import IdempotencyKey, Limit, Paging, Reader, Writer, noun_router, service
from bay.server.web.replies import PageOf, WireResponse

router = noun_router("cargos", "/v1/cargos")

CargosDep = Annotated[Cargos, service(Cargos)]

SizeLimit = Annotated[
    int | None, Field(ge=1, le=65_536, description="MiB; enforced where `size_limit_enforced` says so")
]


class CreateCargo(Body):
    """The limit and the first files of a new cargo."""

    size_limit_mb: SizeLimit = None
    from_checkpoint: Annotated[
        str | None, Field(max_length=64, description="Id of one of your checkpoints")
    ] = None


class UpdateCargo(Body):
    """A cargo's new limit; null is no limit."""

    size_limit_mb: SizeLimit


class MoveCargo(Body):
    """The sandbox that gets the cargo."""

    sandbox: Annotated[str, Field(max_length=64, description="Id or name of the sandbox to move it to")]


class CargoList(PageOf[Cargo]):
    """A page of cargos, oldest first."""


@router.post("", status_code=201, response_model=Cargo)
async def create_cargo(
    caller: Writer, cargos: CargosDep, body: CreateCargo | None = None, idempotency_key: IdempotencyKey = None
) -> WireResponse:
    """Create an external cargo, which several sandboxes may use at once."""
    body = body or CreateCargo()
    made = await cargos.create(caller, body.size_limit_mb, body.from_checkpoint, idempotency_key)
    return WireResponse(made, 201)


@router.get("", response_model=CargoList)
async def list_cargos(
    caller: Reader,
    cargos: CargosDep,
    paging: Paging,
    limit: Limit = 50,
    managed: Annotated[bool, Query(description="List managed cargos instead of external ones")] = False,
) -> WireResponse:
    """Your cargos, oldest first."""
    page = await cargos.page(caller, managed=managed, after=paging.after, limit=limit)
    return WireResponse(paging.reply(page))


@router.get("/{cargo_id}", response_model=Cargo)
async def get_cargo(caller: Reader, cargos: CargosDep, cargo_id: str) -> WireResponse:
    """One cargo, with the sandboxes that use it."""
    return WireResponse(await cargos.get(caller, cargo_id))


@router.patch("/{cargo_id}", response_model=Cargo)
async def update_cargo(caller: Writer, cargos: CargosDep, cargo_id: str, body: UpdateCargo) -> WireResponse:
    """Change its limit, also while sandboxes write to it."""
    return WireResponse(await cargos.update(caller, cargo_id, body.size_limit_mb))


@router.delete("/{cargo_id}", status_code=204)
async def delete_cargo(caller: Writer, cargos: CargosDep, cargo_id: str) -> Response:
    """Remove an unused external cargo; a second call succeeds too."""
    await cargos.delete(caller, cargo_id)
    return Response(status_code=204)


@router.post("/{cargo_id}/move", response_model=Cargo)
async def move_cargo(caller: Writer, cargos: CargosDep, cargo_id: str, body: MoveCargo) -> WireResponse:
    """Move this cargo to a sandbox, in place of its own; no file is lost."""
    return WireResponse(await cargos.move(caller, cargo_id, body.sandbox))
