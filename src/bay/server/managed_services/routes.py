"""The routes `…/services`: commands that start with a sandbox and are kept running."""

from typing import Annotated, Any, Literal

from fastapi import Path, Query, Response
from pydantic import Field, model_validator
from starlette.responses import StreamingResponse

from bay.models import Service, ServiceHealth, ServiceSpec
from bay.server.execs.output import LastEventId, Since, output_reply
from bay.server.managed_services.rules import MAX_SERVICES
from bay.server.managed_services.service import SandboxServices
from bay.server.web.bodies import DURATION, Body, Most, SignalName
from bay.server.web.dependencies import (
    Accept,
    Cwd,
    Env,
    Reader,
    User,
    Word,
    Writer,
    noun_router,
    service,
)
from bay.server.web.replies import Items, WireResponse

router = noun_router("services", "/v1/sandboxes/{sandbox_id}/services")

SandboxServicesDep = Annotated[SandboxServices, service(SandboxServices)]

PortNumber = Annotated[int, Field(ge=1, le=65_535)]
Name = Annotated[str, Field(max_length=63, description="a-z, 0-9 and inner hyphens")]
ServiceName = Annotated[str, Path(max_length=63)]


class HealthBody(Body):
    """The health check of a service: a port, or a command."""

    port: PortNumber | None = None
    argv: (
        Annotated[tuple[Word, ...], Field(min_length=1, description="A command that exits with 0"), Most(256)]
        | None
    ) = None
    path: Annotated[
        str | None,
        Field(
            pattern=r"^/[!-~]*$",
            max_length=2048,
            description="Path of a GET; default: a TCP connection is enough",
        ),
    ] = None
    interval_s: Annotated[float, Field(ge=0.1, le=3600), DURATION] = 5.0
    timeout_s: Annotated[float, Field(ge=0.1, le=600), DURATION] = 2.0
    retries: Annotated[
        int, Field(ge=1, le=100, description="Consecutive failures that make it unhealthy")
    ] = 3

    @model_validator(mode="after")
    def _one_way(self) -> "HealthBody":
        if (self.port is None) == (self.argv is None):
            raise ValueError("give port or argv, one of the two")
        if self.path is not None and self.port is None:
            raise ValueError("a path needs a port; give both, or argv alone")
        return self


class ServiceBody(Body):
    """The definition of a service."""

    argv: Annotated[tuple[Word, ...], Field(min_length=1), Most(4096)]
    env: Env = Field(default_factory=dict)
    cwd: Cwd = None
    user: User = None
    needs: Annotated[
        tuple[Name, ...], Field(description="Services that start first"), Most(MAX_SERVICES)
    ] = ()
    http_port: Annotated[PortNumber | None, Field(description="Its HTTP port")] = None
    restart: Literal["always", "on-failure", "never"] = "always"
    health: HealthBody | None = None
    enabled: Annotated[bool, Field(description="Whether it starts with the session")] = True

    def to_spec(self, name: str) -> ServiceSpec:
        """The class that the services take."""
        values: dict[str, Any] = self.model_dump(exclude={"name", "health"})
        health = None if self.health is None else ServiceHealth(**self.health.model_dump())
        return ServiceSpec(name=name, health=health, **values)


class NamedService(ServiceBody):
    """The definition of a service, with its name."""

    name: Name

    def to_noun(self) -> ServiceSpec:
        """The class that the services take."""
        return self.to_spec(self.name)


class SignalService(Body):
    """The signal to send."""

    signal: SignalName


class ServiceList(Items[Service]):
    """The services of a sandbox, in the order in which they were made."""


@router.get("", response_model=ServiceList)
async def list_services(caller: Reader, services: SandboxServicesDep, sandbox_id: str) -> WireResponse:
    """The sandbox's services with their states. Wakes nothing."""
    return WireResponse({"items": await services.list(caller, sandbox_id)})


@router.get("/{service_name}", response_model=Service)
async def get_service(
    caller: Reader, services: SandboxServicesDep, sandbox_id: str, service_name: ServiceName
) -> WireResponse:
    """One service of a sandbox."""
    return WireResponse(await services.get(caller, sandbox_id, service_name))


@router.put("/{service_name}", response_model=Service, responses={201: {"model": Service}})
async def put_service(
    caller: Writer,
    services: SandboxServicesDep,
    sandbox_id: str,
    service_name: ServiceName,
    body: ServiceBody,
) -> WireResponse:
    """Create or replace a service, which restarts if it differs. Wakes nothing."""
    spec = body.to_spec(service_name)
    service, is_new = await services.put(caller, sandbox_id, spec)
    return WireResponse(service, 201 if is_new else 200)


@router.delete("/{service_name}", status_code=204)
async def delete_service(
    caller: Writer, services: SandboxServicesDep, sandbox_id: str, service_name: ServiceName
) -> Response:
    """End and delete a service with its output. Refused while another service needs it."""
    await services.delete(caller, sandbox_id, service_name)
    return Response(status_code=204)


@router.post("/{service_name}/start", response_model=Service)
async def start_service(
    caller: Writer, services: SandboxServicesDep, sandbox_id: str, service_name: ServiceName
) -> WireResponse:
    """Start a service, now and with every session. Wakes nothing."""
    return WireResponse(await services.start(caller, sandbox_id, service_name))


@router.post("/{service_name}/stop", response_model=Service)
async def stop_service(
    caller: Writer, services: SandboxServicesDep, sandbox_id: str, service_name: ServiceName
) -> WireResponse:
    """Stop a service until its next start."""
    return WireResponse(await services.stop(caller, sandbox_id, service_name))


@router.post("/{service_name}/restart", response_model=Service)
async def restart_service(
    caller: Writer, services: SandboxServicesDep, sandbox_id: str, service_name: ServiceName
) -> WireResponse:
    """Restart a service; thaws a frozen sandbox."""
    return WireResponse(await services.restart(caller, sandbox_id, service_name))


@router.post("/{service_name}/signal", response_model=Service)
async def signal_service(
    caller: Writer,
    services: SandboxServicesDep,
    sandbox_id: str,
    service_name: ServiceName,
    body: SignalService,
) -> WireResponse:
    """Send a signal to a service's process group; thaws a frozen sandbox. Refused unless it runs."""
    return WireResponse(await services.signal(caller, sandbox_id, service_name, body.signal))


@router.get("/{service_name}/logs", response_class=StreamingResponse)
async def service_logs(
    caller: Reader,
    services: SandboxServicesDep,
    sandbox_id: str,
    service_name: ServiceName,
    since: Since = 0,
    follow: Annotated[bool, Query(description="Follow until it has ended and will not be restarted")] = False,
    last_event_id: LastEventId = None,
    accept: Accept = "",
) -> StreamingResponse:
    """A service's output in this session, over all its runs, in the form of an exec's output."""
    since = since if last_event_id is None else last_event_id
    opened = services.logs(caller, sandbox_id, service_name, since, follow=follow)
    return await output_reply(opened, accept)
