"""The commands `create ls get update start pause hibernate resume stop rm`: the life of sandboxes."""

from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Annotated

import typer

from bay.cli.commands.net import as_mode
from bay.cli.commands.secrets import SecretOption, given_secrets
from bay.cli.complete import NameArgument, NamesArgument, complete_names, complete_profiles
from bay.cli.error_words import with_nearest
from bay.cli.output import age, print_error, print_fields, print_json, print_line, print_list
from bay.cli.size_options import CpusOption, DiskOption, MemoryOption, PidsOption, sizes
from bay.cli.state import (
    EnvOption,
    JsonOption,
    connect,
    connect_box,
    duration,
    duration_option,
    pairs,
    seconds,
    state_of,
)
from bay.cli.volume_option import VolumeOption, volumes
from bay.clock import to_rfc3339, utc_now
from bay.errors import CallerError, HostError, InvalidArgument, NotFound, Unauthorized
from bay.models import NetworkPolicy, OnExpiry, Pull

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from bay.client import Box, UpdateOptions
    from bay.models import Sandbox, Volume

_NEVER = "never"
_NONE = "none"

ProfileOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Profile; default: the server's.",
        autocompletion=complete_profiles,
    ),
]
ImageOption = Annotated[
    str | None,
    typer.Option(metavar="IMAGE", help="`host`, or the reference or id of an image; default: the profile's."),
]
PullOption = Annotated[
    str | None,
    typer.Option(metavar="WHEN", help="When to fetch the image: missing (the default), always or never."),
]
TemplateOption = Annotated[
    str | None,
    typer.Option(metavar="TEMPLATE", help="Name, name:tag or id of a template to start from."),
]
IsolationOption = Annotated[
    str | None,
    typer.Option(metavar="KIND", help="Isolation, instead of the profile's: one of `bay capabilities`."),
]


def as_pull(text: str | None) -> Pull | None:
    """The value of `--pull`. Raises InvalidArgument."""
    if text not in (None, "missing", "always", "never"):
        raise InvalidArgument(f"--pull is missing, always or never, and not {text}")
    return text


def _on_expiry(text: str | None) -> OnExpiry | None:
    """The value of `--on-expiry`. Raises InvalidArgument."""
    if text not in (None, "delete", "pause"):
        raise InvalidArgument(f"--on-expiry is delete or pause, and not {text}")
    return text


def create(
    ctx: typer.Context,
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Its name: a-z, 0-9 and '-'.")] = None,
    name_option: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="The same as an option.")
    ] = None,
    profile: ProfileOption = None,
    image: ImageOption = None,
    template: TemplateOption = None,
    pull: PullOption = None,
    entrypoint: Annotated[
        bool, typer.Option("--entrypoint", help="Run the image's ENTRYPOINT and CMD as the service `main`.")
    ] = False,
    isolation: IsolationOption = None,
    env: EnvOption = None,
    secret: SecretOption = None,
    label: Annotated[
        list[str] | None,
        typer.Option("--label", "-l", metavar="KEY=VALUE", help="Attach a label. Repeatable."),
    ] = None,
    ttl: Annotated[
        int | None,
        duration_option("Its lifetime, such as 10m; 0 is no limit."),
    ] = None,
    on_expiry: Annotated[
        str | None, typer.Option(metavar="WORD", help="At the end of its lifetime: delete, or pause.")
    ] = None,
    idle_timeout: Annotated[
        int | None,
        duration_option("Time without activity until it is frozen."),
    ] = None,
    warm_timeout: Annotated[
        int | None,
        duration_option("Time frozen until compute stops; 0 is at once."),
    ] = None,
    cpus: CpusOption = None,
    memory: MemoryOption = None,
    disk: DiskOption = None,
    pids: PidsOption = None,
    volume: VolumeOption = None,
    cargo: Annotated[str | None, typer.Option(help="Id of a cargo to mount at /workspace.")] = None,
    from_checkpoint: Annotated[
        str | None, typer.Option(metavar="ID", help="Id of the checkpoint to start from.")
    ] = None,
    network: Annotated[
        str | None, typer.Option(metavar="MODE", help="Network mode: none, allowlist or open.")
    ] = None,
    url_port: Annotated[int | None, typer.Option(metavar="PORT", help="The port of its URL.")] = None,
    wait: Annotated[
        float | None,
        duration_option("How long to wait until it is ready.", seconds),
    ] = None,
    as_json: JsonOption = False,
) -> int:
    """Make a sandbox and print its id."""
    if name is not None and name_option not in (None, name):
        raise InvalidArgument(f"give one name: {name} or --name {name_option}")
    with connect(ctx) as client:
        box = client.sandboxes.create(
            name=name or name_option,
            profile=profile,
            image=image,
            template=template,
            pull=as_pull(pull),
            entrypoint="service" if entrypoint else None,
            isolation=isolation,
            env=pairs(env, "--env", "=") or None,
            secrets=given_secrets(secret),
            volumes=volumes(volume),
            labels=pairs(label, "--label", "=") or None,
            ttl=ttl,
            on_expiry=_on_expiry(on_expiry),
            idle_timeout=idle_timeout,
            warm_timeout=warm_timeout,
            **sizes(cpus, memory, disk, pids),
            cargo_id=cargo,
            from_checkpoint=from_checkpoint,
            network_policy=None if network is None else NetworkPolicy(mode=as_mode(network)),
            url=url_port,
            wait=wait,
        )
    print_json(box.info) if as_json else print_line(box.id)
    return 1 if box.info.status == "failed" else 0


