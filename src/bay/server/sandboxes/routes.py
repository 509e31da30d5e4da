"""The routes `/v1/sandboxes`: the handles of sandboxes and their life."""

from typing import Annotated, Any, Literal

from fastapi import Query, Response
from pydantic import AfterValidator, Field, model_validator

from bay.errors import InvalidArgument
from bay.models import (
    CheckpointPolicy,
    Compute,
    EntrypointUse,
    NetworkMode,
    NetworkPolicy,
    OnExpiry,
    PortAccess,
    PortSettings,
    Pull,
    Sandbox,
    Sizes,
    Status,
    Volume,
)
from bay.server.managed_services.routes import NamedService
from bay.server.managed_services.rules import MAX_SERVICES
from bay.server.networks.routes import NetworkPolicyBody
from bay.server.ports.service import MAX_PORTS
from bay.server.sandboxes.service import Forks, NewSandbox, SandboxChanges, Sandboxes
from bay.server.sandboxes.volumes import MAX_PATH, MAX_VOLUMES
from bay.server.secrets.bodies import SecretBody
from bay.server.secrets.rules import MAX_IN_SANDBOX
from bay.server.sessions.core import DEFAULT_PROFILE
from bay.server.web.bodies import DURATION, LABEL, Body, Labels, Most
from bay.server.web.dependencies import (
    MAX_WAIT_S,
    Env,
    IdempotencyKey,
    Limit,
    Paging,
    Reader,
    Wait,
    Writer,
    noun_router,
    service,
)
from bay.server.web.replies import Items, Ok, PageOf, WireResponse
from bay.store.records import Filters

router = noun_router("sandboxes", "/v1/sandboxes")

SandboxesDep = Annotated[Sandboxes, service(Sandboxes)]

RESUME_S = 60.0
Seconds = Annotated[int, Field(ge=1, le=10 * 365 * 86400), DURATION]
Cpus = Annotated[float, Field(ge=0.01, le=1024, allow_inf_nan=False)]
MemoryMb = Annotated[int, Field(ge=64, le=1 << 30)]
DiskMb = Annotated[int, Field(ge=16, le=1 << 30)]
Pids = Annotated[int, Field(ge=16, le=1_000_000)]
SecondsOrNone = Annotated[int, Field(ge=0, le=10 * 365 * 86400), DURATION]


class CheckpointPolicyBody(Body):
    """When Bay makes automatic checkpoints, and how many it keeps."""

    every: Annotated[
        int | None,
        Field(ge=60, le=365 * 86400, description="Interval in seconds, while there is activity"),
        DURATION,
    ] = None
    keep_last: Annotated[int, Field(ge=1, le=1000)] = 10
    before_stop: Annotated[bool, Field(description="Make one whenever compute has stopped")] = False
    memory: Annotated[bool, Field(description="Save the memory of one that has compute as well")] = False

    def to_noun(self) -> CheckpointPolicy:
        """The class that the services take."""
        return CheckpointPolicy(**self.model_dump())


class PortBody(Body):
    """A port and its access."""

    port: Annotated[int, Field(ge=1, le=65535)]
    access: PortAccess = "owner"

    def to_noun(self) -> PortSettings:
        """The class that the services take."""
        return PortSettings(port=self.port, access=self.access)


class VolumeBody(Body):
    """An external cargo at a path of the sandbox."""

    cargo: Annotated[str, Field(max_length=64, description="Id of one of your external cargos")]
    path: Annotated[str, Field(max_length=MAX_PATH, description="Absolute, such as `/data`; made if missing")]
    read_only: bool = False

    def to_noun(self) -> Volume:
        """The class that the services take."""
        return Volume(**self.model_dump())


def _each_once(ports: tuple[PortBody, ...]) -> tuple[PortBody, ...]:
    if len({body.port for body in ports}) < len(ports):
        raise ValueError("a port is listed twice; list each port once")
    return ports


Ports = Annotated[tuple[PortBody, ...], Most(MAX_PORTS), AfterValidator(_each_once)]


