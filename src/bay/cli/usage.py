"""Usage errors: texts with the way out, also for users of other tools."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from bay import validation_words

_OPTIONS = {
    "-w": "--cwd",
    "--workdir": "--cwd",
    "-u": "--user",
    "--net": "--network",
    "-p": "`bay proxy LOCAL:REMOTE NAME` or `bay url NAME PORT`",
    "--publish": "`bay proxy LOCAL:REMOTE NAME` or `bay url NAME PORT`",
    "-v": "`bay cp`, or --cp SRC:DST of `bay run`, or --cargo of `bay create`",
    "--volume": "`bay cp`, or --cp SRC:DST of `bay run`, or --cargo of `bay create`",
    "--mount": "`bay cp`, or --cp SRC:DST of `bay run`, or --cargo of `bay create`",
    "-m": "--profile, which has the limits",
    "--memory": "--profile, which has the limits",
    "--cpus": "--profile, which has the limits",
    "--privileged": "--user root",
    "-o": "--json",
    "--output": "--json",
    "--format": "--json",
}
"""Other tools' options, and ours in their place."""

_COMMANDS = {
    "login": "`bay context add`, or BAY_URL and BAY_API_KEY, say where Bay is and who calls",
    "config": "`bay context` keeps servers by name; BAY_URL and BAY_API_KEY say it for this shell",
    "up": "`bay serve` starts the server",
    "stats": "`bay top` shows what all sandboxes use, and `bay usage NAME` what one does",
    "volume": "`bay cargo` has files that outlive sandboxes",
    "snapshot": "`bay checkpoint` keeps files as they are",
    "port-forward": "`bay proxy LOCAL:REMOTE NAME` carries ports",
}


def words_for(error: Any) -> str:
    """The text of a usage error, on one line. `error` is click's, or that of Typer's copy of click."""
    path = error.ctx.command_path if error.ctx else "bay"
    if problems := getattr(error.__cause__, "errors", None):  # pydantic's, by which Typer reads values
        error.message = validation_words.words(problems()[0])
    message = error.format_message().rstrip(".")
    return f"{message}{_instead(error)} (see `{path} --help`)"


def no_command(path: str, word: str, known: Iterable[str]) -> str:
    """The error for an unknown command."""
    near = [f"`{path} {name}`" for name in get_close_matches(word, known, 2)]
    hint = _COMMANDS.get(word) or (f"did you mean {' or '.join(near)}?" if near else "")
    return f"there is no command {word!r}{'; ' if hint else ''}{hint} (see `{path} --help`)"


def _instead(error: Any) -> str:
    if type(error).__name__ == "MissingParameter" and "sandbox" in (getattr(error.param, "help", None) or ""):
        return "; `bay ls` lists sandboxes, and `bay use` sets a default"
    words = _OPTIONS.get(getattr(error, "option_name", None) or "")
    known = [name for param in error.ctx.command.params for name in param.opts] if error.ctx else []
    # An option that this command lacks would be a false trail.
    return (
        ""
        if words is None or (words.startswith("--") and words.split()[0] not in known)
        else f"; here it is {words}"
    )
