"""Reads `RUN --mount`: directories and secrets that a command has while it runs.
https://docs.docker.com/reference/dockerfile/#run---mount
"""

import posixpath
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from bay.builds.globs import is_pattern
from bay.builds.problems import fault, unsupported
from bay.builds.steps import MOUNTS_KEPT, SECRETS, DirectoryMount, FilesMount, Origin, Run, SecretMount, Step
from bay.errors import InvalidArgument

MAX_MOUNTS = 20
"""Mounts of one command."""

_SAME = {"dst": "target", "destination": "target", "src": "source", "ro": "readonly", "rw": "readwrite"}
_OPTIONS = {
    "bind": frozenset({"target", "source", "from", "readwrite", "readonly"}),
    "cache": frozenset({"id", "target", "readwrite", "sharing", "mode", "uid", "gid"}),
    "tmpfs": frozenset({"target", "size"}),
    "secret": frozenset({"id", "target", "required", "env"}),
}
_WAYS_OUT = {"ssh": "give the key as a secret"}
_BOOLEANS = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}
_ID = re.compile(r"[^\x00-\x1f\x7f]{1,256}")
_NUMBER = re.compile(r"[0-9]{1,10}")


@dataclass(frozen=True, slots=True)
class Mounts:
    """All that one command has while it runs."""

    directories: tuple[DirectoryMount, ...] = ()
    files: tuple[FilesMount, ...] = ()
    secrets: tuple[SecretMount, ...] = ()


NO_MOUNTS = Mounts()


def mount_from(value: str) -> str | None:
    """The place that a `--mount=VALUE` has its files of, as it is written; None for the context."""
    return _options(value).get("from")


def read_mounts(
    values: Iterable[str],
    word: Callable[[str], str],
    origin_of: Callable[[str], Origin],
    working_dir: str,
    line: int,
) -> Mounts:
    """The mounts of the flags `--mount=VALUE`; `word` replaces variables, and `origin_of` knows what `from`
    names. Raises InvalidArgument.
    """
    directories: list[DirectoryMount] = []
    files: list[FilesMount] = []
    secrets: list[SecretMount] = []
    for value in values:
        written = _options(value)
        kind = written.pop("type", "bind")
        if kind in _WAYS_OUT:
            raise unsupported(line, f"RUN --mount=type={kind}", _WAYS_OUT[kind])
        if kind not in _OPTIONS:
            raise InvalidArgument(f"--mount has the type {kind[:40]!r}; use {', '.join(_OPTIONS)}")
        if unknown := written.keys() - _OPTIONS[kind]:
            raise unsupported(line, f"RUN --mount=type={kind},{min(unknown)[:40]}")
        options = {name: word(text) for name, text in written.items()}
        if kind == "secret":
            secrets.append(_secret(options, working_dir))
        elif kind == "bind":
            place = written.get("from")
            files.append(_files(options, None if place is None else origin_of(place), working_dir))
        else:
            directories.append(_directory(kind, options, working_dir))
    targets = [one.target for one in (*directories, *files)]
    if len(targets) + len(secrets) > MAX_MOUNTS:
        raise InvalidArgument(f"there are more than {MAX_MOUNTS} mounts, the limit")
    caches = [one.cache for one in directories if one.cache is not None]
    if len(set(caches)) < len(caches):
        raise InvalidArgument("two mounts of one command have the same cache; give each an id of its own")
    for at, one in enumerate(targets):
        if any(_is_below(other, one) or _is_below(one, other) for other in targets[:at]):
            raise InvalidArgument(f"two mounts meet at {one[:200]}; give each a directory of its own")
    return Mounts(tuple(directories), tuple(files), tuple(secrets))


