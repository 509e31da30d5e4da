"""Sandboxes by E2B's control plane: creates, lists, time-outs, pauses, snapshots, and what is refused."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, unquote

from fastapi import Depends, Header, Query, Request
from pydantic import AliasChoices, BaseModel, Field
from starlette.responses import JSONResponse, Response

from bay.errors import BadRequest, BayError, NotFound
from bay.ids import is_id_of
from bay.models import NetworkPolicy, NetworkRule, Sandbox
from bay.server.checkpoints.service import Checkpoints, NewCheckpoint
from bay.server.compat.e2b.planes import PREFIX
from bay.server.compat.e2b.sandbox_service import START_S, E2bFilters, E2bSandboxes
from bay.server.compat.e2b.sandbox_words import (
    CLIENT_ID,
    ENVD_VERSION,
    LONGEST_S,
    E2bOptions,
    detailed,
    labels_of,
    listed,
    template_of,
)
from bay.server.compat.e2b.tokens import SandboxTokens
from bay.server.compat.routers import format_router
from bay.server.networks.service import Networks
from bay.server.sandboxes.service import NewSandbox, Sandboxes
from bay.server.templates.service import Templates
from bay.server.web.auth import Caller
from bay.server.web.dependencies import Env, Reader, Writer, service
from bay.server.web.sealing import Cursors

router = format_router(PREFIX)

SandboxesDep = Annotated[Sandboxes, service(Sandboxes)]
E2bDep = Annotated[E2bSandboxes, service(E2bSandboxes)]
CheckpointsDep = Annotated[Checkpoints, service(Checkpoints)]
NetworksDep = Annotated[Networks, service(Networks)]
TemplatesDep = Annotated[Templates, service(Templates)]
CursorsDep = Annotated[Cursors, service(Cursors)]
NextToken = Annotated[str | None, Query(alias="nextToken", max_length=256)]

_PROFILE = "e2b"
_STANDARD = frozenset(("base", "code-interpreter-v1"))
"""Names of templates that every program may use: they are the profile `e2b`."""
_DEFAULT_S = 300
_EVERYWHERE = "0.0.0.0/0"
_REFUSED = ("rules", "egressProxy", "maskRequestHost", "httpsPorts", "dnsServers")
_HAS_LETTER = re.compile(r"[A-Za-z*]")

Timeout = Annotated[int, Field(gt=0, le=LONGEST_S)]
Texts = Annotated[list[Annotated[str, Field(max_length=255)]], Field(max_length=1000)]


class NotServed(BayError, status=501):
    """An operation that Bay does not have. Clients show its message, and do not ask again."""


class NetworkOptions(BaseModel):
    """The network of a sandbox. The names that Bay serves nothing of are refused where they say something."""

    model_config = {"extra": "allow"}
    allow_out: Texts | None = Field(None, validation_alias="allowOut")
    deny_out: Texts | None = Field(None, validation_alias="denyOut")
    allow_internet_access: bool | None = None
    allow_public_traffic: bool = Field(
        True, validation_alias=AliasChoices("allowPublicTraffic", "allow_public_traffic")
    )

    def policy(self, *, internet: bool | None) -> NetworkPolicy | None:
        """The policy, None for that of the profile. An allow beats a deny. Raises BadRequest."""
        for name in _REFUSED:
            if (self.model_extra or {}).get(name):
                raise BadRequest(f"network.{name} is not served; leave it out")
        allow, deny = self.allow_out or [], self.deny_out or []
        if any(_is_domain(one) for one in deny):
            raise BadRequest(
                "denyOut takes addresses and networks, no domains; use allowOut with 0.0.0.0/0 denied"
            )
        is_shut = internet is False or _EVERYWHERE in deny
        if any(_is_domain(one) for one in allow) and not is_shut:
            raise BadRequest("a domain in allowOut needs 0.0.0.0/0 in denyOut")
        if not allow and not deny and internet is None:
            return None
        return NetworkPolicy(mode=_mode(is_shut, bool(allow)), rules=_rules(allow, deny, is_shut=is_shut))


class AutoResume(BaseModel):
    """Whether requests wake a paused sandbox."""

    enabled: bool = False


class CreateE2b(BaseModel):
    """A new sandbox. Null is as good as a field that is left out."""

    model_config = {"extra": "allow"}
    template_id: Annotated[str, Field(max_length=300, validation_alias="templateID")]
    timeout: Timeout | None = None
    metadata: dict[str, str] | None = None
    env_vars: Env | None = Field(None, validation_alias="envVars")
    auto_pause: bool = Field(False, validation_alias="autoPause")
    auto_pause_memory: bool | None = Field(None, validation_alias="autoPauseMemory")
    auto_resume: AutoResume | None = Field(None, validation_alias="autoResume")
    allow_internet_access: bool | None = None
    network: NetworkOptions | None = None

    def check(self) -> None:
        """Raises BadRequest for an option that is not served."""
        for name in ("mcp", "iam", "volumeMounts"):
            if (self.model_extra or {}).get(name):
                raise BadRequest(f"{name} is not served; leave it out")
        if self.auto_pause_memory is False:
            raise BadRequest("a pause at the time-out keeps the memory; leave autoPauseMemory out")
        if self.auto_resume is not None and self.auto_resume.enabled and not self.auto_pause:
            raise BadRequest("autoResume needs autoPause")


class TimeoutBody(BaseModel):
    """Seconds from now; 0 is at once."""

    timeout: Annotated[int, Field(ge=0, le=LONGEST_S)]


class ConnectBody(BaseModel):
    """`memory` says how a sandbox is resumed: Bay does as it can."""

    timeout: Timeout | None = None


class PauseBody(BaseModel):
    """Whether the memory is kept."""

    memory: bool = True


class DurationBody(BaseModel):
    """Seconds from now."""

    duration: Annotated[int, Field(gt=0, le=LONGEST_S)] | None = None


class SnapshotBody(BaseModel):
    """A name, or none."""

    name: Annotated[str | None, Field(max_length=63)] = None


class ForkBody(BaseModel):
    """How many, and for how long."""

    count: Annotated[int, Field(ge=1, le=20)] = 1
    timeout: Timeout | None = None


@dataclass(frozen=True, slots=True)
class E2bAnswers:
    """Answers with a sandbox: they have its tokens for this caller too, and the domain of hosts."""

    caller: Caller
    tokens: SandboxTokens
    domain: str
    profiles: frozenset[str]

    def of(self, sandbox: Sandbox) -> dict[str, Any]:
        """A sandbox as creates and connects answer with it."""
        made = {
            "templateID": template_of(sandbox),
            "sandboxID": sandbox.id,
            "clientID": CLIENT_ID,
            "envdVersion": ENVD_VERSION,
            "domain": self.domain,
            **self.token("envdAccessToken", sandbox.id),
        }
        owner, key_id = self.caller.owner, self.caller.key_id
        made["trafficAccessToken"] = self.tokens.token("traffic", sandbox.id, owner, key_id)
        return made if sandbox.name is None else {**made, "alias": sandbox.name}

    def token(self, name: str, sandbox_id: str) -> dict[str, str]:
        """The token for files and processes; none for a key that only reads, since the token writes."""
        if not self.caller.may("write"):
            return {}
        return {name: self.tokens.token("envd", sandbox_id, self.caller.owner, self.caller.key_id)}


async def _shown(caller: Reader, request: Request) -> E2bAnswers:
    bay = request.app.state.bay
    return E2bAnswers(caller, bay.sandbox_tokens, bay.hosts.domain, frozenset(request.app.state.profiles))


ShownDep = Annotated[E2bAnswers, Depends(_shown)]
Key = Annotated[str | None, Header(alias="idempotency-key")]


@router.post("/sandboxes", status_code=201)
@router.post("/v2/sandboxes", status_code=201)
async def create_e2b_sandbox(
    caller: Writer, sandboxes: SandboxesDep, shown: ShownDep, body: CreateE2b, key: Key = None
) -> Response:
    """Make a sandbox; answers once it runs."""
    made = await sandboxes.create(caller, _new(body, shown), key, START_S)
    return JSONResponse(shown.of(made), 201)


@router.get("/sandboxes")
@router.get("/v2/sandboxes")
async def list_e2b_sandboxes(
    caller: Reader,
    e2b: E2bDep,
    cursors: CursorsDep,
    metadata: Annotated[str | None, Query(max_length=16384)] = None,
    state: Annotated[list[str] | None, Query(max_length=8)] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 100,
    next_token: NextToken = None,
    order: Literal["asc", "desc"] = "desc",
    template: Annotated[str | None, Query(max_length=300)] = None,
    since: Annotated[datetime | None, Query(alias="startedAfter")] = None,
) -> Response:
    """Your sandboxes, newest first; the header `x-next-token` leads to more."""
    filters = E2bFilters(
        metadata=_pairs(metadata), states=_states(state or ()), template=template or None, since=_utc(since)
    )
    after = cursors.row(caller.owner, next_token)
    found = await e2b.page(caller, filters, after=after, limit=limit, newest_first=order == "desc")
    items = [listed(one) for one in found.items]
    return JSONResponse(items, headers=_next(cursors.of_row(caller.owner, found.next_cursor)))


@router.get("/sandboxes/{sandbox_id}")
async def get_e2b_sandbox(
    caller: Reader, sandboxes: SandboxesDep, shown: ShownDep, sandbox_id: str
) -> Response:
    """One sandbox."""
    found = await sandboxes.get(caller, sandbox_id)
    if found.status == "expired":
        raise NotFound(f"there is no sandbox {sandbox_id}")
    more = {"domain": shown.domain, **shown.token("envdAccessToken", found.id)}
    return JSONResponse({**detailed(found), **more})


@router.delete("/sandboxes/{sandbox_id}", status_code=204)
async def kill_e2b_sandbox(caller: Writer, e2b: E2bDep, sandbox_id: str) -> Response:
    """Remove it."""
    await e2b.kill(caller, sandbox_id)
    return Response(status_code=204)


@router.post("/sandboxes/{sandbox_id}/connect")
@router.post("/v2/sandboxes/{sandbox_id}/connect")
async def connect_e2b_sandbox(
    caller: Writer, e2b: E2bDep, shown: ShownDep, sandbox_id: str, body: ConnectBody | None = None
) -> Response:
    """The sandbox for at least so long: 200, or 201 when it was resumed for that."""
    timeout = (body and body.timeout) or _DEFAULT_S
    found, resumed = await e2b.connect(caller, sandbox_id, timeout)
    return JSONResponse(shown.of(found), 201 if resumed else 200)


@router.post("/sandboxes/{sandbox_id}/resume", status_code=201)
async def resume_e2b_sandbox(
    caller: Writer, e2b: E2bDep, shown: ShownDep, sandbox_id: str, body: ConnectBody | None = None
) -> Response:
    """The same, as older clients ask for it."""
    found, _ = await e2b.connect(caller, sandbox_id, (body and body.timeout) or _DEFAULT_S)
    return JSONResponse(shown.of(found), 201)


@router.post("/sandboxes/{sandbox_id}/timeout", status_code=204)
async def time_e2b_sandbox(caller: Writer, e2b: E2bDep, sandbox_id: str, body: TimeoutBody) -> Response:
    """Set its lifetime anew, from now."""
    await e2b.set_timeout(caller, sandbox_id, body.timeout)
    return Response(status_code=204)


@router.post("/sandboxes/{sandbox_id}/refreshes", status_code=204)
async def refresh_e2b_sandbox(
    caller: Writer, e2b: E2bDep, sandbox_id: str, body: DurationBody | None = None
) -> Response:
    """Lengthen its lifetime."""
    await e2b.prolong(caller, sandbox_id, (body and body.duration) or _DEFAULT_S)
    return Response(status_code=204)


@router.post("/sandboxes/{sandbox_id}/pause", status_code=204)
async def pause_e2b_sandbox(
    caller: Writer, e2b: E2bDep, sandbox_id: str, body: PauseBody | None = None
) -> Response:
    """Put it to rest until a `connect`."""
    await e2b.pause(caller, sandbox_id, memory=body is None or body.memory)
    return Response(status_code=204)


@router.put("/sandboxes/{sandbox_id}/network", status_code=204)
async def put_e2b_network(
    caller: Writer, networks: NetworksDep, sandbox_id: str, body: NetworkOptions
) -> Response:
    """Replace its network policy; what is left out is the profile's."""
    await networks.put(caller, sandbox_id, body.policy(internet=body.allow_internet_access))
    return Response(status_code=204)


