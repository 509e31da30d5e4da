"""The commands `ssh-proxy` and `ssh-config`: a stock OpenSSH client for an SSH server in the sandbox."""

import os
import shlex
import shutil
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bay.cli.complete import NameArgument, complete_names
from bay.cli.output import print_json, print_line
from bay.cli.state import CallTarget, JsonOption, connect, state_of
from bay.cli.terminal.raw import write_all
from bay.errors import BayError, InvalidArgument

if TYPE_CHECKING:
    from bay.client import Box, Tunnel

STDIN, STDOUT = 0, 1
SSH_PORT = 22
_READ_BYTES = 64 << 10

PortOption = Annotated[
    int, typer.Option(metavar="PORT", min=1, max=65_535, help="Port of the SSH server in the sandbox.")
]


def ssh_proxy(
    ctx: typer.Context, name: NameArgument, port: PortOption = SSH_PORT, as_json: JsonOption = False
) -> None:
    """Connect stdin and stdout to a port of a sandbox: a ProxyCommand for ssh, and a netcat."""
    with connect(ctx) as client, client.sandboxes.get(name).tunnel(port) as tunnel:
        threading.Thread(target=_send, args=(tunnel,), daemon=True).start()
        while data := tunnel.receive():
            write_all(STDOUT, data)


def ssh_config(
    ctx: typer.Context,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="The sandbox's name or id; default: all of yours.",
            autocompletion=complete_names,
        ),
    ] = None,
    user: Annotated[str, typer.Option(metavar="USER", help="Login user.")] = "ship",
    port: PortOption = SSH_PORT,
    as_json: JsonOption = False,
) -> None:
    """Print lines for ~/.ssh/config, so that `ssh bay-NAME` leads into a sandbox."""
    with connect(ctx) as client:
        boxes = [client.sandboxes.get(name)] if name else list(client.sandboxes.list())
        where = _where(state_of(ctx).target(), client.base_url)
    for box in boxes:
        lines = _block(box, where, user, port)
        if as_json:
            print_json({"sandbox": box.id, "host": lines[0].split()[1], "config": "\n".join(lines)})
        else:
            print_line("\n".join(lines))


def _send(tunnel: "Tunnel") -> None:
    """Send stdin, to its end. The receiving side reports a broken tunnel."""
    with suppress(BayError, OSError):
        while data := os.read(STDIN, _READ_BYTES):
            tunnel.send(data)
        tunnel.send_eof()


def _where(target: CallTarget, url: str) -> tuple[str, ...]:
    """The options that lead to the same Bay later; none for the one on this machine: its port may change."""
    if target.context is not None:
        return ("--context", target.context.name)
    return ("--url", url) if target.url_from in ("--url", "BAY_URL") else ()


def _block(box: "Box", where: tuple[str, ...], user: str, port: int) -> list[str]:
    name = box.name or box.id
    command = [_executable(), *where, "ssh-proxy", "--port", str(port), name]
    return [
        f"Host bay-{name}",
        f"    User {_quoted('--user', user)}",
        f"    ProxyCommand {command_line(command)}",
        # Of the sandbox and not of its name, which another may have tomorrow: its host keys are others then.
        f"    HostKeyAlias {box.id}",
        "    # Bay has made sure that it is this sandbox: its key may be taken at first sight, and must not change.",
        "    StrictHostKeyChecking accept-new",
    ]


def _executable() -> str:
    """This very `bay`, for a shell whose PATH may lead to another or to none."""
    called = Path(sys.argv[0])
    return (
        str(called.absolute()) if called.name == "bay" and called.exists() else shutil.which("bay") or "bay"
    )


def command_line(words: list[str]) -> str:
    """As ssh_config(5) takes it: for a shell, after % has been looked for."""
    return shlex.join(words).replace("%", "%%")


def _quoted(option: str, text: str) -> str:
    """A value in quotes; characters that quotes cannot hold are refused."""
    if not text.isprintable() or '"' in text or "\\" in text or not text:
        raise InvalidArgument(f"{option} takes the name of a user, not {text!r}")
    return f'"{text}"'
