"""Policies of a sprite: its network, its memory, and its privileges."""

from typing import Annotated, Any, Literal

from fastapi import Response
from pydantic import BaseModel, Field
from starlette.responses import JSONResponse

from bay.errors import BadRequest
from bay.models import Sandbox
from bay.server.compat.routers import format_router
from bay.server.compat.sprites.policies import Rule, policy_of, rules_of
from bay.server.compat.sprites.wire import PREFIX
from bay.server.networks.service import Networks
from bay.server.sandboxes.service import SandboxChanges, Sandboxes
from bay.server.web.bodies import Most
from bay.server.web.dependencies import Reader, Writer, service

router = format_router(PREFIX + "/{name}/policy")

NetworksDep = Annotated[Networks, service(Networks)]
SandboxesDep = Annotated[Sandboxes, service(Sandboxes)]


class PolicyRule(BaseModel):
    """A rule on a name, or the defaults. Null is as good as a field that is left out."""

    domain: Annotated[str | None, Field(max_length=260)] = None
    action: Annotated[str | None, Field(max_length=16)] = None
    include: Annotated[str | None, Field(max_length=64)] = None

    def given(self) -> Rule:
        """The fields that are there."""
        return self.model_dump(exclude_none=True)


class PolicyRules(BaseModel):
    """A network policy, whole."""

    rules: Annotated[tuple[PolicyRule, ...], Most(10_000)]


class Memory(BaseModel):
    """The memory of a sprite."""

    limit_mb: Annotated[int, Field(ge=16, le=1 << 30)]
    autoscale: bool | None = None


class SetResources(BaseModel):
    """The resources of a sprite; without `memory` nothing changes."""

    memory: Memory | None = None


class SetPrivileges(BaseModel):
    """The privileges of a sprite's programs, which its profile sets."""

    profile: Literal["", "minimal", "standard", "privileged"] | None = None
    devices: Annotated[tuple[str, ...] | None, Most(64)] = None
    no_new_privileges: Annotated[bool | None, Field(alias="noNewPrivileges")] = None


@router.get("/network")
async def get_network_policy(caller: Reader, networks: NetworksDep, name: str) -> Response:
    """The rules on names."""
    return JSONResponse({"rules": rules_of(await networks.get(caller, name))})


@router.post("/network", status_code=204)
async def set_network_policy(caller: Writer, networks: NetworksDep, name: str, body: PolicyRules) -> Response:
    """Replace the rules; answers when they hold, also for open connections."""
    await networks.put(caller, name, policy_of([rule.given() for rule in body.rules]))
    return Response(status_code=204)


@router.get("/resources")
async def get_resources(caller: Reader, sandboxes: SandboxesDep, name: str) -> Response:
    """Its memory."""
    sandbox = await sandboxes.get(caller, name)
    return JSONResponse({"memory": {"limit_mb": sandbox.memory_mb, "autoscale": False}})


@router.post("/resources", status_code=204)
async def set_resources(caller: Writer, sandboxes: SandboxesDep, name: str, body: SetResources) -> Response:
    """Give it another size of memory, which holds at once."""
    await sandboxes.update(caller, name, _changes(body.memory))
    return Response(status_code=204)


@router.delete("/resources", status_code=204)
async def reset_resources(caller: Writer, sandboxes: SandboxesDep, name: str) -> Response:
    """Give it the memory of its profile."""
    await sandboxes.update(caller, name, SandboxChanges(given=frozenset(("memory_mb",))))
    return Response(status_code=204)


@router.get("/privileges")
async def get_privileges(caller: Reader, sandboxes: SandboxesDep, name: str) -> Response:
    """The privileges that every sprite has."""
    return JSONResponse(_privileges(await sandboxes.get(caller, name)))


@router.post("/privileges", status_code=204)
async def set_privileges(caller: Writer, sandboxes: SandboxesDep, name: str, body: SetPrivileges) -> Response:
    """Refused, unless it asks for what is so: privileges are a matter of Bay's profiles."""
    _check(_privileges(await sandboxes.get(caller, name)), body)
    return Response(status_code=204)


@router.delete("/privileges", status_code=204)
async def reset_privileges(caller: Writer, sandboxes: SandboxesDep, name: str) -> Response:
    """There is nothing to take back."""
    await sandboxes.get(caller, name)
    return Response(status_code=204)


def _changes(memory: Memory | None) -> SandboxChanges:
    """Raises BadRequest."""
    if memory is None:
        return SandboxChanges(given=frozenset())
    if memory.autoscale:
        raise BadRequest("autoscale is not served; set a limit_mb that suffices")
    return SandboxChanges(given=frozenset(("memory_mb",)), memory_mb=memory.limit_mb)


def _privileges(_sandbox: Sandbox) -> dict[str, Any]:
    return {"profile": "standard", "devices": [], "noNewPrivileges": False}


def _check(present: dict[str, Any], wanted: SetPrivileges) -> None:
    if wanted.profile not in (None, "", present["profile"]) or wanted.devices or wanted.no_new_privileges:
        raise BadRequest("privileges cannot be set for one sprite; its operator sets those of its profile")
