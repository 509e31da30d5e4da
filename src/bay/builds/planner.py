"""Puts a build's plan together, from values that are final: no variables are replaced here.

It holds the rules that Dockerfiles and steps given as JSON share, and the bounds of what an image may say.
"""

import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from bay.builds import globs
from bay.builds.mounts import NO_MOUNTS, Mounts
from bay.builds.steps import (
    SCRIPT,
    SHELL,
    BuildConfig,
    BuildPlan,
    Copy,
    InlineFile,
    MakeWorkdir,
    Origin,
    Run,
    Step,
)
from bay.errors import InvalidArgument

LONGEST_ARGUMENT = (128 << 10) - 1
"""Bytes of one argument, or of a variable with its name (MAX_ARG_STRLEN)."""

MAX_VARIABLES = 256
"""Variables of an image that is built, those of its base included."""

MAX_SOURCES = 1000
"""Sources of one copy."""

_MAX_ENV = 96 << 10
_MAX_LABELS = 256 << 10
_MAX_PORTS = 1024
_LONGEST_PATH = 4095
_NAME = re.compile(r"[^=\x00-\x20\x7f]{1,256}")
_PART = r"[^\s:/\x00-\x1f\x7f]{1,128}"
_USER = re.compile(rf"{_PART}(?::{_PART})?")
_SIGNAL = re.compile(r"(?:SIG)?[A-Z][A-Z0-9]{0,15}(?:[+-][0-9]{1,2})?|[1-9][0-9]?", re.IGNORECASE)
_PORT = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?(?:/(tcp|udp|sctp))?", re.IGNORECASE)
_MODE = re.compile(r"0?[0-7]{3,4}")
_REMOTE = re.compile(r"(?:https?|ftp|git|ssh)://|git@", re.IGNORECASE)


@dataclass(slots=True)
class Planner:
    """A plan in the making, on top of an image with the config `config`."""

    config: BuildConfig
    shell: tuple[str, ...] = SHELL
    start_command: str | None = None
    steps: list[Step] = field(default_factory=list[Step])
    _has_own_cmd: bool = False

    def plan(self, unused_args: Sequence[str] = ()) -> BuildPlan:
        """The plan as it is now."""
        return BuildPlan(
            tuple(self.steps), self.config, self.start_command, self.shell, unused_args=tuple(unused_args)
        )

    @property
    def working_dir(self) -> str:
        """Where commands run now."""
        return self.config.working_dir or "/"

    def run_command(
        self,
        command: str,
        extra: Mapping[str, str],
        text: str,
        line: int = 0,
        *,
        mounts: Mounts = NO_MOUNTS,
    ) -> None:
        """A command for the shell; `extra` are variables that the image does not keep."""
        self.run((*self.shell, command), extra, text, line, mounts=mounts)

    def run(
        self,
        argv: Sequence[str],
        extra: Mapping[str, str],
        text: str,
        line: int = 0,
        *,
        script: str | None = None,
        mounts: Mounts = NO_MOUNTS,
    ) -> None:
        """A command with its arguments. The image's own variables win over `extra`."""
        if not argv or not argv[0]:
            raise InvalidArgument("RUN names no command")
        if any(len(one.encode()) > LONGEST_ARGUMENT for one in argv):
            raise InvalidArgument(
                f"the command has more than {LONGEST_ARGUMENT} bytes; copy it in as a script"
            )
        self.steps.append(
            Run(
                text=text,
                argv=tuple(argv),
                env={**extra, **self.config.env},
                user=self.config.user,
                working_dir=self.working_dir,
                script=script,
                mounts=mounts.directories,
                files=mounts.files,
                secrets=mounts.secrets,
                line=line,
            )
        )

    def run_script(
        self,
        script: str,
        extra: Mapping[str, str],
        text: str,
        line: int = 0,
        *,
        mounts: Mounts = NO_MOUNTS,
    ) -> None:
        """A file with a `#!` line, which the shell runs."""
        self.run((*self.shell, SCRIPT), extra, text, line, script=script, mounts=mounts)

    def copy(
        self,
        sources: Sequence[str],
        target: str,
        *,
        origin: Origin | None = None,
        inline: Sequence[InlineFile] = (),
        owner: str = "",
        mode: str | None = None,
        refuses_archives: bool = False,
        text: str,
        line: int = 0,
    ) -> None:
        """Files of the context or of `origin`, and files that stand in the build itself."""
        if not target or not (sources or inline):
            raise InvalidArgument("a copy needs one source or more, and then a target")
        if len(sources) > MAX_SOURCES:
            raise InvalidArgument(f"a copy has {len(sources)} sources; the limit is {MAX_SOURCES}")
        place = self._target(target)
        if len(sources) + len(inline) > 1 and not place.endswith("/"):
            raise InvalidArgument(f"several sources need a directory as their target: write {target}/")
        for one in inline:
            _check_inline(one)
        found = tuple(dict.fromkeys(map(_source, sources)))
        if origin is not None and inline:
            raise InvalidArgument(
                "--from copies files of another place, and a heredoc is none; copy it apart"
            )
        self.steps.append(
            Copy(
                text=text,
                sources=found,
                target=place,
                origin=origin,
                inline=tuple(inline),
                owner=_owner(owner),
                mode=_mode(mode),
                refuses_archives=refuses_archives,
                line=line,
            )
        )

    def env(self, values: Mapping[str, str]) -> None:
        """Variables of the commands after it, and of the image."""
        for name, value in values.items():
            _check_name(name, "variable")
            if len(f"{name}={value}".encode()) > LONGEST_ARGUMENT:
                raise InvalidArgument(f"the variable {name} has more than {LONGEST_ARGUMENT} bytes")
        together = {**self.config.env, **values}
        if len(together) > MAX_VARIABLES:
            raise InvalidArgument(f"there are {len(together)} variables; a command takes {MAX_VARIABLES}")
        _check_size(together, _MAX_ENV, "variables")
        self.config = replace(self.config, env=together)

    def labels(self, values: Mapping[str, str]) -> None:
        """Labels of the image."""
        for name in values:
            _check_name(name, "label", _LABEL)
        together = {**self.config.labels, **values}
        _check_size(together, _MAX_LABELS, "labels")
        self.config = replace(self.config, labels=together)

    def workdir(self, path: str, text: str, line: int = 0) -> None:
        """Where the commands after it run; a relative path is below the one before."""
        place = self._place(path)
        self.steps.append(MakeWorkdir(text=text, path=place, user=self.config.user, line=line))
        self.config = replace(self.config, working_dir=place)

    def user(self, user: str) -> None:
        """Who runs the commands after it."""
        if _USER.fullmatch(user) is None:
            raise InvalidArgument(f"{user[:80]!r} is not USER or USER:GROUP, by name or number")
        self.config = replace(self.config, user=user)

    def cmd(self, argv: Sequence[str]) -> None:
        """The image's command."""
        self._has_own_cmd = True
        self.config = replace(self.config, cmd=tuple(argv))

    def entrypoint(self, argv: Sequence[str]) -> None:
        """The image's entry point. The command of its base goes: that was meant for another one."""
        cmd = self.config.cmd if self._has_own_cmd else ()
        self.config = replace(self.config, entrypoint=tuple(argv), cmd=cmd)

    def expose(self, ports: Sequence[str]) -> None:
        """Ports that programs of the image listen on."""
        found = dict.fromkeys((*self.config.exposed_ports, *map(_port, ports)))
        if len(found) > _MAX_PORTS:
            raise InvalidArgument(f"more than {_MAX_PORTS} ports are exposed; name a range")
        self.config = replace(self.config, exposed_ports=tuple(found))

    def stop_signal(self, signal: str) -> None:
        """The signal that ends the image's command."""
        if _SIGNAL.fullmatch(signal) is None:
            raise InvalidArgument(f"{signal[:80]!r} is no signal; write such as SIGTERM or 15")
        self.config = replace(self.config, stop_signal=signal)

    def healthcheck(self, check: Mapping[str, Any]) -> None:
        """How the image's command is checked, in the form of `ImageConfig.to_json`."""
        self.config = replace(self.config, healthcheck=check)

    def _place(self, path: str) -> str:
        if not path or "\0" in path:
            raise InvalidArgument("the path is empty, or has a NUL")
        joined = posixpath.normpath(posixpath.join("/", self.working_dir, path))
        if len(joined.encode()) > _LONGEST_PATH:
            raise InvalidArgument(f"a path has more than {_LONGEST_PATH} bytes, the limit")
        return "/" + joined.lstrip("/")

    def _target(self, path: str) -> str:
        """The place for files, with a / at its end where they go below it."""
        place = self._place(path)
        is_directory = path.endswith("/") or posixpath.basename(path) in (".", "..")
        return f"{place.rstrip('/')}/" if is_directory else place


