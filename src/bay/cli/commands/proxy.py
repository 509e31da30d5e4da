"""The command `proxy`: a sandbox's ports on this machine."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, cast

import typer

from bay.cli.complete import NameArgument
from bay.cli.output import print_json, print_line
from bay.cli.state import JsonOption, lazily, state_of
from bay.errors import InvalidArgument

_PAIR = re.compile(r"(\d{1,5})(?::(\d{1,5}))?", re.ASCII)
_LAST_PORT = 65_535


@dataclass(frozen=True, slots=True, kw_only=True)
class Forward:
    """A forwarded port: connections to `local` here (0: any free port) go to `remote` there."""

    local: int
    remote: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyPlan:
    """The parameters of a proxy: the Bay, the sandbox, the local address and the ports."""

    url: str | None
    api_key: str | None
    name: str
    bind: str
    forwards: tuple[Forward, ...]


def proxy(
    ctx: typer.Context,
    pairs: Annotated[
        list[str],
        typer.Argument(
            metavar="LOCAL[:REMOTE]", help="A local port, 0 for any free one, and a port in the sandbox."
        ),
    ],
    name: NameArgument,
    bind: Annotated[
        str, typer.Option(metavar="ADDRESS", help="The local address to listen on.")
    ] = "127.0.0.1",
    as_json: JsonOption = False,
) -> int:
    """Forward ports of this machine to a sandbox, until interrupted."""
    forwards = tuple(map(_forward, pairs))
    url, api_key = state_of(ctx).reach()
    plan = ProxyPlan(url=url, api_key=api_key, name=name, bind=bind, forwards=forwards)

    def say(address: str, port: int, remote: int) -> None:
        if as_json:
            print_json({"address": address, "port": port, "sandbox": name, "remote": remote})
        else:
            print_line(f"{written(address, port)} -> {name}:{remote}")

    run = cast(
        "Callable[[ProxyPlan, Callable[[str, int, int], None]], int]", lazily("bay.cli.proxying", "run")
    )
    return run(plan, say)


def written(address: str, port: int) -> str:
    """An address with its port, an IPv6 one in brackets."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _forward(text: str) -> Forward:
    found = _PAIR.fullmatch(text)
    local, remote = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not (local <= _LAST_PORT and 1 <= remote <= _LAST_PORT):
        raise InvalidArgument(f"{text!r} is not LOCAL:REMOTE, a pair of ports such as 8080:80, 0:80 or 8080")
    return Forward(local=local, remote=remote)
