"""Services of a sprite. Those that act answer with lines of what the service does for a while."""

import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Annotated, Any

from fastapi import Query
from pydantic import BaseModel, Field
from starlette.responses import JSONResponse, Response

from bay.errors import BadRequest
from bay.models import Service, ServiceSpec
from bay.server.compat.routers import format_router
from bay.server.compat.sprites.services_service import Happening, SpriteServices
from bay.server.compat.sprites.streams import MEDIA_TYPE, Line, encoded_all, whole
from bay.server.compat.sprites.wire import PREFIX, seconds_of, time_of
from bay.server.managed_services.routes import Name, PortNumber, ServiceName
from bay.server.managed_services.rules import MAX_SERVICES
from bay.server.managed_services.service import SandboxServices
from bay.server.web.bodies import Most, SignalName
from bay.server.web.dependencies import Env, Reader, Word, Writer, service
from bay.server.web.replies import HeldResponse

router = format_router(PREFIX + "/{name}/services")

SandboxServicesDep = Annotated[SandboxServices, service(SandboxServices)]
SpriteServicesDep = Annotated[SpriteServices, service(SpriteServices)]

_LONGEST_S = 3600.0
_HOME = "~"
"""Where services run that name no `dir`."""

Followed = AbstractAsyncContextManager[AsyncIterator[Happening]]
Span = Annotated[str, Query(max_length=32)]

_STATUS = {
    "stopped": "stopped",
    "waiting": "starting",
    "running": "running",
    "backoff": "starting",
    "failed": "failed",
}


class PutService(BaseModel):
    """The definition of a service. Null is as good as a field that is left out."""

    cmd: Annotated[Word, Field(min_length=1)]
    args: Annotated[tuple[Word, ...] | None, Most(4096)] = None
    env: Env | None = None
    dir: Annotated[str | None, Field(max_length=4096)] = None
    needs: Annotated[tuple[Name, ...] | None, Most(MAX_SERVICES)] = None
    http_port: PortNumber | None = None

    def to_spec(self, name: str) -> ServiceSpec:
        """The class that Bay's services take."""
        cwd = self.dir or _HOME
        return ServiceSpec(
            name=name,
            argv=(self.cmd, *(self.args or ())),
            env=self.env or {},
            cwd=cwd if cwd.startswith(("/", _HOME)) else f"{_HOME}/{cwd}",
            needs=self.needs or (),
            http_port=self.http_port,
        )


class SignalNamed(BaseModel):
    """The service and the signal that it is sent."""

    name: Name
    signal: SignalName


@router.get("")
async def list_services(caller: Reader, services: SandboxServicesDep, name: str) -> Response:
    """The sprite's services. Wakes nothing."""
    return JSONResponse([_service(one) for one in await services.list(caller, name)])


@router.post("/signal", status_code=204)
async def signal_service(
    caller: Writer, services: SandboxServicesDep, name: str, body: SignalNamed
) -> Response:
    """Send a signal to a service that runs."""
    await services.signal(caller, name, body.name, body.signal)
    return Response(status_code=204)


@router.get("/{service_name}")
async def get_service(
    caller: Reader, services: SandboxServicesDep, name: str, service_name: ServiceName
) -> Response:
    """One service."""
    return JSONResponse(_service(await services.get(caller, name, service_name)))


@router.put("/{service_name}")
async def put_service(
    caller: Writer,
    services: SpriteServicesDep,
    name: str,
    service_name: ServiceName,
    body: PutService,
    duration: Span = "5s",
) -> Response:
    """Make or replace a service, which runs at once; the lines tell of it for that long."""
    spec = body.to_spec(service_name)
    return await _streamed(services.put(caller, name, spec, _span(duration)))


@router.delete("/{service_name}", status_code=204)
async def delete_service(
    caller: Writer, services: SpriteServicesDep, name: str, service_name: ServiceName
) -> Response:
    """End and delete a service."""
    await services.delete(caller, name, service_name)
    return Response(status_code=204)


@router.post("/{service_name}/start")
async def start_service(
    caller: Writer,
    services: SpriteServicesDep,
    name: str,
    service_name: ServiceName,
    duration: Span = "5s",
) -> Response:
    """Start a service, now and with every start of the sprite."""
    return await _streamed(services.start(caller, name, service_name, _span(duration)))


@router.post("/{service_name}/stop")
async def stop_service(
    caller: Writer, services: SpriteServicesDep, name: str, service_name: ServiceName, timeout: Span = "10s"
) -> Response:
    """Stop a service until its next start. KILL follows TERM after 5 s, whatever the `timeout`."""
    seconds_of(timeout, "timeout")
    happenings = await services.stop(caller, name, service_name)
    return whole(_line(happening) for happening in happenings)


@router.post("/{service_name}/restart")
async def restart_service(
    caller: Writer,
    services: SpriteServicesDep,
    name: str,
    service_name: ServiceName,
    duration: Span = "5s",
) -> Response:
    """End a service and start it anew."""
    return await _streamed(services.restart(caller, name, service_name, _span(duration)))


@router.get("/{service_name}/logs")
async def service_logs(
    caller: Reader,
    services: SpriteServicesDep,
    name: str,
    service_name: ServiceName,
    lines: Annotated[int | None, Query(ge=0, lt=2**31)] = None,
    duration: Span = "0s",
) -> Response:
    """The output that is kept, or its last lines, and for that long what comes."""
    return await _streamed(services.logs(caller, name, service_name, lines, _span(duration)))


async def _streamed(followed: Followed) -> Response:
    """The lines of what is followed. By the time that it is entered the act is done."""
    stack = AsyncExitStack()
    happenings = await stack.enter_async_context(followed)
    return HeldResponse(stack, encoded_all(_lines(happenings)), media_type=MEDIA_TYPE)


async def _lines(happenings: AsyncIterator[Happening]) -> AsyncGenerator[Line]:
    async for happening in happenings:
        yield _line(happening)


def _line(happening: Happening) -> Line:
    line: dict[str, object] = {"type": happening.kind, "timestamp": int(time.time() * 1000)}
    if happening.text is not None:
        line["data"] = happening.text
    if happening.exit_code is not None:
        line["exit_code"] = happening.exit_code
    if happening.kind == "complete":
        line["log_files"] = {}
    return line


def _span(duration: str) -> float:
    seconds = seconds_of(duration, "duration")
    if seconds > _LONGEST_S:
        raise BadRequest(f"duration may be at most {_LONGEST_S:g} s; read the logs again for more")
    return seconds


def _service(one: Service) -> dict[str, Any]:
    return {
        "name": one.name,
        "cmd": one.argv[0],
        "args": list(one.argv[1:]),
        "env": one.env,
        "dir": None if one.cwd in (None, _HOME) else one.cwd.removeprefix(f"{_HOME}/"),
        "needs": list(one.needs),
        "http_port": one.http_port,
        "state": {
            "name": one.name,
            "status": _status(one),
            "pid": one.pid,
            "started_at": time_of(one.started_at),
            "error": one.message,
            "restart_count": one.restarts,
            "next_restart_at": time_of(one.next_start_at),
        },
    }


def _status(one: Service) -> str:
    if one.state == "running" and not one.enabled:
        return "stopping"
    if one.state == "exited":
        return "failed" if one.exit_code else "stopped"
    return _STATUS[one.state]
