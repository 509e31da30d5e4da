"""The commands `files`: lists, reads, changes and watches files of a sandbox."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from bay.cli.complete import NameArgument
from bay.cli.output import dash, note, print_fields, print_json, print_line, print_list, printable
from bay.cli.state import JsonOption, connect_box
from bay.cli.tree import Tree
from bay.clock import to_seconds

if TYPE_CHECKING:
    from bay.models import FileEvent, FileInfo, SearchMatch

files = Tree(help="List, search and watch the files of a sandbox.")

PathArgument = Annotated[str, typer.Argument(metavar="PATH", help="Absolute, or relative to /workspace.")]
GlobOption = Annotated[
    str | None, typer.Option(metavar="PATTERN", help="Only matching paths: *, ?, [...] and **.")
]


@files.command("ls")
def ls(
    ctx: typer.Context,
    name: NameArgument,
    path: PathArgument = ".",
    depth: Annotated[int, typer.Option(metavar="N", min=1, max=64, help="Depth of the listing.")] = 1,
    as_json: JsonOption = False,
) -> None:
    """List a directory."""
    with connect_box(ctx, name) as box:
        found = box.files.walk(path, depth)
        print_list(found, as_json, ("MODE", "OWNER", "SIZE", "MODIFIED", "PATH"), _row)


@files.command("stat")
def stat(ctx: typer.Context, name: NameArgument, path: PathArgument, as_json: JsonOption = False) -> None:
    """Show the facts of a file."""
    with connect_box(ctx, name) as box:
        info = box.files.stat(path, follow=False)
    print_json(info) if as_json else print_fields(_fields(info))


@files.command("find")
def find(
    ctx: typer.Context,
    name: NameArgument,
    pattern: Annotated[str, typer.Argument(metavar="PATTERN", help="Such as '*.py' or '**/*.py'.")],
    path: Annotated[str, typer.Option(metavar="PATH", help="Directory to search.")] = ".",
    as_json: JsonOption = False,
) -> None:
    """Find files by their names."""
    with connect_box(ctx, name) as box:
        for info in box.files.walk(path, glob=pattern):
            print_json(info) if as_json else print_line(printable(info.path))


@files.command("search")
def search(
    ctx: typer.Context,
    name: NameArgument,
    query: Annotated[str, typer.Argument(metavar="TEXT", help="Text to find in lines.")],
    path: Annotated[str, typer.Option(metavar="PATH", help="Directory to search.")] = ".",
    glob: GlobOption = None,
    regex: Annotated[bool, typer.Option("--regex", "-E", help="TEXT is a regular expression.")] = False,
    ignore_case: Annotated[bool, typer.Option("--ignore-case", "-i", help="A is a.")] = False,
    hidden: Annotated[bool, typer.Option("--hidden", help="Also hidden files.")] = False,
    no_ignore: Annotated[
        bool, typer.Option("--no-ignore", help="Also files that .gitignore excludes.")
    ] = False,
    limit: Annotated[int, typer.Option(metavar="N", min=1, max=10_000, help="At most N lines.")] = 1000,
    as_json: JsonOption = False,
) -> int:
    """Find lines in text files; exit code 1 without a match."""
    with connect_box(ctx, name) as box:
        found = box.files.search(
            query,
            path,
            glob=glob,
            regex=regex,
            ignore_case=ignore_case,
            hidden=hidden,
            gitignore=not no_ignore,
            limit=limit,
        )
    for match in found.matches:
        print_json(match) if as_json else print_line(_match(match))
    if found.truncated:
        note("there is more: narrow the search, or raise --limit")
    return 0 if found.matches else 1


@files.command("watch")
def watch(
    ctx: typer.Context,
    name: NameArgument,
    path: PathArgument = ".",
    flat: Annotated[bool, typer.Option("--flat", help="Without directories below.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Print file events until interrupted."""
    with connect_box(ctx, name) as box, box.files.watch(path, recursive=not flat) as seen:
        for event in seen:
            print_json(event) if as_json else print_line(_event(event))


def _row(info: "FileInfo") -> tuple[str, ...]:
    return (
        f"{info.type[0] if info.type != 'file' else '-'}{info.mode}",
        f"{info.uid}:{info.gid}",
        dash(info.size),
        _time(info.mtime),
        info.path if info.target is None else f"{info.path} -> {info.target}",
    )


def _fields(info: "FileInfo") -> dict[str, str]:
    fields = {
        "path": info.path,
        "type": info.type,
        "target": info.target,
        "size": None if info.size is None else str(info.size),
        "mode": info.mode,
        "owner": f"{info.uid}:{info.gid}",
        "modified": _time(info.mtime),
    }
    return {name: value for name, value in fields.items() if value is not None}


def _match(match: "SearchMatch") -> str:
    return f"{printable(match.path)}:{match.line}:{printable(match.text or '')}"


def _event(event: "FileEvent") -> str:
    if event.type == "overflow":
        return "overflow: events were lost, look again"
    to = f" -> {event.to}" if event.to else ""
    return f"{event.type:<10} {printable((event.path or '') + ('/' if event.is_dir else '') + to)}"


def _time(mtime: float) -> str:
    """A time from the sandbox, which may be outside of the calendar."""
    try:
        return to_seconds(datetime.fromtimestamp(mtime, UTC))
    except (OverflowError, ValueError, OSError):
        return "-"
