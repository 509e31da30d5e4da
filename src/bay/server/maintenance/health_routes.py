"""The routes `/health`, `/health/ready` and `/v1/profiles`, which need no key."""

from typing import Annotated, Any

from fastapi import Query, Request
from pydantic import BaseModel, Field

from bay import __version__
from bay.models import Persist, Profile, to_wire
from bay.server.maintenance.readiness import Readiness
from bay.server.sessions.sizes import most_of
from bay.server.web.dependencies import noun_router, service
from bay.server.web.replies import WireResponse

router = noun_router()

ReadinessDep = Annotated[Readiness, service(Readiness)]


class HealthReply(BaseModel):
    """Bay answers."""

    status: str
    version: str


class ReadyReply(HealthReply):
    """Bay can serve. A replica also names itself, and the shards and jobs that it works on."""

    replica: str | None = None
    shards: list[int] | None = None
    jobs: list[str] | None = None


class ProfileItem(BaseModel):
    """A profile as a caller chooses it."""

    id: str
    image: str
    resources: dict[str, Any]
    capabilities: list[str]
    idle_timeout: int | None
    hibernate: Annotated[
        bool, Field(description="Whether memory of its sandboxes goes to disk, where the host can save it")
    ]
    description: str
    persist: Persist
    disk_mb: int | None
    max_cpus: float
    max_memory_mb: int
    max_disk_mb: int | None
    max_pids: int
    containers: list[dict[str, Any]] | None = None


class ProfileList(BaseModel):
    """All profiles."""

    items: list[ProfileItem]


@router.get("/health", response_model=HealthReply, tags=["health"])
async def health() -> WireResponse:
    """Whether Bay answers, and which version."""
    return WireResponse({"status": "ok", "version": __version__})


@router.get("/health/ready", response_model=ReadyReply, tags=["health"])
async def ready(readiness: ReadinessDep) -> WireResponse:
    """Whether Bay can serve: 503 while its database cannot be used, and for a replica that lacks more."""
    replica = await readiness.check()
    own: dict[str, Any] = {} if replica is None else to_wire(replica)
    return WireResponse({"status": "ok", "version": __version__, **own})


@router.get("/v1/profiles", response_model=ProfileList, tags=["profiles"])
async def list_profiles(
    request: Request,
    detail: Annotated[bool, Query(description="Also show the containers of a session")] = False,
) -> WireResponse:
    """The profiles of this Bay."""
    profiles: dict[str, Profile] = request.app.state.profiles
    return WireResponse({"items": [_item(profile, detail=detail) for profile in profiles.values()]})


def _item(profile: Profile, *, detail: bool) -> dict[str, Any]:
    memory = f"{profile.resources.memory // (1 << 20)}m"
    resources = {"cpus": profile.resources.cpus, "memory": memory, "pids": profile.resources.pids}
    container = {
        "name": "ship",
        "runtime_type": "ship",
        "image": profile.image,
        "resources": resources,
        "capabilities": profile.capabilities,
    }
    return {
        "id": profile.id,
        "image": profile.image,
        "resources": resources,
        "capabilities": profile.capabilities,
        "idle_timeout": profile.idle_timeout,
        "hibernate": profile.hibernate,
        "description": profile.description,
        "persist": profile.persist,
        "disk_mb": profile.disk_mb,
        **{f"max_{name}": value for name, value in to_wire(most_of(profile)).items()},
        "containers": [container] if detail else None,
    }
