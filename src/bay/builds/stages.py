"""The stages of a Dockerfile: what each begins with, and which of them its last one needs.
https://docs.docker.com/build/building/multi-stage/
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bay.builds import words
from bay.builds.lines import Instruction
from bay.builds.mounts import mount_from
from bay.builds.problems import at_line, unsupported
from bay.builds.reading import flags_of, listed_flags
from bay.builds.steps import Origin
from bay.errors import InvalidArgument

MAX_STAGES = 32
"""Stages of one file."""

_PLACES = ("from", "mount")
"""The flags that may name a stage or an image."""

_NAME = re.compile(r"[a-z][a-z0-9_.-]{0,127}")


@dataclass(frozen=True, slots=True)
class Stage:
    """A FROM with the instructions behind it. `base` has its build arguments in place; `name` is in lower
    case, and empty where the stage has none.
    """

    name: str
    base: Origin
    instructions: tuple[Instruction, ...]


def read_stage(
    origin: Instruction,
    rest: Sequence[Instruction],
    earlier: Sequence[Stage],
    known: Mapping[str, str],
    escape: str,
    host: str | None,
) -> Stage:
    """The stage that the FROM `origin` begins; `known` are the arguments that count in it, and `host` is the
    platform of the host, None where it is not known. Raises InvalidArgument.
    """
    flags, text = flags_of(origin, escape)
    platform = words.expand(flags.get("platform", ""), known, escape)
    if platform and host is not None and platform != host:
        raise unsupported(origin.line, f"FROM --platform={platform[:40]}, where this host is {host},")
    parts = text.split()
    if len(parts) not in (1, 3) or (len(parts) == 3 and parts[1].upper() != "AS"):
        raise InvalidArgument("FROM takes IMAGE, or IMAGE AS NAME")
    if len(earlier) >= MAX_STAGES:
        raise InvalidArgument(f"there are more than {MAX_STAGES} stages, the limit")
    name = parts[2].lower() if len(parts) == 3 else ""
    if name and _NAME.fullmatch(name) is None:
        raise InvalidArgument(f"{name[:80]!r} cannot be the name of a stage; use letters, digits, - _ and .")
    if name == "scratch":
        raise InvalidArgument("no stage can be named scratch, which is the image without a file")
    if name and name in (one.name for one in earlier):
        raise InvalidArgument(f"another stage is named {name}; give each a name of its own")
    base = words.expand(parts[0], known, escape)
    if not base:
        raise InvalidArgument(f"FROM {parts[0]} names no image; give its argument a default, or a value")
    number = _number_of(base, earlier)
    return Stage(name, base if number is None else number, tuple(rest))


def origin_of(name: str, stages: Sequence[Stage], current: int) -> Origin:
    """The place that `--from` names in the stage of the number `current`: an earlier stage, or else an image.
    Raises InvalidArgument.
    """
    if "$" in name:
        raise InvalidArgument(f"--from={name[:40]} has a variable; name the stage or image itself")
    if name.isascii() and name.isdecimal():
        if len(name) > 9 or int(name) >= current:
            raise InvalidArgument(f"--from={name[:40]} is no stage before this one; they count from 0")
        return int(name)
    found = _number_of(name, stages)
    if found is None:
        return name
    if found >= current:
        raise InvalidArgument(f"--from={name[:40]} is no stage before this one; put that one before it")
    return found


def _number_of(name: str, stages: Sequence[Stage]) -> int | None:
    return next((at for at, one in enumerate(stages) if one.name and one.name == name.lower()), None)


def needed(stages: Sequence[Stage], escape: str) -> list[int]:
    """The numbers of the stages that the last one begins with or copies from, itself included, in order."""
    found, left = set[int](), [len(stages) - 1]
    while left:
        if (at := left.pop()) not in found:
            found.add(at)
            left += [one for one in _origins(stages, at, escape) if isinstance(one, int)]
    return sorted(found)


def images_copied(stages: Sequence[Stage], numbers: Sequence[int], escape: str) -> list[str]:
    """The references of images that those stages copy from, or mount."""
    found = [one for at in numbers for one in _copied(stages, at, escape) if isinstance(one, str)]
    if len(set(found)) > MAX_STAGES:
        raise InvalidArgument(f"the copies name more than {MAX_STAGES} images, the limit")
    return list(dict.fromkeys(found))


def _origins(stages: Sequence[Stage], at: int, escape: str) -> list[Origin]:
    return [stages[at].base, *_copied(stages, at, escape)]


def _copied(stages: Sequence[Stage], at: int, escape: str) -> list[Origin]:
    found: list[Origin] = []
    for one in stages[at].instructions:
        if one.keyword in ("COPY", "RUN"):
            with at_line(one.line):
                flags, _ = listed_flags(one, escape)
                names = [
                    value if name == "from" else mount_from(value) for name, value in flags if name in _PLACES
                ]
                found += [origin_of(name, stages, at) for name in names if name is not None]
    return found
