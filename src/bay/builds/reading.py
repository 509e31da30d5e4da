"""Reads the rest of an instruction's line: flags, assignments, durations and the words of a health check."""

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from bay.builds.lines import Instruction, json_form
from bay.builds.problems import fault, unsupported
from bay.builds.words import first_word, split_assignments
from bay.errors import InvalidArgument

FLAGS = {
    "COPY": frozenset({"chown", "chmod", "from", "link"}),
    "ADD": frozenset({"chown", "chmod"}),
    "FROM": frozenset({"platform"}),
    "RUN": frozenset({"mount"}),
    "HEALTHCHECK": frozenset({"interval", "timeout", "start-period", "start-interval", "retries"}),
}
"""The flags of the subset; all other instructions take none."""

MAX_FLAGS = 32
"""Flags of one instruction."""

_SWITCHES = frozenset({"link"})
_FLAG = re.compile(r"--([a-z-]*)(?:=(.*))?", re.DOTALL)
_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)", re.ASCII)
_LONGEST_DURATION = 64
"""Characters, so that the pattern, which looks at a row of digits again and again, sees few."""
_SECONDS = {
    "ns": Decimal("1e-9"), "us": Decimal("1e-6"), "µs": Decimal("1e-6"), "μs": Decimal("1e-6"),
    "ms": Decimal("1e-3"), "s": Decimal(1), "m": Decimal(60), "h": Decimal(3600),
}  # fmt: skip
_YEAR_S = 366 * 86_400
_MAX_RETRIES = 1_000_000


def flags_of(one: Instruction, escape: str) -> tuple[dict[str, str], str]:
    """The flags in front, and what stands behind them. Raises InvalidArgument for another flag, and for one
    that stands there twice.
    """
    listed, rest = listed_flags(one, escape)
    return dict(listed), rest


def listed_flags(one: Instruction, escape: str) -> tuple[list[tuple[str, str]], str]:
    """The same with the mounts of RUN, of which there may be several."""
    found: list[tuple[str, str]] = []
    rest = one.text
    while rest.startswith("--"):
        word = first_word(rest, escape)
        rest = rest[len(word) :].lstrip()
        if word == "--":
            break
        name, value = _flag(one, word)
        if name != "mount" and name in (other for other, _ in found):
            raise fault(one.line, f"--{name} stands there twice; leave one out")
        if len(found) >= MAX_FLAGS:
            raise fault(one.line, f"there are more than {MAX_FLAGS} flags, the limit")
        found.append((name, value))
    return found, rest


def _flag(one: Instruction, word: str) -> tuple[str, str]:
    match = _FLAG.fullmatch(word)
    if match is None or match[1] not in FLAGS.get(one.keyword, ()):
        raise unsupported(one.line, f"{one.keyword} {word.partition('=')[0][:40]}")
    if match[1] in _SWITCHES and match[2] in (None, "true", "false"):
        return match[1], match[2] or "true"
    if not match[2]:
        raise fault(one.line, f"--{match[1]} needs a value: write --{match[1]}=VALUE")
    return match[1], match[2]


def assignments(text: str, keyword: str, escape: str) -> list[tuple[str, str]]:
    """The pairs of `NAME=VALUE …`, or the one pair of the old form `NAME VALUE`; quotes are still there."""
    words = split_assignments(text, escape)
    if words and "=" not in words[0]:
        name, *rest = text.split(maxsplit=1)
        if not rest:
            raise InvalidArgument(f"{keyword} {name[:80]} has no value; write {keyword} {name[:80]}=VALUE")
        return [(name, rest[0])]
    for word in words:
        if "=" not in word:
            raise InvalidArgument(f"{word[:80]!r} is not NAME=VALUE; put quotes around a value with blanks")
    pairs = [word.partition("=") for word in words]
    return [(name, value) for name, _, value in pairs]


def arguments(text: str, escape: str) -> list[tuple[str, str | None]]:
    """The names of an ARG, each with its default where it has one."""
    pairs = [word.partition("=") for word in split_assignments(text, escape)]
    if not all(name for name, _, _ in pairs):
        raise InvalidArgument("an argument has no name; write ARG NAME or ARG NAME=DEFAULT")
    return [(name, value if equals else None) for name, equals, value in pairs]


def healthcheck(flags: Mapping[str, str], text: str) -> dict[str, Any]:
    """The check, in the form of `ImageConfig.to_json`. None stands for Docker's default."""
    kind, *rest = text.split(maxsplit=1)
    command = "".join(rest)
    if kind.upper() == "NONE" and not command and not flags:
        return _check(("NONE",), {})
    if kind.upper() != "CMD" or not command:
        raise InvalidArgument("HEALTHCHECK takes [OPTIONS] CMD COMMAND, or NONE alone")
    argv = json_form(command)
    if argv is None:
        return _check(("CMD-SHELL", command), flags)
    if not argv:
        raise InvalidArgument("the health check's command is empty")
    return _check(("CMD", *argv), flags)


def _check(test: tuple[str, ...], flags: Mapping[str, str]) -> dict[str, Any]:
    return {
        "test": test,
        **{f"{name.replace('-', '_')}_s": _seconds(name, flags.get(name)) for name in _PERIODS},
        "retries": _retries(flags.get("retries")),
    }


_PERIODS = ("interval", "timeout", "start-period", "start-interval")


def _seconds(name: str, text: str | None) -> float | None:
    """A duration in Go's form, such as 1m30s or 500ms; 0 is Docker's default."""
    if text is None or text == "0":
        return None
    parts = _DURATION.findall(text) if len(text) <= _LONGEST_DURATION else []
    if not parts or "".join(map("".join, parts)) != text:
        raise InvalidArgument(f"--{name}={text[:40]} is no duration; write such as 30s or 1m30s")
    seconds = float(sum(Decimal(number) * _SECONDS[unit] for number, unit in parts))
    if seconds and not 0.001 <= seconds <= _YEAR_S:
        raise InvalidArgument(f"--{name}={text[:40]} must be from 1ms to a year")
    return seconds or None


def _retries(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()) or not int(text[:9]) <= _MAX_RETRIES or len(text) > 9:
        raise InvalidArgument(f"--retries={text[:40]} must be a number from 0 to {_MAX_RETRIES}")
    return int(text) or None
