"""The client of a Ship's service routes: the definitions it keeps running, and their state."""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import fields
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from bay.models import OutputChunk, Service, ServiceSpec, ServiceState, to_wire
from bay.server.ship.answers import Count, Moment, OutputEnd, Small, Text, collect, parse
from bay.server.ship.client import ShipClient
from bay.server.ship.connection import Peer

_CHANGE_S = 30.0
"""A service ended for a change has 5 s for it, and a new one 5 s to show that it runs."""
_LIST_S = 2.0
_ANSWER_BYTES = 1 << 20


class ServiceStatus(BaseModel):
    """How a service is, as Ship tells it, checked."""

    name: Annotated[str, Field(max_length=63)]
    state: ServiceState
    pid: Small | None = None
    restarts: Count = 0
    exit_code: Small | None = None
    signal: Small | None = None
    healthy: bool | None = None
    message: Text | None = None
    started_at: Moment | None = None
    next_start_at: Moment | None = None
    output_bytes: Count = 0
    first_offset: Count = 0

    @property
    def has_failed(self) -> bool:
        """Whether it has ended with a failure, and is not started again by itself."""
        return self.state == "failed" or (self.state == "exited" and self.exit_code != 0)

    def to_service(self, spec: ServiceSpec) -> Service:
        """The same with what the service is."""
        return Service(**_fields(spec), **self.model_dump(exclude={"name"}))


States = Mapping[str, ServiceStatus]
"""By name."""


class _Statuses(BaseModel):
    items: Annotated[list[ServiceStatus], Field(max_length=64, fail_fast=True)]

    def by_name(self) -> States:
        return {item.name: item for item in self.items}


class _Line(_Statuses):
    type: Literal["services"]


def states_of(line: bytes) -> States:
    """The states that a line of a session's feed names. Raises ShipError."""
    return parse(_Line, line).by_name()


class ServiceClient:
    """Asks Ships about services, and tells them which to keep."""

    def __init__(self, ship: ShipClient) -> None:
        self._ship = ship

    async def put(self, peer: Peer, env: Mapping[str, str], specs: Sequence[ServiceSpec]) -> States:
        """Have these services and no others run; `env` is what each finds beside its own."""
        body = json.dumps({"env": dict(env), "services": [_body(spec) for spec in specs]}).encode()
        opened = self._ship.open(peer, "PUT", "/services", None, body, deadline_s=_CHANGE_S, awaited=False)
        async with opened as (wire, _):
            return parse(_Statuses, await collect(wire.body(), _ANSWER_BYTES)).by_name()

    async def list(self, peer: Peer) -> States:
        """Their state. A short deadline: a view of the services waits for it."""
        found = await self._ship.call(peer, _Statuses, "GET", "/services", deadline_s=_LIST_S)
        return found.by_name()

    async def restart(self, peer: Peer, name: str) -> ServiceStatus:
        """End one and begin it anew."""
        path = f"/services/{name}/restart"
        return await self._ship.call(peer, ServiceStatus, "POST", path, deadline_s=_CHANGE_S)

    async def signal(self, peer: Peer, name: str, signal: str) -> ServiceStatus:
        """Send a signal to the process group of one. Raises Conflict when it does not run."""
        path = f"/services/{name}/signal"
        return await self._ship.call(peer, ServiceStatus, "POST", path, None, {"signal": signal})

    def logs(
        self, peer: Peer, name: str, since: int, follow: bool
    ) -> AbstractAsyncContextManager[AsyncIterator[OutputChunk | OutputEnd]]:
        """The output of one from byte `since` on, as `ShipClient.output`."""
        return self._ship.output_at(peer, f"/services/{name}/logs", since, follow)


def stopped(spec: ServiceSpec) -> Service:
    """A service of a sandbox without a session."""
    return Service(**_fields(spec))


def waiting(spec: ServiceSpec, message: str | None) -> Service:
    """A service which the session's Ship has not got or not reported yet."""
    return Service(**_fields(spec), state="waiting" if spec.enabled else "stopped", message=message)


def _fields(spec: ServiceSpec) -> dict[str, Any]:
    return {field.name: getattr(spec, field.name) for field in fields(ServiceSpec)}


def _body(spec: ServiceSpec) -> dict[str, object]:
    return {name: value for name, value in to_wire(spec).items() if value is not None and name != "http_port"}
