"""The rules on the names of secrets, and on the places where a sandbox finds them. Pure."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import NoReturn

from bay.errors import InvalidArgument
from bay.models import SandboxSecret

NAME = r"[A-Za-z_][A-Za-z0-9_.-]{0,63}"
MAX_VALUE = 32 * 1024
"""Characters of a value, as of any variable."""
MAX_IN_SANDBOX = 32
DIRECTORY = "/run/secrets/"

_ENV = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_FILE = re.compile(rf"{DIRECTORY}[A-Za-z0-9_-][A-Za-z0-9_.-]{{0,127}}")


def checked(given: Sequence[SandboxSecret], env: dict[str, str]) -> tuple[SandboxSecret, ...]:
    """The same, each with its place: `env` are the sandbox's other variables. Raises InvalidArgument."""
    placed = tuple(_placed(index, one) for index, one in enumerate(given))
    seen = dict[str, str]()
    for index, one in enumerate(placed):
        place = one.env or one.file or ""
        if place in seen:
            _refuse(index, f"{place} is the place of {seen[place]} too; give each secret a place of its own")
        if one.env in env:
            _refuse(index, f"{one.env} is in env as well; leave it out there, or name another variable")
        seen[place] = one.name
    return placed


def _placed(index: int, one: SandboxSecret) -> SandboxSecret:
    if one.env is not None and one.file is not None:
        _refuse(index, "give env or file, not both")
    if one.file is not None:
        if not _FILE.fullmatch(one.file):
            _refuse(index, f"file must be a name below {DIRECTORY}, such as {DIRECTORY}token")
        return one
    place = one.name if one.env is None else one.env
    if not _ENV.fullmatch(place):
        _refuse(index, f"{place} is not the name of a variable; give one as env")
    return replace(one, env=place)


def _refuse(index: int, why: str) -> NoReturn:
    raise InvalidArgument(f"secrets.{index}: {why}", details={"field": f"secrets.{index}"})
