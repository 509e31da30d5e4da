"""Shell completion of sandboxes, profiles and paths: one short try, so that it never holds up the typing."""

import io
import os
import sys
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, redirect_stdout
from glob import escape, iglob
from typing import Annotated, Any

import typer

from bay.cli.state import DEFAULT_SANDBOX, State, client_of, lazily
from bay.errors import BayError

_BASH = "complete_bash"
_PATIENCE_S = 2.0
_MAX_CANDIDATES = 500
_EVALUATED = frozenset("\\$`\"'\n")
"""The script for zsh evaluates what is offered, and a program in a sandbox chooses the names of its files."""


def complete_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names, and ids of sandboxes without a name."""
    return _offered(ctx, lambda client: _names(client, incomplete))


def complete_profiles(ctx: typer.Context, incomplete: str) -> list[str]:
    """The kinds of sandbox there are."""
    return _offered(ctx, lambda client: (profile.id for profile in client.profiles()))


def complete_contexts(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of contexts."""
    try:
        config: Any = lazily("bay.cli.contexts", "load")()
    except BayError:
        return []
    return [name for name in config.contexts if name.startswith(incomplete)]


def complete_paths(ctx: typer.Context, incomplete: str) -> list[str]:
    """Paths here, and `NAME:PATH`."""
    name, colon, path = incomplete.partition(":")
    if colon and "/" not in name:
        return _offered(ctx, lambda client: _inside(client, _meant(ctx, name), f"{name}:", path))
    found = filter(_is_plain, iglob(f"{escape(incomplete)}*"))
    here = [path + ("/" if os.path.isdir(path) else "") for path in found]
    return [*here, *_offered(ctx, lambda client: (f"{found}:" for found in _names(client, incomplete)))]


def _offered(ctx: Any, ask: Callable[[Any], Iterable[str]]) -> list[str]:
    try:
        target = _state(ctx).target()
        if target.context and target.key_from == target.context.key_place and target.context.api_key_command:
            return []  # a password manager would ask, at the press of a key
        url, api_key = target.url, target.key()
        with client_of(url, api_key, retry_s=0, timeout_s=_PATIENCE_S) as client:
            safe = filter(_is_plain, ask(client))
            return [text for text, _ in zip(safe, range(_MAX_CANDIDATES), strict=False)]
    except BayError:
        return []


def _is_plain(text: str) -> bool:
    return text.isprintable() and not _EVALUATED & set(text)


def _state(ctx: Any) -> State:
    """The options before the command; while words are completed, no command keeps them."""
    given: Any = ctx.find_root().params
    return State(given.get("url"), given.get("api_key"), context=given.get("context"))


def _meant(ctx: Any, name: str) -> str:
    return _state(ctx).default_sandbox() if name == DEFAULT_SANDBOX else name


def _names(client: Any, beginning: str) -> Iterable[str]:
    return (
        box.name or box.id for box in client.sandboxes.list() if (box.name or box.id).startswith(beginning)
    )


def _inside(client: Any, name: str, before: str, path: str) -> Iterable[str]:
    directory, slash, _ = path.rpartition("/")
    box = client.sandboxes.get(name)
    if box.info.compute not in ("running", "warm"):
        return  # a cold one would be started
    for info in box.files.walk(f"{directory}{slash}" or ".", depth=1):
        last = info.path.rstrip("/").rpartition("/")[2]
        yield f"{before}{directory}{slash}{last}{'/' if info.is_dir else ''}"


@contextmanager
def bash_splits_at_colons() -> Generator[None, None, None]:
    """Bash splits `box:src` into three words and replaces the last: join them, and print that part alone."""
    words = os.environ.get("COMP_WORDS", "").split("\n")
    if os.environ.get("_BAY_COMPLETE") != _BASH or ":" not in words:
        yield
        return
    current = int(os.environ.get("COMP_CWORD") or 0)
    joined, place = _joined(words[: current + 1])
    os.environ["COMP_WORDS"], os.environ["COMP_CWORD"] = "\n".join(joined), str(place)
    kept = joined[place].rpartition(":")[0] + ":" if ":" in joined[place] else ""
    printed = io.StringIO()
    try:
        with redirect_stdout(printed):
            yield
    finally:
        sys.stdout.write("".join(f"{line.removeprefix(kept)}\n" for line in printed.getvalue().splitlines()))


def _joined(words: list[str]) -> tuple[list[str], int]:
    """The words as they were typed, and the place of the last one."""
    typed = [""]
    for word in words:
        if word == ":" or typed[-1].endswith(":"):
            typed[-1] += word
        else:
            typed.append(word)
    return typed[1:], len(typed) - 2


NameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="The sandbox's name or id.", autocompletion=complete_names)
]
NamesArgument = Annotated[
    list[str],
    typer.Argument(metavar="NAME", help="Names or ids of sandboxes.", autocompletion=complete_names),
]