class CreateSandbox(Body):
    """The options of a new sandbox; omitted ones are the profile's."""

    profile: Annotated[str, Field(max_length=128, description="One of `GET /v1/profiles`")] = DEFAULT_PROFILE
    template: Annotated[
        str | None,
        Field(max_length=128, description="Id, name or `name:tag` of a template to start from"),
    ] = None
    cargo_id: Annotated[
        str | None, Field(max_length=64, description="An external cargo; default: a new managed one")
    ] = None
    ttl: Annotated[SecondsOrNone | None, Field(description="Lifetime in seconds; null or 0 = no limit")] = (
        None
    )
    on_expiry: Annotated[
        OnExpiry | None, Field(description="At the end of `ttl`: delete, or pause; default: the profile's")
    ] = None
    name: Annotated[str | None, Field(max_length=63, description="Unique among your sandboxes")] = None
    image: Annotated[
        str | None,
        Field(
            max_length=512, description="`host`, or the id or reference of an image; default: the profile's"
        ),
    ] = None
    pull: Annotated[
        Pull, Field(description="When to fetch the image: if it is not here, always, or never")
    ] = "missing"
    entrypoint: Annotated[
        EntrypointUse | None,
        Field(description="`service`: the image's ENTRYPOINT and CMD become its service `main`"),
    ] = None
    isolation: Annotated[str | None, Field(max_length=32)] = None
    cpus: Annotated[Cpus | None, Field(description="Cores, up to the profile's `max_cpus`")] = None
    memory_mb: Annotated[MemoryMb | None, Field(description="MiB, up to its `max_memory_mb`")] = None
    disk_mb: Annotated[
        DiskMb | None,
        Field(
            description="Most of its files, MiB, and as much outside of its workspace; up to `max_disk_mb`"
        ),
    ] = None
    pids: Annotated[Pids | None, Field(description="Processes and threads, up to `max_pids`")] = None
    env: Env = Field(default_factory=dict)
    secrets: Annotated[
        tuple[SecretBody, ...], Field(description="Secrets that it is given"), Most(MAX_IN_SANDBOX)
    ] = ()
    volumes: Annotated[
        tuple[VolumeBody, ...], Field(description="External cargos beside its workspace"), Most(MAX_VOLUMES)
    ] = ()
    labels: Labels = Field(default_factory=dict)
    idle_timeout: Annotated[
        Seconds | None, Field(description="Seconds without activity before compute is frozen")
    ] = None
    warm_timeout: Annotated[
        SecondsOrNone | None, Field(description="Seconds frozen before compute stops; 0 = at once")
    ] = None
    from_checkpoint: Annotated[
        str | None, Field(max_length=64, description="Id of one of your checkpoints to start from")
    ] = None
    checkpoint_policy: CheckpointPolicyBody | None = None
    network_policy: Annotated[
        NetworkPolicyBody | None, Field(description="Its network policy; default: the profile's")
    ] = None
    network: Annotated[
        NetworkMode | None, Field(description="Short for a `network_policy` of that mode, without rules")
    ] = None
    url: Annotated[PortBody | None, Field(description="The port of its own URL")] = None
    ports: Annotated[Ports, Field(description="Access to its ports")] = ()
    services: Annotated[
        tuple[NamedService, ...],
        Field(description="Its services, which start with it and are restarted"),
        Most(MAX_SERVICES),
    ] = ()
    wait: Annotated[
        float | None, Field(ge=0, le=MAX_WAIT_S, description="As the query parameter"), DURATION
    ] = None

    @model_validator(mode="after")
    def _one_policy(self) -> "CreateSandbox":
        if self.network is not None and self.network_policy is not None:
            raise ValueError("give network or network_policy, not both")
        return self

    def sizes(self) -> Sizes:
        """Its own sizes; None is the profile's."""
        return Sizes(cpus=self.cpus, memory_mb=self.memory_mb, disk_mb=self.disk_mb, pids=self.pids)

    def policy(self) -> NetworkPolicy | None:
        """Its egress policy; None is the profile's."""
        if self.network is not None:
            return NetworkPolicy(mode=self.network)
        return self.network_policy and self.network_policy.to_noun()


class UpdateSandbox(Body):
    """The fields to change; omitted ones stay, and null removes one."""

    name: Annotated[str | None, Field(max_length=63)] = None
    labels: Labels = Field(default_factory=dict)
    idle_timeout: Seconds | None = None
    warm_timeout: SecondsOrNone | None = None
    ttl: Annotated[
        SecondsOrNone | None, Field(description="Lifetime from now, in seconds; null or 0 = no limit")
    ] = None
    on_expiry: Annotated[OnExpiry | None, Field(description="As at the create; null is the profile's")] = None
    checkpoint_policy: CheckpointPolicyBody | None = None
    url: PortBody | None = None
    ports: Ports = ()
    cpus: Annotated[Cpus | None, Field(description="As at the create; null is the profile's")] = None
    memory_mb: MemoryMb | None = None
    pids: Pids | None = None