@router.post("/sandboxes/{sandbox_id}/snapshots", status_code=201)
async def create_e2b_snapshot(
    caller: Writer, checkpoints: CheckpointsDep, sandbox_id: str, body: SnapshotBody | None = None
) -> Response:
    """A checkpoint of its files, which a create may name as its template."""
    made = await checkpoints.create(caller, sandbox_id, NewCheckpoint(name=body and body.name), None)
    return JSONResponse({"snapshotID": made.id, "names": [made.name] if made.name else []}, 201)


@router.get("/snapshots")
async def list_e2b_snapshots(
    caller: Reader,
    checkpoints: CheckpointsDep,
    cursors: CursorsDep,
    sandbox: Annotated[str | None, Query(alias="sandboxID", max_length=64)] = None,
    name: Annotated[str | None, Query(max_length=300)] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 100,
    next_token: NextToken = None,
) -> Response:
    """Your checkpoints, of one sandbox or of all, oldest first; `name` is the name or the id of one."""
    after = cursors.row(caller.owner, next_token)
    found = await checkpoints.page_of_owner(
        caller, sandbox or None, ref=name or None, after=after, limit=limit
    )
    items = [{"snapshotID": one.id, "names": [one.name] if one.name else []} for one in found.items]
    return JSONResponse(items, headers=_next(cursors.of_row(caller.owner, found.next_cursor)))


