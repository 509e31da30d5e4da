"""The command group `admin`, for the operator of Bay: host, audit, backups, collections, pools, storage."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol, cast

import typer

from bay import durations
from bay.cli.commands.host import host, prepare_restart, settings
from bay.cli.output import note, print_columns, print_json, print_line, print_list, printable
from bay.cli.state import JsonOption, connect, load
from bay.cli.tree import Tree
from bay.clock import from_rfc3339, to_seconds, utc_now
from bay.errors import InvalidArgument

if TYPE_CHECKING:
    from bay.models import AuditEntry, GarbageTask, PoolState

admin = Tree(help="Commands for operators.")
cargo = Tree(help="Check the storage of all sandboxes.")
admin.add_typer(cargo, name="cargo")
admin.command()(host)
admin.command("prepare-restart")(prepare_restart)
admin.command()(settings)

TASKS = ("idle_session", "expired_sandbox", "orphan_cargo", "orphan_container")
DataDirOption = Annotated[Path | None, typer.Option(help="Bay's data directory; else BAY_DATA_DIR.")]


@admin.command()
def audit(
    ctx: typer.Context,
    owner: Annotated[str | None, typer.Option(help="Only calls of this owner.")] = None,
    key: Annotated[str | None, typer.Option(metavar="ID", help="Only calls with this key.")] = None,
    method: Annotated[str | None, typer.Option(help="Only POST, PUT, PATCH or DELETE.")] = None,
    request: Annotated[
        str | None, typer.Option(metavar="ID", help="Only the call with this request id.")
    ] = None,
    resource: Annotated[
        str | None, typer.Option(metavar="ID", help="Only calls about this sandbox, key or other resource.")
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Calls since a time: 10m, 2h, 7d ago, or RFC 3339.")
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Calls before a time.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List the calls that may have changed something, oldest first."""
    with connect(ctx) as client:
        found = client.audit.list(
            owner=owner,
            key_id=key,
            method=method and method.upper(),
            request_id=request,
            resource_id=resource,
            since=_moment("--since", since),
            until=_moment("--until", until),
            limit=200,
        )
        for entry in found:
            print_json(entry) if as_json else print_line(_audit_line(entry))


def _moment(option: str, text: str | None) -> datetime | None:
    """The time that ``90s``, ``10m``, ``2h`` or ``7d`` ago was, or that RFC 3339 names."""
    if text is None:
        return None
    try:
        if (ago := durations.parse(text)) is not None:
            return utc_now() - timedelta(seconds=ago)
        return from_rfc3339(text)
    except (ValueError, OverflowError) as error:
        raise InvalidArgument(f"{option} takes 10m, 2h, 7d or a time such as 2030-01-31T12:00:00Z") from error


def _audit_line(entry: "AuditEntry") -> str:
    """One call. A result of `?` is one that is under way, or in which Bay ended."""
    result = "?" if entry.status is None else str(entry.status)
    who = f"{entry.owner or '-'} {entry.key_id or '-'}"
    what = f"{entry.method:<6} {entry.path}"
    return printable(
        f"{to_seconds(entry.at)}  {result:<3}  {who}  {what}  {entry.resource_id or '-'}  {entry.code or ''}"
    ).rstrip()


class BackupReport(Protocol):
    """The contents of a backup."""

    path: Path
    workspaces: int
    left_out: Sequence[str]
    removed: Sequence[Path]


class RestoreReport(Protocol):
    """The result of a restore, and where the replaced data is now."""

    created_at: str
    sandboxes: int
    data_dir: Path
    aside: Path | None