def check_secrets(steps: Iterable[Step], given: Mapping[str, tuple[str | None, str | None]]) -> None:
    """Raises InvalidArgument with the line of a command that expects a secret where the build does not put
    it; `given` has the variable and the file of each secret. One that is not given is only missed where it
    is required.
    """
    for step in steps:
        for one in step.secrets if isinstance(step, Run) else ():
            if one.name not in given:
                if one.is_required:
                    raise fault(step.line, f"secret {one.name} is required; give it by --secret {one.name}")
                continue
            env, file = given[one.name]
            expected = f"{SECRETS}{one.name}" if one.is_elsewhere else one.target
            if expected is not None and (file is None if one.is_elsewhere else file != expected):
                raise fault(
                    step.line,
                    f"secret {one.name} is expected in {one.target}; give it by --secret {one.name}={expected}",
                )
            if one.env is not None and one.env != env:
                raise fault(step.line, f"secret {one.name} is expected in the variable {one.env}; give it so")


def _options(value: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in value.split(","):
        name, equals, text = part.partition("=")
        name = _SAME.get(name.strip().lower(), name.strip().lower())
        if name in found:
            raise InvalidArgument(f"--mount has {name[:40]} twice; leave one out")
        found[name] = text if equals else "true"
    return found


def _secret(options: Mapping[str, str], working_dir: str) -> SecretMount:
    target, env = options.get("target"), options.get("env")
    name = options.get("id") or posixpath.basename(target or "")
    if _ID.fullmatch(name) is None:
        raise InvalidArgument("--mount=type=secret names no secret; write id=NAME")
    if target is None and env is None:
        target = f"{SECRETS}{name}"
    place = None if target is None else _place(target, working_dir)
    required = options.get("required", "false")
    if required.lower() not in _BOOLEANS:
        raise InvalidArgument(f"--mount has required={required[:40]}; write required=true or false")
    return SecretMount(name=name, target=place, env=env, is_required=_BOOLEANS[required.lower()])


def _files(options: Mapping[str, str], origin: Origin | None, working_dir: str) -> FilesMount:
    source = posixpath.normpath(f"/{options.get('source', '')}").lstrip("/") or "."
    if is_pattern(source) or "\0" in source or len(source) > 1024:
        raise InvalidArgument("--mount=type=bind takes one file or directory, and no pattern")
    return FilesMount(target=_place(options.get("target", ""), working_dir), source=source, origin=origin)


def _directory(kind: str, options: Mapping[str, str], working_dir: str) -> DirectoryMount:
    target = _place(options.get("target", ""), working_dir)
    if kind == "tmpfs":
        return DirectoryMount(target=target, mode=0o1777)
    cache = options.get("id", target)
    if _ID.fullmatch(cache) is None:
        raise InvalidArgument("--mount=type=cache has an id that cannot be; use up to 256 plain characters")
    if options.get("sharing", "shared") not in ("shared", "private", "locked"):
        raise InvalidArgument("--mount=type=cache takes sharing=shared, private or locked")
    uid, gid = options.get("uid", "0"), options.get("gid", "0")
    if _NUMBER.fullmatch(uid) is None or _NUMBER.fullmatch(gid) is None:
        raise InvalidArgument("--mount takes uid and gid as numbers")
    mode = options.get("mode", "0755")
    if re.fullmatch(r"[0-7]{3,4}", mode) is None:
        raise InvalidArgument(f"--mount takes the mode as octal digits, such as 0755, not {mode[:40]!r}")
    return DirectoryMount(target=target, cache=cache, owner=f"{uid}:{gid}", mode=int(mode, 8))


def _place(target: str, working_dir: str) -> str:
    place = posixpath.normpath(posixpath.join(working_dir, target)) if target else "/"
    if place.strip("/") == "" or "\0" in place or len(place) > 1024 or _is_below(place, MOUNTS_KEPT):
        raise InvalidArgument("--mount needs a directory of its own; write target=PATH")
    if _is_below(SECRETS.rstrip("/"), "/" + place.lstrip("/")):
        raise InvalidArgument(
            f"--mount has the target {place[:200]}, where sandboxes have secrets; name another"
        )
    return "/" + place.lstrip("/")


def _is_below(path: str, top: str) -> bool:
    return path == top or path.startswith(f"{top}/")