_LABEL = re.compile(r"[^\x00-\x1f\x7f]{1,256}")


def _check_name(name: str, what: str, form: re.Pattern[str] = _NAME) -> None:
    if form.fullmatch(name) is None:
        raise InvalidArgument(f"{name[:80]!r} cannot be the name of a {what}; write NAME=VALUE")


def _check_size(values: Mapping[str, str], most: int, what: str) -> None:
    if sum(len(f"{name}={value}".encode()) for name, value in values.items()) > most:
        raise InvalidArgument(f"all {what} together have more than {most >> 10} KiB, the limit")


def _check_inline(one: InlineFile) -> None:
    if not one.name or "/" in one.name or one.name in (".", ".."):
        raise InvalidArgument(f"{one.name[:80]!r} cannot be the name of a file")


def _source(path: str) -> str:
    """A path or pattern below the context's top; `..` does not lead out of it."""
    if _REMOTE.match(path):
        raise InvalidArgument(f"{path[:200]} is not in the context; fetch it in a RUN step")
    if not path or "\0" in path or len(path.encode()) > _LONGEST_PATH:
        raise InvalidArgument("a source is empty, has a NUL, or is longer than a path may be")
    globs.check(path)
    return posixpath.normpath(f"/{path}").lstrip("/") or "."


def _owner(owner: str) -> str:
    if owner and _USER.fullmatch(owner) is None:
        raise InvalidArgument(f"{owner[:80]!r} is not USER or USER:GROUP, by name or number")
    return owner


def _mode(mode: str | None) -> int | None:
    if mode is None:
        return None
    if _MODE.fullmatch(mode) is None:
        raise InvalidArgument(f"the mode {mode[:80]!r} is not three or four octal digits, such as 755")
    return int(mode, 8)


def _port(text: str) -> str:
    found = _PORT.fullmatch(text)
    if found is None or not 1 <= int(found[1]) <= int(found[2] or found[1]) <= 65535:
        raise InvalidArgument(f"{text[:80]!r} is no port; write such as 80, 53/udp or 8000-8010")
    return text.lower() if found[3] else f"{text}/tcp"