@router.delete("/templates/{snapshot_id:path}", status_code=204)
async def delete_e2b_snapshot(caller: Writer, e2b: E2bDep, snapshot_id: str) -> Response:
    """Remove a snapshot; templates are Bay's own, and removed there."""
    if not is_id_of("ckpt", snapshot_id):
        raise NotFound(f"there is no snapshot {snapshot_id}")
    await e2b.delete_snapshot(caller, snapshot_id)
    return Response(status_code=204)


@router.post("/sandboxes/{sandbox_id}/fork", status_code=201)
async def fork_e2b_sandbox(
    caller: Writer, e2b: E2bDep, shown: ShownDep, sandbox_id: str, body: ForkBody | None = None
) -> Response:
    """Sandboxes like this one, each with a copy of its files."""
    body = body or ForkBody()
    made = await e2b.fork(caller, sandbox_id, body.count, body.timeout or _DEFAULT_S)
    return JSONResponse([{"sandbox": shown.of(one)} for one in made], 201)


@router.get("/templates/aliases/{alias:path}")
async def find_e2b_template(caller: Reader, templates: TemplatesDep, shown: ShownDep, alias: str) -> Response:
    """Whether a create may name that template: a profile, one of the two that every program knows, or a
    template of Bay that the caller may use.
    """
    if alias in shown.profiles | _STANDARD:
        return JSONResponse({"templateID": alias, "public": False})
    found = await templates.get(caller, alias, 0)
    if found.state != "ready":
        raise NotFound(f"template {alias} is {found.state}")
    return JSONResponse({"templateID": found.id, "public": found.shared})


