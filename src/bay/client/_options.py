"""The options of calls, and the bodies that they make."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, TypedDict, cast

from bay import hints
from bay.client._calls import COPY_S, Call, Json, given
from bay.errors import CapabilityNotSupported, InvalidArgument
from bay.models import (
    Checkpoint,
    CheckpointPolicy,
    EntrypointUse,
    ExecType,
    NetworkMode,
    NetworkPolicy,
    OnExpiry,
    PortSettings,
    Pull,
    SandboxSecret,
    ServiceSpec,
    Template,
    Volume,
    to_wire,
)


class CreateOptions(TypedDict, total=False):
    """The options of `sandboxes.create` and `client.sandbox`; one left out, or None, is the profile's.

    `ttl`, `idle_timeout` and `warm_timeout` are whole seconds, or text such as ``"10m"``; a `ttl` of 0 means
    never, a `warm_timeout` of 0 that it is not kept frozen. `on_expiry` is ``"delete"``, or ``"pause"``: then
    it is paused at the end of its `ttl`, and stays. `image` is ``"host"``, or the id or reference of
    an image, which is pulled first if it is not here (`pull` is ``"always"`` or ``"never"`` otherwise);
    `entrypoint` ``"service"`` makes its command the service ``main``. `template` is one to start from
    instead: a `Template`, or its id, ``"name"`` or ``"name:tag"``.
    `cpus` are cores, `memory_mb` and `disk_mb` MiB, `pids` processes; each up to what the profile allows.
    `secrets` are given to it by name, a text as the variable of that name; `volumes` are external cargos at
    paths of it, beside its workspace. `from_checkpoint` gives it the
    files of a checkpoint (by id), of whichever of the owner's sandboxes; `checkpoint_policy` has checkpoints
    made by themselves. `network_policy` says what its network may reach; `network` (``"none"``, ``"open"``)
    is short for a policy without rules; `url` which port (a number, or `PortSettings` to make it public) its
    URL leads to, `ports` who may reach others; `services` what is started with it. `wait` is how many seconds
    to wait until the sandbox is ready. With `exist_ok` the one that has the `name` already is given as it is,
    whatever else is asked for. `idempotency_key` makes a repeated create give the same sandbox; one is made
    up for each call unless you name it.
    """

    name: str | None
    profile: str | None
    image: str | None
    template: str | Template | None
    pull: Pull | None
    entrypoint: EntrypointUse | None
    isolation: str | None
    env: Mapping[str, str] | None
    secrets: Sequence[SandboxSecret | str] | None
    volumes: Sequence[Volume] | None
    labels: Mapping[str, str] | None
    ttl: int | str | None
    on_expiry: OnExpiry | None
    idle_timeout: int | str | None
    warm_timeout: int | str | None
    cpus: float | None
    memory_mb: int | None
    disk_mb: int | None
    pids: int | None
    cargo_id: str | None
    from_checkpoint: str | Checkpoint | None
    checkpoint_policy: CheckpointPolicy | None
    network: NetworkMode | None
    network_policy: NetworkPolicy | None
    url: PortSettings | int | None
    ports: Sequence[PortSettings] | None
    services: Sequence[ServiceSpec] | None
    wait: float | None
    exist_ok: bool | None
    idempotency_key: str | None


class UpdateOptions(TypedDict, total=False):
    """The options of `box.update`; one left out stays as it is, and None is a value like any other: of
    `cpus`, `memory_mb` and `pids` it is the profile's.
    """

    name: str | None
    labels: Mapping[str, str]
    idle_timeout: int | str | None
    warm_timeout: int | str | None
    ttl: int | str | None
    on_expiry: OnExpiry | None
    checkpoint_policy: CheckpointPolicy | None
    url: PortSettings | int | None
    ports: Sequence[PortSettings]
    cpus: float | None
    memory_mb: int | None
    pids: int | None


class HistoryOptions(TypedDict, total=False):
    """The options of `box.history`. `tags`, with commas between, finds entries with any of them."""

    exec_type: ExecType | None
    success_only: bool | None
    failed_only: bool | None
    tags: str | None
    has_notes: bool | None
    has_description: bool | None
    limit: int | None
    offset: int | None


class BrowserCallOptions(TypedDict, total=False):
    """The options of calls of `box.browser`. A skill's run has no `learn`."""

    description: str | None
    tags: str | None
    learn: bool | None
    include_trace: bool | None


def known(call: str, options: Mapping[str, object], shape: type[object]) -> None:
    """Raises TypeError for an option that the TypedDict `shape` lacks, as Python does for a keyword."""
    names = shape.__annotations__
    if unknown_name := next((name for name in options if name not in names), None):
        raise TypeError(f"{call}(): {hints.unknown('option', unknown_name, names)}")


def named(options: CreateOptions) -> str:
    """The name in `options`. Raises InvalidArgument without one."""
    name = options.get("name")
    if name is None:
        raise InvalidArgument("exist_ok needs a name, by which an existing sandbox is found")
    return name