class ExtendTtl(Body):
    """The seconds to extend by."""

    extend_by: Seconds


class ForkSandbox(Body):
    """The number, the source and the name of forks."""

    count: Annotated[int, Field(ge=1, le=100)] = 1
    checkpoint: Annotated[
        str | None,
        Field(max_length=64, description="Id or name of one of its checkpoints; default: its present files"),
    ] = None
    name: Annotated[
        str | None,
        Field(max_length=63, description="Name of the new sandbox; several get `name-1`, `name-2` and so on"),
    ] = None
    ttl: Annotated[SecondsOrNone | None, Field(description="As at the create; default: the profile's")] = None
    memory: Annotated[
        bool, Field(description="Each goes on with what runs in this one, or ran at the checkpoint")
    ] = False


class SandboxList(PageOf[Sandbox]):
    """A page of sandboxes, in the order that was asked for."""


class ForkList(Items[Sandbox]):
    """The new sandboxes."""


_OWN_NOUNS = {
    *(
        "wait",
        "checkpoint_policy",
        "network",
        "network_policy",
        "url",
        "ports",
        "services",
        "secrets",
        "volumes",
    ),
    *("cpus", "memory_mb", "disk_mb", "pids", "profile", "ttl"),
}


@router.post("", status_code=201, response_model=Sandbox)
async def create_sandbox(
    caller: Writer,
    sandboxes: SandboxesDep,
    body: CreateSandbox | None = None,
    wait: Wait = None,
    idempotency_key: IdempotencyKey = None,
) -> WireResponse:
    """Make a sandbox. Answers at once, or with `wait` when it is ready or failed."""
    body = body or CreateSandbox()
    policy = body.checkpoint_policy and body.checkpoint_policy.to_noun()
    kept = tuple(service.to_noun() for service in body.services)
    new = NewSandbox(
        **body.model_dump(exclude=_OWN_NOUNS),
        **_reached(body),
        ttl=_lifetime(body),
        profile=None if body.template and "profile" not in body.model_fields_set else body.profile,
        checkpoint_policy=policy,
        network_policy=body.policy(),
        services=kept,
        secrets=tuple(secret.to_noun() for secret in body.secrets),
        volumes=tuple(volume.to_noun() for volume in body.volumes),
        sizes=body.sizes(),
    )
    wait_s = wait if wait is not None else body.wait or 0
    return WireResponse(await sandboxes.create(caller, new, idempotency_key, wait_s), 201)


@router.get("", response_model=SandboxList)
async def list_sandboxes(
    caller: Reader,
    sandboxes: SandboxesDep,
    paging: Paging,
    limit: Limit = 50,
    status: Status | None = None,
    compute: Compute | None = None,
    profile: Annotated[str | None, Query(max_length=128)] = None,
    name_prefix: Annotated[str | None, Query(max_length=63)] = None,
    label: Annotated[list[str] | None, Query(max_length=16, description="`key:value`, repeatable")] = None,
    order: Annotated[
        Literal["oldest", "newest"], Query(description="Which come first; the same for each page of a list")
    ] = "oldest",
) -> WireResponse:
    """Your sandboxes, oldest or newest first."""
    filters = Filters(
        status=status, compute=compute, profile=profile, name_prefix=name_prefix, labels=_labels(label or [])
    )
    page = await sandboxes.page(
        caller, filters, after=paging.after, limit=limit, newest_first=order == "newest"
    )
    return WireResponse(paging.reply(page))


@router.get("/{sandbox_id}", response_model=Sandbox)
async def get_sandbox(caller: Reader, sandboxes: SandboxesDep, sandbox_id: str) -> WireResponse:
    """One sandbox, by id or name, with its container while it has a live one."""
    return WireResponse(await sandboxes.get(caller, sandbox_id))


@router.patch("/{sandbox_id}", response_model=Sandbox)
async def update_sandbox(
    caller: Writer, sandboxes: SandboxesDep, sandbox_id: str, body: UpdateSandbox
) -> WireResponse:
    """Change its name, labels, timeouts, sizes, checkpoint policy, or access to its ports."""
    policy = body.checkpoint_policy and body.checkpoint_policy.to_noun()
    values = body.model_dump(exclude={"checkpoint_policy", "url", "ports"})
    given = frozenset(body.model_fields_set)
    changes = SandboxChanges(given=given, **values, **_reached(body), checkpoint_policy=policy)
    return WireResponse(await sandboxes.update(caller, sandbox_id, changes))