async def refuse_e2b(caller: Reader, request: Request) -> Response:
    """An operation that Bay does not serve."""
    raise NotServed(f"Bay does not serve {request.method} {request.url.path.removeprefix(PREFIX)}")


for _path, _methods in {
    "/volumes": ("GET", "POST"),
    "/volumes/{rest:path}": ("GET", "DELETE"),
    "/secrets": ("GET", "POST"),
    "/secrets/{rest:path}": ("GET", "POST", "DELETE"),
    "/templates": ("GET", "POST"),
    "/v2/templates": ("GET", "POST"),
    "/v3/templates": ("POST",),
    "/templates/{rest:path}": ("GET", "POST", "PATCH"),
    "/v2/templates/{rest:path}": ("GET", "POST"),
    "/sandboxes/{sandbox_id}/logs": ("GET",),
    "/v2/sandboxes/{sandbox_id}/logs": ("GET",),
}.items():
    router.add_api_route(_path, refuse_e2b, methods=list(_methods))


def _new(body: CreateE2b, shown: E2bAnswers) -> NewSandbox:
    """The create as Bay has it. Raises BadRequest."""
    body.check()
    given = body.network or NetworkOptions.model_validate({})
    timeout = body.timeout or _DEFAULT_S
    options = E2bOptions(
        template=body.template_id,
        timeout=timeout,
        resume=body.auto_resume is not None and body.auto_resume.enabled,
        public=given.allow_public_traffic,
    )
    return NewSandbox(
        **_template(body.template_id, shown),
        ttl=timeout,
        on_expiry="pause" if body.auto_pause else "delete",
        env=body.env_vars or {},
        labels={**labels_of(body.metadata or {}), **options.label()},
        network_policy=given.policy(internet=body.allow_internet_access),
    )


