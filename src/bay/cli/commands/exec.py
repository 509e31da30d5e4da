"""The commands `run` and `exec`: a command in a sandbox that behaves like one in this terminal."""

import os
import signal
import sys
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from bay.cli.commands.cp import put
from bay.cli.commands.image import show_pull
from bay.cli.commands.sandbox import (
    ImageOption,
    IsolationOption,
    ProfileOption,
    PullOption,
    TemplateOption,
    as_pull,
)
from bay.cli.commands.secrets import SecretOption, given_secrets
from bay.cli.complete import NameArgument
from bay.cli.follow import exit_code, follow, killed_with_us, pump, say_end, unless_lost
from bay.cli.interrupt import Interrupt, signal_handlers
from bay.cli.output import note, print_json, print_line, printable
from bay.cli.progress import Bar
from bay.cli.size_options import CpusOption, DiskOption, MemoryOption, PidsOption, sizes
from bay.cli.state import (
    RETRY_S,
    EnvOption,
    JsonOption,
    connect_box,
    connect_or_embed,
    duration_option,
    pairs,
    seconds,
)
from bay.cli.terminal.detach_keys import DEFAULT_KEYS, parse_keys
from bay.cli.terminal.raw import has_pipe_with_data, window_size
from bay.cli.terminal.session import STDIN, STDOUT, need_terminal, on_terminal
from bay.cli.tree import COMMAND
from bay.cli.volume_option import VolumeOption, volumes
from bay.errors import CapabilityNotSupported, InvalidArgument

if TYPE_CHECKING:
    from bay.client import Box, Client, CreateOptions, Proc, SpawnOptions

PATIENCE_S = 60.0
"""How long a terminal waits for a connection that broke."""

CommandArgument = Annotated[
    list[str],
    typer.Argument(
        metavar=COMMAND, help="The command and its arguments; later options are the command's own."
    ),
]
TimeoutOption = Annotated[
    float | None,
    duration_option("Time limit of the command, such as 90s or 10m; exit code 124 at its end.", seconds),
]
StdinOption = Annotated[bool, typer.Option("--stdin", "-i", help="Forward stdin to the command, live.")]
CwdOption = Annotated[
    str | None,
    typer.Option(
        "--cwd",
        "-w",
        metavar="PATH",
        help="Directory to run in: absolute, relative to /workspace, or below ~ (quote it).",
    ),
]
UserOption = Annotated[
    str | None,
    typer.Option("--user", "-u", metavar="USER", help="User to run as; root where the profile allows it."),
]
TtyOption = Annotated[
    bool,
    typer.Option("--tty", "-t", help="Run it on a terminal that is connected to this one. Implies --stdin."),
]
DetachKeysOption = Annotated[
    str,
    typer.Option(
        metavar="KEYS", help="The keys that detach and leave it running; an empty text turns them off."
    ),
]


def run(
    ctx: typer.Context,
    command: CommandArgument,
    image: ImageOption = None,
    template: TemplateOption = None,
    pull: PullOption = None,
    profile: ProfileOption = None,
    isolation: IsolationOption = None,
    cpus: CpusOption = None,
    memory: MemoryOption = None,
    disk: DiskOption = None,
    pids: PidsOption = None,
    env: EnvOption = None,
    secret: SecretOption = None,
    volume: VolumeOption = None,
    copy: Annotated[
        list[str] | None,
        typer.Option("--cp", metavar="SRC:DST", help="Copy a local file or directory in first. Repeatable."),
    ] = None,
    cwd: CwdOption = None,
    user: UserOption = None,
    timeout: TimeoutOption = None,
    stdin: StdinOption = False,
    tty: TtyOption = False,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the sandbox: a-z, 0-9 and '-'.")
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the sandbox afterwards, and print its name.")
    ] = False,
    rm: Annotated[
        bool, typer.Option("--rm", help="Remove the sandbox afterwards (the default).", hidden=True)
    ] = False,
    as_json: JsonOption = False,
) -> int:
    """Run a command in a sandbox of its own. Without a server (BAY_URL, --url) one is started for it."""
    if keep and rm:
        raise InvalidArgument("give --keep or --rm, not both")
    if not (stdin or tty):
        _say_when_stdin_is_left()
    copies = [_copy_pair(text) for text in copy or ()]
    options: CreateOptions = {
        "name": name,
        "image": image,
        "template": template,
        "pull": as_pull(pull),
        "profile": profile,
        "isolation": isolation,
        "env": pairs(env, "--env", "=") or None,
        "secrets": given_secrets(secret),
        "volumes": volumes(volume),
        **sizes(cpus, memory, disk, pids),
    }
    how: SpawnOptions = {"timeout_s": timeout, "cwd": cwd, "user": user, **_how(tty=tty, stdin=stdin)}
    with (
        _signals_end_it(),
        connect_or_embed(ctx) as client,
        _sandbox(client, _pulled(client, options), keep) as box,
    ):
        for source, target in copies:
            put(box, source, target)
        proc = box.spawn(command, **how)
        return _attend(box, proc, b"") if tty else _follow(proc, stdin, as_json)


