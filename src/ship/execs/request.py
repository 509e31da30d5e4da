"""The request to start an exec, read from JSON and checked."""

import base64
import binascii
import math
import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from ship.errors import InvalidArgument
from ship.process.accounts import Accounts
from ship.process.identity import Identity, find_shell
from ship.process.interpreter import tool_command
from ship_protocol import RING_BYTES, TERMINAL_EXTENT

DEFAULT_RING_BYTES = 1 << 20
DEFAULT_ROWS, DEFAULT_COLS = 24, 80

_ID = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_TOOLS = ("build",)
_LONGEST_S = 365 * 86400.0
_SIGNALS = {name.removeprefix("SIG"): int(found) for name, found in signal.Signals.__members__.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecRequest:
    """One exec to be. Times in seconds, sizes in bytes."""

    id: str
    argv: tuple[str, ...]
    cwd: str | None
    environment: dict[str, str]
    identity: Identity
    is_tool: bool = False
    """Whether it is one of Ship's tools, which gets no variables of the sandbox."""
    stdin: bytes | None = None
    stdin_open: bool = False
    tty: bool = False
    rows: int = DEFAULT_ROWS
    cols: int = DEFAULT_COLS
    timeout_s: float | None = None
    max_run_after_disconnect_s: float | None = None
    ring_bytes: int = DEFAULT_RING_BYTES
    wait_for_reader_s: float | None = None


def read(body: object, accounts: Accounts, *, local: bool) -> ExecRequest:
    """The order in a JSON `body`. Raises InvalidArgument or Forbidden. Unknown fields are for newer Ships."""
    given = json_object(body, "the body")
    tty = _flag(given, "tty")
    rows, cols = size(given.get("rows", DEFAULT_ROWS), given.get("cols", DEFAULT_COLS))
    ring_bytes, tool = given.get("ring_bytes"), optional_text(given, "tool")
    return ExecRequest(
        id=identifier(given.get("id")),
        argv=_argv(given.get("command"), given.get("argv")) if tool is None else _tool(tool, given, local),
        is_tool=tool is not None,
        cwd="/" if tool is not None and not local else optional_text(given, "cwd"),
        environment=environment(given.get("env")),
        identity=accounts.find(given.get("user")),
        stdin=_stdin(given.get("stdin")),
        stdin_open=_flag(given, "stdin_open") or tty,
        tty=tty,
        rows=rows,
        cols=cols,
        timeout_s=_limit(given, "timeout_s"),
        max_run_after_disconnect_s=_limit(given, "max_run_after_disconnect_s"),
        ring_bytes=DEFAULT_RING_BYTES if ring_bytes is None else whole(ring_bytes, "ring_bytes", RING_BYTES),
        wait_for_reader_s=_limit(given, "wait_for_reader_s"),
    )


def json_object(value: object, what: str) -> dict[str, object]:
    """`value`, which `what` names, as an object. Raises InvalidArgument."""
    if not isinstance(value, dict):
        raise InvalidArgument(f"{what} must be a JSON object")
    return cast("dict[str, object]", value)


def identifier(value: object) -> str:
    """An id as callers choose them. Raises InvalidArgument."""
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise InvalidArgument("id must have 1 to 128 characters of A-Z a-z 0-9 _ . -", field="id")
    return value


def _argv(command: object, argv: object) -> tuple[str, ...]:
    if (command is None) == (argv is None):
        raise InvalidArgument("give one of command and argv", field="command")
    if command is not None:
        return (find_shell() or "/bin/sh", "-c", _text(command, "command"))
    return words(argv)


def _tool(name: str, given: Mapping[str, object], local: bool) -> tuple[str, ...]:
    if name not in _TOOLS:
        raise InvalidArgument(f"there is no tool {name[:40]!a}", field="tool")
    return (*tool_command(name, local), *words(given.get("argv")))


def words(argv: object) -> tuple[str, ...]:
    """A program and its arguments. Raises InvalidArgument."""
    if not isinstance(argv, list) or not argv:
        raise InvalidArgument("argv must be a non-empty list of strings", field="argv")
    found = tuple(_text(word, "argv") for word in cast("list[object]", argv))
    if not found[0]:
        raise InvalidArgument("argv[0] is empty; name a program", field="argv")
    return found


def environment(value: object) -> dict[str, str]:
    """Variables, none when not given. Raises InvalidArgument."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidArgument("env must be an object of strings", field="env")
    pairs = cast("dict[object, object]", value).items()
    found = {_text(name, "env"): _text(text, "env") for name, text in pairs}
    if any(not name or "=" in name for name in found):
        raise InvalidArgument("names in env may not be empty or contain =", field="env")
    return found


def _stdin(value: object) -> bytes | None:
    if value is None:
        return None
    try:
        return base64.b64decode(_text(value, "stdin"), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidArgument("stdin must be base64", field="stdin") from error


def _limit(given: Mapping[str, object], field: str) -> float | None:
    value = given.get(field)
    return None if value is None else seconds(value, field, positive=True)


def _flag(given: Mapping[str, object], field: str) -> bool:
    value = given.get(field)
    if value is not None and not isinstance(value, bool):
        raise InvalidArgument(f"{field} must be true or false", field=field)
    return bool(value)


def size(rows: object, cols: object) -> tuple[int, int]:
    """A terminal's size in characters. Raises InvalidArgument."""
    return whole(rows, "rows", TERMINAL_EXTENT), whole(cols, "cols", TERMINAL_EXTENT)


def whole(value: object, name: str, most: int, field: str | None = None) -> int:
    """`value`, a whole number from 1 to `most`. Raises InvalidArgument, of `name` if not of its `field`."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise InvalidArgument(f"{name} must be between 1 and {most}", field=field or name)
    return value


def signal_number(value: object) -> int:
    """The number of a signal given as "INT", "SIGINT" or 2. Raises InvalidArgument for an unknown one."""
    number = _SIGNALS.get(value.upper().removeprefix("SIG")) if isinstance(value, str) else value
    if isinstance(number, bool) or not isinstance(number, int) or number not in signal.valid_signals():
        raise InvalidArgument("signal must be the name or number of a signal, such as TERM", field="signal")
    return int(number)


def seconds(value: object, field: str, *, positive: bool = False) -> float:
    """`value` as a number of seconds between 0 and a year. Raises InvalidArgument."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InvalidArgument(f"{field} must be a number of seconds", field=field)
    if value < 0 or value > _LONGEST_S or (positive and value == 0):
        least = "above 0" if positive else "0"
        raise InvalidArgument(f"{field} must be {least} and at most a year", field=field)
    return float(value)


def optional_text(given: Mapping[str, object], field: str) -> str | None:
    """The text of a field, None when it is missing. Raises InvalidArgument."""
    value = given.get(field)
    return None if value is None else _text(value, field)


def _text(value: object, field: str) -> str:
    if not isinstance(value, str):
        raise InvalidArgument(f"{field} must be text", field=field)
    # Lone surrogates are neither UTF-8 nor, but for these 128, bytes in disguise.
    if "\0" in value or any("\ud800" <= c <= "\udfff" and not "\udc80" <= c <= "\udcff" for c in value):
        raise InvalidArgument(f"{field} has a NUL or an unpaired surrogate", field=field)
    return value
