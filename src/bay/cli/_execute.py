"""`run` and `exec`: a command in a sandbox that behaves like one in this terminal."""

import os
import signal
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from bay.cli._copy import put
from bay.cli._output import note, print_json
from bay.cli._sandboxes import ImageOption, IsolationOption, ProfileOption
from bay.cli._state import EnvOption, JsonOption, NameArgument, connect, connect_or_embed, pairs
from bay.errors import BayError, InvalidArgument

if TYPE_CHECKING:
    from bay.client import Box, Client, CreateOptions, Proc
    from bay.models import OutputChunk

TIMED_OUT = 124
"""What timeout(1) exits with."""

CommandArgument = Annotated[list[str], typer.Argument(metavar="CMD", help="The command and its arguments.")]
TimeoutOption = Annotated[
    float | None,
    typer.Option(help="Seconds the command may take; then it is ended and the exit code is 124."),
]
StdinOption = Annotated[
    bool, typer.Option("--stdin", "-i", help="Read stdin to its end and give it to the command.")
]


def run(
    ctx: typer.Context,
    command: CommandArgument,
    image: ImageOption = None,
    profile: ProfileOption = None,
    isolation: IsolationOption = None,
    env: EnvOption = None,
    copy: Annotated[
        list[str] | None,
        typer.Option("--cp", metavar="SRC:DST", help="Copy a local file or directory in first. Repeatable."),
    ] = None,
    timeout: TimeoutOption = None,
    stdin: StdinOption = False,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the sandbox afterwards, and say its name.")
    ] = False,
    as_json: JsonOption = False,
) -> int:
    """Run a command in a sandbox of its own. Without a server (BAY_URL, --url) one is started for it."""
    copies = [_copy_pair(text) for text in copy or ()]
    options: CreateOptions = {
        "image": image,
        "profile": profile,
        "isolation": isolation,
        "env": pairs(env, "--env", "=") or None,
    }
    with _signals_end_it(), connect_or_embed(ctx) as client, _sandbox(client, options, keep) as box:
        for source, target in copies:
            put(box, source, target)
        return _follow(box.spawn(command, timeout_s=timeout, stdin=_stdin(stdin)), as_json)


def exec_(
    ctx: typer.Context,
    name: NameArgument,
    command: CommandArgument,
    env: EnvOption = None,
    cwd: Annotated[str | None, typer.Option(help="Directory to run in, relative to /workspace.")] = None,
    user: Annotated[
        str | None, typer.Option(help="User to run as; root where the profile allows it.")
    ] = None,
    timeout: TimeoutOption = None,
    stdin: StdinOption = False,
    as_json: JsonOption = False,
) -> int:
    """Run a command in a sandbox that exists, waking it if need be."""
    with _signals_end_it(), connect(ctx) as client:
        proc = client.sandboxes.get(name).spawn(
            command,
            timeout_s=timeout,
            cwd=cwd,
            env=pairs(env, "--env", "=") or None,
            user=user,
            stdin=_stdin(stdin),
        )
        return _follow(proc, as_json)


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


def _follow(proc: "Proc", as_json: bool) -> int:
    """Pass its output on until it ends; take it down with us when we are told to stop or nobody reads."""
    offset = 0
    try:
        for chunk in proc.output():
            if chunk.offset > offset:
                note(
                    f"{chunk.offset - offset} bytes of output were lost: they came faster than they were read"
                )
            offset = chunk.offset + len(chunk.data)
            print_json(chunk) if as_json else _pass_on(chunk)
    except (KeyboardInterrupt, SystemExit, OSError):
        with suppress(BayError):
            proc.kill()
        raise
    return _ended(proc, as_json)


def _pass_on(chunk: "OutputChunk") -> None:
    stream = sys.stderr if chunk.stream == "stderr" else sys.stdout
    stream.buffer.write(chunk.data)
    stream.buffer.flush()


def _ended(proc: "Proc", as_json: bool) -> int:
    # Only the exec itself is sure to say whether a signal was its time limit.
    info = proc.info if proc.info.signal is None else proc.refresh()
    if as_json:
        print_json(
            {
                "exec_id": info.id,
                "state": info.state,
                "exit_code": info.exit_code,
                "signal": info.signal,
                "timed_out": info.timed_out,
            }
        )
    if info.timed_out:
        note("the command ran out of time and was ended")
        return TIMED_OUT
    if info.signal is not None:
        return 128 + info.signal
    if info.exit_code is None:
        raise BayError(f"{info.id} was lost: its sandbox stopped before the command ended")
    return info.exit_code


def _stdin(wanted: bool) -> bytes | None:
    return sys.stdin.buffer.read() if wanted else None


def _copy_pair(text: str) -> tuple[str, str]:
    source, _, target = text.rpartition(":")
    if not source:
        raise InvalidArgument(f"--cp takes SRC:DST, not {text!r}")
    if not os.path.exists(source):
        raise InvalidArgument(f"there is no local file {source!r}")
    return source, target


@contextmanager
def _signals_end_it() -> Generator[None, None, None]:
    """TERM and HUP unwind like Ctrl-C does, so that what was made is given back."""
    before = {number: signal.signal(number, _leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)