def _template(name: str, shown: E2bAnswers) -> dict[str, Any]:
    """Where its files and programs come from: a profile, a snapshot, or a template of Bay."""
    standard = _PROFILE if _PROFILE in shown.profiles else None
    if name in shown.profiles:
        return {"profile": name}
    if name in _STANDARD:
        return {"profile": standard}
    if is_id_of("ckpt", name):
        return {"profile": standard, "from_checkpoint": name}
    return {"profile": None, "template": name}


def _pairs(given: str | None) -> tuple[tuple[str, str], ...]:
    """The pairs of a filter: they come quoted twice, and once more by the query. Raises BadRequest."""
    if not given:
        return ()
    found = {unquote(key): unquote(value) for key, value in parse_qsl(given, keep_blank_values=True)}
    return tuple(labels_of(found).items())


def _states(given: Iterable[str]) -> tuple[str, ...]:
    """The states of a filter, with commas between them. Raises BadRequest."""
    states = tuple(one for some in given for one in some.split(",") if one)
    if unknown := set(states) - {"running", "paused"}:
        raise BadRequest(f"there is no state {min(unknown)}; give running or paused")
    return states


def _utc(moment: datetime | None) -> datetime | None:
    """A time of a filter, which is UTC where it has no zone. Raises BadRequest."""
    if moment is None or moment.tzinfo is None:
        return moment and moment.replace(tzinfo=UTC)
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise BadRequest("startedAfter is outside of all years; give a later time") from None


def _next(token: str | None) -> dict[str, str]:
    return {} if token is None else {"x-next-token": token}


def _is_domain(text: str) -> bool:
    return _HAS_LETTER.search(text) is not None and ":" not in text


def _mode(is_shut: bool, has_allowed: bool) -> Literal["none", "allowlist", "open"]:
    if not is_shut:
        return "open"
    return "allowlist" if has_allowed else "none"


def _rules(allow: list[str], deny: list[str], *, is_shut: bool) -> tuple[NetworkRule, ...]:
    if is_shut:
        return tuple(map(_allow, allow))
    refused = [one for one in deny if one not in allow]
    denied = tuple(NetworkRule(action="deny", cidr=one) for one in refused)
    return (*(_allow(one) for one in allow if refused), *denied)


def _allow(what: str) -> NetworkRule:
    if _is_domain(what):
        return NetworkRule(action="allow", domain=what)
    return NetworkRule(action="allow", cidr=what)
