"""The commands `execs`, `history`, `ps` and `kill`: the execs, executions and processes of a sandbox."""

import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from bay.cli.complete import NameArgument
from bay.cli.output import dash, note, print_json, print_list
from bay.cli.state import JsonOption, connect_box
from bay.clock import to_seconds
from bay.errors import InvalidArgument
from bay.ids import is_id_of

if TYPE_CHECKING:
    from bay.client import Box
    from bay.models import Exec, HistoryEntry, Process

_LONGEST = 200
_LONGEST_CODE = 60


def execs(ctx: typer.Context, name: NameArgument, as_json: JsonOption = False) -> None:
    """List the commands of a sandbox that run, or ended in the last ten minutes."""
    with connect_box(ctx, name) as box:
        found = (proc.info for proc in box.execs.list())
        heads = ("ID", "STATE", "EXIT", "PID", "TTY", "STARTED", "OUTPUT", "COMMAND")
        print_list(found, as_json, heads, _exec_row)


def ps(ctx: typer.Context, name: NameArgument, as_json: JsonOption = False) -> None:
    """List the processes of a sandbox."""
    with connect_box(ctx, name) as box:
        found = box.processes()
    heads = ("PID", "PPID", "UID", "STATE", "CPU", "MEMORY", "STARTED", "EXEC", "COMMAND")
    print_list(found, as_json, heads, _process_row)


def kill(
    ctx: typer.Context,
    name: NameArgument,
    targets: Annotated[
        list[str], typer.Argument(metavar="PID", help="Process ids as `ps` shows them, or ids of commands.")
    ],
    signal: Annotated[
        str, typer.Option("--signal", "-s", metavar="SIGNAL", help="The signal's name or number.")
    ] = "TERM",
    as_json: JsonOption = False,
) -> None:
    """Send a signal to processes of a sandbox."""
    wanted = int(signal) if signal.isascii() and signal.isdigit() else signal
    checked = [_checked(target) for target in targets]
    with connect_box(ctx, name) as box:
        for target in checked:
            _send(box, target, wanted)
            if as_json:
                print_json({"target": target, "signal": wanted})


def _checked(target: str) -> str:
    if (target.isascii() and target.isdigit()) or is_id_of("exec", target):
        return target
    raise InvalidArgument(
        f"{target!r} is neither a process id nor the id of a command; see `bay ps` and `bay execs`"
    )


def _send(box: "Box", target: str, signal: str | int) -> None:
    if target.isdigit():
        box.signal_process(int(target), signal)
    else:
        box.execs.get(target).signal(signal)


def _exec_row(info: "Exec") -> tuple[str, ...]:
    end = info.exit_code if info.signal is None else f"signal {info.signal}"
    return (
        info.id,
        info.state,
        dash(end),
        dash(info.pid),
        "yes" if info.tty else "no",
        to_seconds(info.started_at),
        str(info.output_bytes),
        _cut(shlex.join(info.argv)),
    )


def _process_row(process: "Process") -> tuple[str, ...]:
    return (
        str(process.pid),
        str(process.ppid),
        dash(process.uid),
        process.state,
        f"{process.cpu_s:.1f}s",
        f"{process.rss_bytes / (1 << 20):.1f}M",
        to_seconds(process.started_at),
        process.exec_id or "-",
        _cut(process.command),
    )


def _cut(command: str) -> str:
    return command if len(command) <= _LONGEST else f"{command[: _LONGEST - 1]}…"


def history(
    ctx: typer.Context,
    name: NameArgument,
    failed: Annotated[
        bool, typer.Option("--failed", help="Only entries that failed, timed out or were lost.")
    ] = False,
    tags: Annotated[
        str | None, typer.Option(metavar="TAG,...", help="Only entries with one of these tags.")
    ] = None,
    limit: Annotated[int, typer.Option(metavar="N", min=1, max=500, help="The newest N.")] = 100,
    as_json: JsonOption = False,
) -> None:
    """List the calls of `shell/exec` and `python/exec` in a sandbox, newest first.

    For commands of `bay exec` see `bay execs`.
    """
    with connect_box(ctx, name) as box:
        entries = box.history(failed_only=failed or None, tags=tags, limit=limit)
    if not (entries or failed or as_json) and tags is None:
        note(
            "nothing ran by shell/exec or python/exec; for commands of `bay exec` and `bay run` see: bay execs"
        )
    else:
        print_list(entries, as_json, ("ID", "CREATED", "OK", "MS", "TAGS", "CODE"), _history_row)


def _history_row(entry: "HistoryEntry") -> tuple[str, ...]:
    created = to_seconds(entry.created_at)
    code = entry.code if len(entry.code) <= _LONGEST_CODE else entry.code[: _LONGEST_CODE - 3] + "..."
    ok = "yes" if entry.success else "no"
    return (entry.id, created, ok, str(entry.execution_time_ms), entry.tags or "-", code)