def exec_(
    ctx: typer.Context,
    name: NameArgument,
    command: CommandArgument,
    env: EnvOption = None,
    cwd: CwdOption = None,
    user: UserOption = None,
    timeout: TimeoutOption = None,
    stdin: StdinOption = False,
    tty: TtyOption = False,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Print its id and leave it running.")
    ] = False,
    detach_keys: DetachKeysOption = DEFAULT_KEYS,
    as_json: JsonOption = False,
) -> int:
    """Run a command in an existing sandbox, and wake it if needed."""
    keys = parse_keys(detach_keys)
    if not (stdin or tty or detach):
        _say_when_stdin_is_left()
    how: SpawnOptions = {
        "timeout_s": timeout,
        "cwd": cwd,
        "env": pairs(env, "--env", "=") or None,
        "user": user,
        **_how(tty=tty, stdin=stdin, here=not detach),
    }
    with _signals_end_it(), connect_box(ctx, name, PATIENCE_S if tty else RETRY_S) as box:
        proc = box.spawn(command, **how)
        if detach:
            print_json(proc.info) if as_json else print_line(proc.id)
            return 0
        return _attend(box, proc, keys) if tty else _follow(proc, stdin, as_json)


def _how(*, tty: bool, stdin: bool, here: bool = True) -> "SpawnOptions":
    """How to start the command, by the options `-t` and `-i`; `here`: this terminal has it."""
    if not here:
        return {"tty": tty, "stdin_open": stdin and not tty, "wait_for_reader": False}
    if not tty:
        return {"stdin_open": True} if stdin else {}
    need_terminal()
    rows, cols = window_size(STDOUT)
    return {"tty": True, "rows": rows, "cols": cols}


def _attend(box: "Box", proc: "Proc", keys: bytes) -> int:
    """The command on this terminal. A signal that ends us ends it; the detach keys do not."""
    with killed_with_us(proc):
        return on_terminal(box.name or box.id, proc.attach(0, repaint=True), keys)


def _follow(proc: "Proc", stdin: bool, as_json: bool) -> int:
    """Pass its output on until it ends; kill it with us on a signal or a closed stdout."""
    with killed_with_us(proc), Interrupt(proc) as interrupt, pump(proc, wanted=stdin):
        lost = follow(proc, as_json, 0)
    if as_json:
        say_end(proc.info)
    if interrupt.came:
        raise KeyboardInterrupt
    return unless_lost(exit_code(proc.info), lost)


def _say_when_stdin_is_left() -> None:
    """For a person only: in a script the pipe may be for another, as in `while read x; do bay exec …`."""
    if sys.stderr.isatty() and has_pipe_with_data(STDIN):
        note("stdin is not forwarded to the command; use -i")


@contextmanager
def _sandbox(client: "Client", options: "CreateOptions", keep: bool) -> Generator["Box", None, None]:
    if not keep:
        with client.sandbox(**options) as box:
            yield box
        return
    box = client.sandboxes.create(**options)
    try:
        yield box
    finally:
        note(f"kept {box.name or box.id}")


def _pulled(client: "Client", options: "CreateOptions") -> "CreateOptions":
    """The options with their image here, after a pull whose progress is shown."""
    wanted = options.get("image")
    if wanted in (None, "host"):
        return options
    try:
        with Bar(printable(wanted)) as bar:
            image = client.images.pull(
                wanted, pull=options.get("pull") or "missing", progress=partial(show_pull, bar)
            )
    except CapabilityNotSupported as error:
        if "name" in error.details.get("available", ()):  # the server's nodes fetch it themselves
            return options
        raise
    return {**options, "image": image.id, "pull": None}


def _copy_pair(text: str) -> tuple[str, str]:
    source, _, target = text.rpartition(":")
    if not source:
        raise InvalidArgument(f"--cp takes SRC:DST, not {text!r}")
    if not os.path.exists(source):
        raise InvalidArgument(f"there is no local file {source!r}")
    return source, target


def _signals_end_it() -> AbstractContextManager[None]:
    """TERM and HUP unwind like Ctrl-C does, so that temporary resources are removed."""
    return signal_handlers(dict.fromkeys((signal.SIGTERM, signal.SIGHUP), _leave))


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)