def ls(
    ctx: typer.Context,
    status: Annotated[
        str | None, typer.Option(help="Only with this status: idle, starting, ready, failed or expired.")
    ] = None,
    compute: Annotated[
        str | None, typer.Option(help="Only with this compute: cold, hibernated, warming, warm or running.")
    ] = None,
    profile: Annotated[str | None, typer.Option(help="Only of this profile.")] = None,
    name_prefix: Annotated[str | None, typer.Option(help="Only with this prefix of the name.")] = None,
    label: Annotated[
        str | None, typer.Option("--label", "-l", metavar="KEY=VALUE", help="Only with this label.")
    ] = None,
    newest: Annotated[bool, typer.Option("--newest", help="Newest first.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print ids only.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List sandboxes, oldest first."""
    wanted = pairs([label] if label else None, "--label", "=")
    with connect(ctx) as client:
        found = client.sandboxes.list(
            status=status,
            compute=compute,
            profile=profile,
            name_prefix=name_prefix,
            label=next((f"{key}:{value}" for key, value in wanted.items()), None),
            order="newest" if newest else None,
        )
        heads = ("ID", "NAME", "STATUS", "COMPUTE", "PROFILE", "AGE")
        infos = (box.info for box in found)
        print_list(infos, as_json, heads, partial(_row, utc_now()), quiet=attrgetter("id") if quiet else None)


def get(ctx: typer.Context, name: NameArgument, as_json: JsonOption = False) -> None:
    """Show one sandbox."""
    with connect_box(ctx, name) as box:
        info = box.info
    print_json(info) if as_json else print_fields(_fields(info))


def update(
    ctx: typer.Context,
    name: NameArgument,
    new_name: Annotated[str | None, typer.Option("--name", help="New name; an empty one removes it.")] = None,
    label: Annotated[
        list[str] | None,
        typer.Option("--label", "-l", metavar="KEY=VALUE", help="New labels, which replace all. Repeatable."),
    ] = None,
    no_labels: Annotated[bool, typer.Option("--no-labels", help="Remove all labels.")] = False,
    idle_timeout: Annotated[
        str | None,
        typer.Option(metavar="DURATION", help="Time without activity until it is frozen, or never."),
    ] = None,
    warm_timeout: Annotated[
        str | None,
        typer.Option(metavar="DURATION", help="Time frozen until compute stops, or never."),
    ] = None,
    ttl: Annotated[
        str | None, typer.Option(metavar="DURATION", help="Its lifetime from now, or never.")
    ] = None,
    on_expiry: Annotated[
        str | None, typer.Option(metavar="WORD", help="At the end of its lifetime: delete, or pause.")
    ] = None,
    url_port: Annotated[
        str | None, typer.Option(metavar="PORT", help="The port of its URL, or none.")
    ] = None,
    cpus: CpusOption = None,
    memory: MemoryOption = None,
    pids: PidsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Change a sandbox's name, labels, timeouts, sizes or URL."""
    changes: UpdateOptions = {}
    if new_name is not None:
        changes["name"] = new_name or None
    if label or no_labels:
        changes["labels"] = _labels(label, none=no_labels)
    if idle_timeout is not None:
        changes["idle_timeout"] = _seconds("--idle-timeout", idle_timeout)
    if warm_timeout is not None:
        changes["warm_timeout"] = _seconds("--warm-timeout", warm_timeout)
    if ttl is not None:
        changes["ttl"] = _seconds("--ttl", ttl)
    if on_expiry is not None:
        changes["on_expiry"] = _on_expiry(on_expiry)
    if url_port is not None:
        changes["url"] = None if url_port == _NONE else _number("--url-port", url_port, f"a port or {_NONE}")
    if cpus is not None:
        changes["cpus"] = cpus
    if memory is not None:
        changes["memory_mb"] = memory
    if pids is not None:
        changes["pids"] = pids
    if not changes:
        raise InvalidArgument(
            "name a setting to change: --name, --label, --no-labels, --idle-timeout, --warm-timeout, "
            "--ttl, --on-expiry, --url-port, --cpus, --memory or --pids"
        )
    with connect_box(ctx, name) as box:
        info = box.update(**changes)
    if as_json:
        print_json(info)


def start(
    ctx: typer.Context,
    names: NamesArgument,
    wait: Annotated[float, duration_option("How long to wait until they are ready.", seconds)] = 60.0,
    as_json: JsonOption = False,
) -> int:
    """Start the compute of sandboxes; they keep name and files."""
    return _each(ctx, names, lambda box: _shown(box.start(wait), as_json))


def pause(ctx: typer.Context, names: NamesArgument, as_json: JsonOption = False) -> int:
    """Freeze sandboxes in memory; the next call wakes them."""
    return _each(ctx, names, lambda box: _done(box.pause(), as_json))


def hibernate(ctx: typer.Context, names: NamesArgument, as_json: JsonOption = False) -> int:
    """Write the memory of sandboxes to disk; the next call brings them back."""
    return _each(ctx, names, lambda box: _done(box.hibernate(), as_json))


def resume(
    ctx: typer.Context,
    names: NamesArgument,
    wait: Annotated[float, duration_option("How long to wait until they run.", seconds)] = 60.0,
    as_json: JsonOption = False,
) -> int:
    """Thaw frozen sandboxes, and start cold ones."""
    return _each(ctx, names, lambda box: _shown(box.resume(wait), as_json))


def stop(ctx: typer.Context, names: NamesArgument, as_json: JsonOption = False) -> int:
    """Stop the compute of sandboxes; files stay."""

    def act(box: "Box") -> bool:
        box.stop()
        return _done(box.refresh() if as_json else None, as_json)

    return _each(ctx, names, act)


def rm(
    ctx: typer.Context,
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME", help="Names or ids of sandboxes.", autocompletion=complete_names),
    ] = None,
    force: Annotated[bool, typer.Option("--force", "-f", help="Ignore missing sandboxes.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="Remove all your sandboxes.")] = False,
    as_json: JsonOption = False,
) -> int:
    """Remove sandboxes and their files permanently."""
    if everything == bool(names):
        raise InvalidArgument(
            "name the sandboxes to remove, or give --all for all of yours (see `bay rm --help`)"
        )

    def act(box: "Box") -> bool:
        box.delete()
        return _done({"id": box.id, "deleted": True}, as_json)

    return _each(ctx, names, act, missing_is_fine=force or everything)


def _each(
    ctx: typer.Context,
    names: list[str] | None,
    act: "Callable[[Box], bool]",
    *,
    missing_is_fine: bool = False,
) -> int:
    """Apply it to each named one, or to all. A failure is reported, and the others are done."""
    good = True
    with connect(ctx) as client:
        for name in [box.id for box in client.sandboxes.list()] if names is None else names:
            try:
                good = act(client.sandboxes.get(name)) and good
            except (CallerError, HostError) as error:
                if missing_is_fine and isinstance(error, NotFound):
                    continue
                if isinstance(error, Unauthorized) or (names is not None and len(names) == 1):
                    raise
                good = False
                print_error(with_nearest(client, error), as_json=state_of(ctx).as_json)
    return 0 if good else 1


def _done(outcome: object, as_json: bool) -> bool:
    """Print the outcome where JSON is wanted; True."""
    if as_json:
        print_json(outcome)
    return True


def _shown(info: "Sandbox", as_json: bool) -> bool:
    """Print the sandbox's state; whether it is ready."""
    print_json(info) if as_json else print_line(f"{info.name or info.id} {info.status}")
    return info.status == "ready"


def _labels(given: list[str] | None, *, none: bool) -> dict[str, str]:
    if given and none:
        raise InvalidArgument("give --label or --no-labels, not both")
    return pairs(given, "--label", "=")


def _seconds(option: str, text: str) -> int | None:
    """So many seconds; None for ``never``."""
    return None if text == _NEVER else duration(option, text)


def _number(option: str, text: str, what: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise InvalidArgument(f"{option} takes {what}, not {text!r}") from error


def _row(now: "datetime", info: "Sandbox") -> tuple[str, ...]:
    since = age(info.created_at, now)
    return (info.id, info.name or "-", info.status, info.compute, info.profile, since)


def _volume_text(volume: "Volume") -> str:
    return f"{volume.cargo}:{volume.path}{':ro' if volume.read_only else ''}"


def _fields(info: "Sandbox") -> dict[str, str]:
    fields = {
        "id": info.id,
        "name": info.name,
        "status": info.status,
        "compute": info.compute,
        "profile": info.profile,
        "image": info.image,
        "isolation": info.isolation,
        "cpus": None if info.cpus is None else f"{info.cpus:g}",
        "memory": None if info.memory_mb is None else f"{info.memory_mb} MiB",
        "disk": None if info.disk_mb is None else f"{info.disk_mb} MiB",
        "pids": None if info.pids is None else str(info.pids),
        "cargo": info.cargo_id,
        "volumes": " ".join(map(_volume_text, info.volumes)) or None,
        "network": info.network,
        "url": None if info.url is None else info.url.href,
        "labels": " ".join(f"{key}={value}" for key, value in info.labels.items()) or None,
        "created": to_rfc3339(info.created_at),
        "expires": "never" if info.expires_at is None else to_rfc3339(info.expires_at),
        "on expiry": info.on_expiry,
        "paused": None if info.paused_at is None else to_rfc3339(info.paused_at),
        "idle timeout": None if info.idle_timeout is None else f"{info.idle_timeout} s",
        "warm timeout": None if info.warm_timeout is None else f"{info.warm_timeout} s",
        "error": None if info.error is None else f"{info.error.code}: {info.error.message}",
    }
    return {name: value for name, value in fields.items() if value is not None}