def refuse_exist_ok(options: CreateOptions) -> None:
    """Raises InvalidArgument where the end of a block deletes the sandbox."""
    if options.get("exist_ok"):
        raise InvalidArgument(
            "exist_ok is not for sandbox(), which deletes the sandbox at the end; use "
            "sandboxes.get_or_create() to keep it"
        )


def is_fetched_by_nodes(refused: CapabilityNotSupported) -> bool:
    """Whether a server refused a pull since the image is named in the create, and its nodes fetch it."""
    return "name" in refused.details.get("available", ())


def create_call(options: CreateOptions, key: str) -> Call:
    """The create, safe to repeat because of its key."""
    body = given(
        **{k: _on_wire(k, v) for k, v in options.items() if k not in ("wait", "exist_ok", "idempotency_key")}
    )
    wait = options.get("wait") or 0.0
    longest_s = max(wait, COPY_S if options.get("from_checkpoint") else 0.0)
    params = {"wait": wait} if wait else {}
    return Call.once("/v1/sandboxes", body, key, params=params, wait_s=longest_s)


def update_body(options: UpdateOptions) -> Json:
    """The fields to change, None included."""
    known("update", options, UpdateOptions)
    return {name: _on_wire(name, value) for name, value in options.items()}


def _on_wire(name: str, value: object) -> object:
    if isinstance(value, Checkpoint | Template):
        return value.id
    if name == "secrets" and isinstance(value, list | tuple):
        return secret_bodies(cast("Sequence[SandboxSecret | str]", value))
    return bare(PortSettings(port=value) if name == "url" and isinstance(value, int) else value)


def secret_bodies(secrets: Sequence[SandboxSecret | str]) -> list[Any]:
    """Secrets as requests have them; a text is the name of one."""
    return [{"name": one} if isinstance(one, str) else bare(one) for one in secrets]


def bare(value: object) -> Any:
    """`value` (a model, or data made of models) as JSON-ready data, without the fields that are None."""
    if is_dataclass(value):
        return given(**{f.name: bare(getattr(value, f.name)) for f in fields(value)})
    if isinstance(value, list | tuple):
        return [bare(item) for item in cast("Sequence[object]", value)]
    return to_wire(value)


def service_body(spec: ServiceSpec) -> Json:
    """The definition of a service, without its name. The state of a `Service` is no part of that."""
    return given(**{f.name: bare(getattr(spec, f.name)) for f in fields(ServiceSpec) if f.name != "name"})


def octal(mode: int | str | None) -> str | None:
    """Permissions as the wire has them: ``"0644"`` for 0o644, a text as it is."""
    return f"{mode:04o}" if isinstance(mode, int) else mode


def owners(user: str | int | None, group: str | int | None) -> Json:
    """The fields of a user and a group, each of which may be a name or a number."""
    whose = "uid" if isinstance(user, int) else "user"
    of = "gid" if isinstance(group, int) else "group"
    return given(**{whose: user, of: group})


STDIN_BYTES = 4 << 20
"""How much input a start carries; more is fed while the command runs."""


def exec_body(command: str | Sequence[str], stdin: str | bytes | None, **options: object) -> Json:
    """The body of an exec: a string is run by a shell, a sequence is run as it is."""
    what: Json = {"command": command} if isinstance(command, str) else {"argv": list(command)}
    return {**what, **_stdin_field(stdin), **given(**options)}


def _stdin_field(stdin: str | bytes | None) -> Json:
    if isinstance(stdin, bytes):
        return {"stdin_base64": base64_text(stdin)}
    return given(stdin=stdin)


class SpawnOptions(TypedDict, total=False):
    """The options of `box.spawn` beside the command; one left out, or None, is the server's.

    `timeout_s`, `cwd`, `env`, `user`, `stdin` and `keep_alive` are as for `box.run`. With `tty` it runs on
    a terminal of `rows` (24) and `cols` (80), which is its stdin too; without, `stdin_open` keeps stdin
    open for `proc.write`. It is ended after `max_run_after_disconnect_s` seconds without an attachment, a
    follower or a wait. `labels` are kept with it. Unless `wait_for_reader` is False, it waits at a full
    buffer for the reader of its output, for up to 30 s while there is none.
    """

    timeout_s: float | None
    cwd: str | None
    env: Mapping[str, str] | None
    user: str | None
    stdin: str | bytes | None
    keep_alive: bool | None
    labels: Mapping[str, str] | None
    tty: bool | None
    rows: int | None
    cols: int | None
    stdin_open: bool | None
    max_run_after_disconnect_s: float | None
    wait_for_reader: bool | None


def spawn_body(command: str | Sequence[str], options: SpawnOptions) -> Json:
    """The body of an exec that is not waited for."""
    known("spawn", options, SpawnOptions)
    rest: Json = {name: value for name, value in options.items() if name != "stdin"}
    reader = rest.pop("wait_for_reader", None)
    return exec_body(command, options.get("stdin"), wait_for_reader=reader is not False, **rest)


def base64_text(data: bytes) -> str:
    """`data` as the wire carries bytes."""
    return b64encode(data).decode("ascii")
