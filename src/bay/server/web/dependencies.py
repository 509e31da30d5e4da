"""What routes share: the services they call, the caller they call for, and the shapes of lists."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Header, Query, Request, Security
from fastapi.requests import HTTPConnection
from fastapi.security import HTTPBearer
from pydantic import StringConstraints

from bay.models import Profile
from bay.server.cargos.service import Cargos
from bay.server.checkpoints.service import Checkpoints
from bay.server.events.service import Events
from bay.server.events.webhooks import Webhooks
from bay.server.execs.attachments import Attachments
from bay.server.execs.history import History
from bay.server.execs.processes import Processes
from bay.server.execs.service import Execs
from bay.server.files.service import Files, SandboxFiles
from bay.server.files.trees import FileTrees
from bay.server.kernels.service import Kernels
from bay.server.keys.audit import Audits
from bay.server.keys.service import ApiKeys
from bay.server.maintenance.garbage_collection import Garbage
from bay.server.managed_services.service import SandboxServices
from bay.server.networks.service import Networks
from bay.server.ports.service import Ports
from bay.server.ports.tunnels import Tunnels
from bay.server.sandboxes.pool import Pool
from bay.server.sandboxes.service import Sandboxes
from bay.server.web.auth import Caller
from bay.server.web.bodies import DURATION, Most
from bay.server.web.replies import ErrorBody
from bay.server.web.sealing import Cursors
from bay.store.records import Page, Scope

T = TypeVar("T")

ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorBody, "description": "The request cannot be served as it is"},
    "5XX": {"model": ErrorBody, "description": "Bay or its host could not do it"},
}
MAX_WAIT_S = 600

EnvName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")]
EnvValue = Annotated[str, StringConstraints(max_length=32768, pattern=r"^[^\x00]*$")]
Env = Annotated[dict[EnvName, EnvValue], Most(256)]
Word = Annotated[str, StringConstraints(max_length=128 * 1024, pattern=r"^[^\x00]*$")]


@dataclass(frozen=True, slots=True)
class Services:
    """Everything a route may call."""

    sandboxes: Sandboxes
    checkpoints: Checkpoints
    cargos: Cargos
    execs: Execs
    attachments: Attachments
    processes: Processes
    kernels: Kernels
    files: Files
    sandbox_files: SandboxFiles
    file_trees: FileTrees
    history: History
    networks: Networks
    tunnels: Tunnels
    ports: Ports
    sandbox_services: SandboxServices
    keys: ApiKeys
    audit: Audits
    events: Events
    webhooks: Webhooks
    cursors: Cursors
    pool: Pool
    garbage: Garbage
    profiles: dict[str, Profile]


# `async`, so that FastAPI calls them on the event loop and not through its thread pool.
async def _services(connection: HTTPConnection) -> Services:
    return connection.app.state.services


# The edge has authenticated already; this names the scheme in the OpenAPI document.
_bearer = Security(HTTPBearer(auto_error=False, description="An API key"))


def _caller_with(scope: Scope) -> Callable[..., Awaitable[Caller]]:
    async def caller(request: Request, _scheme: Annotated[Any, _bearer]) -> Caller:
        known: Caller = request.state.caller
        known.require(scope)
        return known

    return caller


async def _socket_writer(connection: HTTPConnection) -> Caller:
    known: Caller = connection.state.caller
    known.require("write")
    return known


async def _socket_reader(connection: HTTPConnection) -> Caller:
    known: Caller = connection.state.caller
    known.require("read")
    return known


Svc = Annotated[Services, Depends(_services)]
Reader = Annotated[Caller, Depends(_caller_with("read"))]
Writer = Annotated[Caller, Depends(_caller_with("write"))]
Admin = Annotated[Caller, Depends(_caller_with("admin"))]
SocketReader = Annotated[Caller, Depends(_socket_reader)]
SocketWriter = Annotated[Caller, Depends(_socket_writer)]
IdempotencyKey = Annotated[
    str | None, Header(description="Makes a repeated call give the first one's answer")
]
Wait = Annotated[
    float | None,
    Query(ge=0, le=MAX_WAIT_S, description="Answer when it is settled, or after that many seconds"),
    DURATION,
]
Limit = Annotated[int, Query(ge=1, le=200, description="Most items to return")]
Cursor = Annotated[str | None, Query(max_length=256, description="`next_cursor` of the page before")]


async def _after(caller: Reader, services: Svc, cursor: Cursor = None) -> int:
    return services.cursors.row(caller.owner, cursor)


After = Annotated[int, Depends(_after)]
"""The row after which a page begins, by the cursor of the request; 0 without one."""


def listing(services: Services, caller: Caller, page: Page[Any]) -> dict[str, Any]:
    """A page as every list answers it."""
    cursor = services.cursors.of_row(caller.owner, page.next_cursor)
    return {"items": page.items, "has_more": cursor is not None, "next_cursor": cursor}