@router.delete("/{sandbox_id}", status_code=204)
async def delete_sandbox(caller: Writer, sandboxes: SandboxesDep, sandbox_id: str) -> Response:
    """Remove the sandbox with its managed cargo; a second call succeeds too."""
    await sandboxes.delete(caller, sandbox_id)
    return Response(status_code=204)


@router.post("/{sandbox_id}/extend_ttl", response_model=Sandbox)
async def extend_ttl(
    caller: Writer,
    sandboxes: SandboxesDep,
    sandbox_id: str,
    body: ExtendTtl,
    idempotency_key: IdempotencyKey = None,
) -> WireResponse:
    """Extend its lifetime: `expires_at = max(old, now) + extend_by`."""
    return WireResponse(await sandboxes.extend_ttl(caller, sandbox_id, body.extend_by, idempotency_key))


@router.post("/{sandbox_id}/keepalive", response_model=Ok)
async def keepalive(caller: Writer, sandboxes: SandboxesDep, sandbox_id: str) -> WireResponse:
    """Restart the idle clock; never starts compute."""
    await sandboxes.keepalive(caller, sandbox_id)
    return WireResponse({"status": "ok"})


@router.post("/{sandbox_id}/start", response_model=Sandbox)
async def start_sandbox(
    caller: Writer, sandboxes: SandboxesDep, sandbox_id: str, wait: Wait = None
) -> WireResponse:
    """Start compute, as any call that needs it does by itself."""
    return WireResponse(await sandboxes.start(caller, sandbox_id, wait or 0))


@router.post("/{sandbox_id}/pause", response_model=Sandbox)
async def pause_sandbox(caller: Writer, sandboxes: SandboxesDep, sandbox_id: str) -> WireResponse:
    """Freeze it in memory with its processes. Any call that needs compute resumes it."""
    return WireResponse(await sandboxes.pause(caller, sandbox_id))


@router.post("/{sandbox_id}/hibernate", response_model=Sandbox)
async def hibernate_sandbox(caller: Writer, sandboxes: SandboxesDep, sandbox_id: str) -> WireResponse:
    """Write its memory to disk with its processes. Any call that needs compute brings them back."""
    return WireResponse(await sandboxes.hibernate(caller, sandbox_id))


@router.post("/{sandbox_id}/resume", response_model=Sandbox)
async def resume_sandbox(
    caller: Writer, sandboxes: SandboxesDep, sandbox_id: str, wait: Wait = None
) -> WireResponse:
    """Thaw it, or start a cold one, and answer when it runs."""
    return WireResponse(await sandboxes.start(caller, sandbox_id, RESUME_S if wait is None else wait))


@router.post("/{sandbox_id}/stop", response_model=Ok)
async def stop_sandbox(caller: Writer, sandboxes: SandboxesDep, sandbox_id: str) -> WireResponse:
    """Stop compute and keep everything else."""
    await sandboxes.stop(caller, sandbox_id)
    return WireResponse({"status": "stopped"})


@router.post("/{sandbox_id}/fork", status_code=201, response_model=ForkList)
async def fork_sandbox(
    caller: Writer,
    sandboxes: SandboxesDep,
    sandbox_id: str,
    body: ForkSandbox | None = None,
    idempotency_key: IdempotencyKey = None,
) -> WireResponse:
    """New sandboxes like this one, each with a copy of a checkpoint's or the present files; all start."""
    body = body or ForkSandbox()
    forks = Forks(**body.model_dump(exclude={"ttl"}), ttl=_lifetime(body))
    made = await sandboxes.fork(caller, sandbox_id, forks, idempotency_key)
    return WireResponse({"items": made}, 201)


def _lifetime(body: CreateSandbox | ForkSandbox) -> int | None:
    """Null is never, and only what is left out is the profile's."""
    return 0 if "ttl" in body.model_fields_set and body.ttl is None else body.ttl


def _reached(body: CreateSandbox | UpdateSandbox) -> dict[str, Any]:
    return {"url": body.url and body.url.to_noun(), "ports": tuple(port.to_noun() for port in body.ports)}


def _labels(given: list[str]) -> tuple[tuple[str, str], ...]:
    pairs = [item.partition(":") for item in given]
    if not all(separator and LABEL.fullmatch(key) for key, separator, _ in pairs):
        raise InvalidArgument("a label filter must be key:value, such as team:web")
    return tuple((key, value) for key, _, value in pairs)