@admin.command()
def backup(
    out: Annotated[
        Path,
        typer.Argument(
            metavar="OUT", help="The file to write: .tar, .tar.gz or .tgz. With --keep: a directory."
        ),
    ],
    data_dir: DataDirOption = None,
    with_files: Annotated[
        bool, typer.Option("--with-files", help="Also the files of every workspace.")
    ] = False,
    keep: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="COUNT",
            help="Name the file by the time, and keep the newest COUNT such files in OUT.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Back up the database and the admin key of the Bay on this machine, while it runs; not `secrets.key`."""
    if keep is None:
        found = load("bay.server.offline.backup", "backup")(out, data_dir, with_files=with_files)
    else:
        found = load("bay.server.offline.backup", "rotate")(out, data_dir, with_files=with_files, keep=keep)
    made = cast("BackupReport", found)
    for name in made.left_out:
        note(f"left out, because a tar cannot hold it: {name}")
    if as_json:
        facts = {"path": str(made.path), "workspaces": made.workspaces, "left_out": list(made.left_out)}
        print_json({**facts, "removed": [str(path) for path in made.removed]})
        return
    print_line(f"backed up to {made.path}" + (f" with {made.workspaces} workspaces" if with_files else ""))
    for path in made.removed:
        print_line(f"removed {path}")


@admin.command()
def restore(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A file that `bay admin backup` wrote.")],
    data_dir: DataDirOption = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Move the present data aside; else the directory must be empty."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Replace the data of the Bay on this machine by a backup. Stop that Bay first."""
    done = cast("RestoreReport", load("bay.server.offline.backup", "restore")(source, data_dir, force=force))
    if as_json:
        aside = None if done.aside is None else str(done.aside)
        facts = {"sandboxes": done.sandboxes, "created_at": done.created_at}
        print_json({**facts, "data_dir": str(done.data_dir), "aside": aside})
        return
    print_line(f"restored {done.sandboxes} sandboxes, as of {done.created_at}, into {done.data_dir}")
    if done.aside is not None:
        print_line(f"the former data is in {done.aside}")


class RotationReport(Protocol):
    """The result of a rotation: how many secrets have the new key, and which could not be read."""

    sealed: int
    unreadable: Sequence[str]


@admin.command("rotate-secrets-key")
def rotate_secrets_key(data_dir: DataDirOption = None, as_json: JsonOption = False) -> int:
    """Encrypt all secrets under a new key, and forget the old one. Stop Bay first."""
    done = cast("RotationReport", load("bay.server.offline.secrets_key", "rotate")(data_dir))
    for name in done.unreadable:
        note(f"left as it is, because no key in the file reads it: {name}")
    if as_json:
        print_json({"sealed": done.sealed, "unreadable": list(done.unreadable)})
    else:
        print_line(f"encrypted {done.sealed} secrets under a new key")
    return 1 if done.unreadable else 0


class MoveReport(Protocol):
    """The rows of each table that are in PostgreSQL now, and where the former file is."""

    rows: Mapping[str, int]
    database: str
    file: Path


@admin.command("migrate-store")
def migrate_store(data_dir: DataDirOption = None, as_json: JsonOption = False) -> None:
    """Move the rows of the Bay on this machine from SQLite to BAY_DATABASE_URL. Stop that Bay first."""
    done = cast("MoveReport", load("bay.server.offline.store_migration", "move")(data_dir))
    if as_json:
        print_json({"rows": dict(done.rows), "database": done.database, "file": str(done.file)})
        return
    print_columns(("TABLE", "ROWS"), ((name, str(count)) for name, count in done.rows.items()))
    print_line(f"moved {sum(done.rows.values())} rows to {done.database}; the former file is {done.file}")
    note("start Bay with BAY_DATABASE_URL from now on")


class MigrationReport(Protocol):
    """The database, without its password, and the version of its tables."""

    database: str
    version: str


@admin.command("migrate-database")
def migrate_database(
    data_dir: DataDirOption = None,
    config: Annotated[Path | None, typer.Option(help="A TOML file of settings.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Bring the tables of the database up to this version and end, as the start of `bay serve` does."""
    done = cast("MigrationReport", load("bay.server.offline.database_migration", "migrate")(data_dir, config))
    if as_json:
        print_json({"database": done.database, "version": done.version})
        return
    print_line(f"the database {done.database} has version {done.version}")


class WrittenImage(Protocol):
    """The archive with Ship's image: the name in it, the digest of its manifest, and the file."""

    ref: str
    digest: str
    file: Path


@admin.command("ship-image")
def ship_image(
    file: Annotated[Path, typer.Argument(help="Archive to write, the tar of an OCI layout.")],
    ref: Annotated[str | None, typer.Option(help="Name in the archive; else bay-ship:VERSION.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Write the image that brings Ship into pods: setting kubernetes.ship_image. Needs no Bay that runs."""
    made = cast("WrittenImage", load("bay.server.offline.ship_image", "write")(file, ref))
    if as_json:
        print_json({"ref": made.ref, "digest": made.digest, "file": str(made.file)})
        return
    print_line(f"wrote {made.ref} to {made.file}, digest {made.digest}")
    note(f"push it with: skopeo copy oci-archive:{made.file} docker://REGISTRY/{made.ref}")


@admin.command()
def gc(
    ctx: typer.Context,
    tasks: Annotated[
        list[str] | None,
        typer.Argument(metavar="[TASK]...", help=f"Of {', '.join(TASKS)}; all unless named."),
    ] = None,
    as_json: JsonOption = False,
) -> int:
    """Run garbage collection now, for every owner: idle and frozen compute, expired sandboxes, orphans."""
    wanted = _known_tasks(tasks or [])
    with connect(ctx) as client:
        run = client.admin.collect_garbage(wanted or None)
    if as_json:
        print_json(run)
    else:
        heads = ("TASK", "CLEANED", "SKIPPED", "ERRORS")
        rows = (
            (r.task_name, str(r.cleaned_count), str(r.skipped_count), str(len(r.errors))) for r in run.results
        )
        print_columns(heads, rows)
        for error in (error for result in run.results for error in result.errors):
            note(error)
    return 1 if run.total_errors else 0


def _known_tasks(given: list[str]) -> "list[GarbageTask]":
    unknown = [task for task in given if task not in TASKS]
    if unknown:
        raise InvalidArgument(f"there is no task {unknown[0]}; there are {', '.join(TASKS)}")
    return cast("list[GarbageTask]", given)


@admin.command()
def pool(ctx: typer.Context, as_json: JsonOption = False) -> None:
    """Show the pools of profiles and templates; the counts are since the server started."""
    with connect(ctx) as client:
        found = client.admin.pool()
    heads = ("PROFILE", "TEMPLATE", "SIZE", "READY", "STARTING", "HITS", "MISSES", "FAILURES")
    print_list(found, as_json, heads, _pool_row)
    for state in found:
        if state.refill_at is not None and not as_json:
            at = f"{state.refill_at:%H:%M:%S} UTC"
            note(f"{state.template_id or state.profile} is not filled up before {at}: {state.last_error}")


def _pool_row(state: "PoolState") -> tuple[str, ...]:
    numbers = (state.size, state.ready, state.starting, state.hits, state.misses, state.failures)
    return (state.profile, state.template_id or "-", *map(str, numbers))


class CargoFinding(Protocol):
    """One thing that was looked at."""

    level: str
    what: str
    seen: str
    way_out: str


@cargo.command("check")
def check(data_dir: DataDirOption = None, as_json: JsonOption = False) -> int:
    """Check the pool, its mount, its file system and the free space of the local Bay; exits 1 on an error."""
    found = cast("Sequence[CargoFinding]", load("bay.server.offline.cargo_check", "check")(data_dir))
    print_list(found, as_json, ("LEVEL", "WHAT", "SEEN"), _finding_row)
    return 1 if any(finding.level == "error" for finding in found) else 0


def _finding_row(finding: CargoFinding) -> tuple[str, ...]:
    way_out = f"; {finding.way_out}" if finding.way_out else ""
    return (finding.level, finding.what, finding.seen + way_out)
