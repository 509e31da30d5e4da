"""Reads a Dockerfile of the documented subset, and plans its build.

`Dockerfile.read` refuses what is outside of the subset, with its line and the way out, before anything is
built. `plan` needs the config of the base image, whose variables count in it.
Rules: https://docs.docker.com/reference/dockerfile/
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from bay.builds import lines, words
from bay.builds.lines import Instruction, is_heredoc, json_form
from bay.builds.mounts import read_mounts
from bay.builds.planner import MAX_SOURCES, Planner
from bay.builds.problems import at_line, fault, unsupported
from bay.builds.reading import arguments, assignments, flags_of, healthcheck, listed_flags
from bay.builds.stages import Stage, images_copied, needed, origin_of, read_stage
from bay.builds.steps import SHELL, BuildConfig, BuildPlan, InlineFile
from bay.errors import InvalidArgument

MAX_ARGS = 256
"""Build arguments of one file."""

MAX_PAIRS = 1000
"""Values of one instruction."""

MAX_MADE = 8 << 20
"""Characters of all texts of a stage in which variables were replaced."""

_PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy")
PREDEFINED_ARGS = frozenset(name for one in _PROXIES for name in (one, one.upper()))
"""The build arguments that commands see without an ARG."""

_WAYS_OUT = {
    "VOLUME": "leave it out: all files of a build are kept",
    "MAINTAINER": "write LABEL org.opencontainers.image.authors=NAME",
}


@dataclass(frozen=True, slots=True)
class Dockerfile:
    """A file that was read. Its last stage is what it makes."""

    stages: tuple[Stage, ...]
    escape: str
    global_args: Mapping[str, str]
    args: Mapping[str, str]

    @classmethod
    def read(
        cls, text: str, args: Mapping[str, str] | None = None, platform: str | None = None
    ) -> "Dockerfile":
        """The file, with the build arguments `args`, for the host's `platform`; None: of a host that is not
        known here. Raises InvalidArgument with the first fault's line.
        """
        found = lines.split(text)
        given = dict(args or {})
        head, parts = _parts(found.instructions)
        known: dict[str, str] = {}
        for one in head:
            with at_line(one.line):
                known |= _defaults(one, given, known, found.escape)
        stages: list[Stage] = []
        for origin, *rest in parts:
            for one in rest:
                _check(one, found.escape)
            with at_line(origin.line):
                scope = {**_platform_args(platform or "linux/amd64"), **known}
                stages.append(read_stage(origin, rest, stages, scope, found.escape, platform))
        return cls(tuple(stages), found.escape, known, given)

    def plan(
        self,
        base: BuildConfig,
        platform: str = "linux/amd64",
        stage: int = -1,
        below: BuildPlan | None = None,
    ) -> BuildPlan:
        """The steps of a stage, and the config that they end in; `below` is the plan of the stage that it
        begins with. Raises InvalidArgument for a value that is wrong once its variables are replaced.
        """
        planner = Planner(base, below.shell if below else SHELL)
        walk = _Walk(self, planner, platform, stage % len(self.stages), dict(below.args) if below else {})
        for one in self.stages[stage].instructions:
            with at_line(one.line):
                _ACTS[one.keyword](walk, one)
        unused = self.args.keys() - self._declared() - self.global_args.keys() - PREDEFINED_ARGS
        return replace(walk.planner.plan(sorted(unused)), args=walk.active)

    def needed(self) -> list[int]:
        """The numbers of the stages that the last one needs, itself included, in order."""
        return needed(self.stages, self.escape)

    def images_copied(self) -> list[str]:
        """The references of images that the needed stages copy from."""
        return images_copied(self.stages, self.needed(), self.escape)

    def _declared(self) -> set[str]:
        """The arguments that some stage asks for."""
        asked = (one for stage in self.stages for one in stage.instructions if one.keyword == "ARG")
        return {name for one in asked for name, _ in arguments(one.text, self.escape)}


def _parts(
    found: tuple[Instruction, ...],
) -> tuple[tuple[Instruction, ...], list[list[Instruction]]]:
    """The instructions before the first FROM, and those of each stage, which a FROM begins."""
    begins = [at for at, one in enumerate(found) if one.keyword == "FROM"]
    for one in found[: begins[0] if begins else None]:
        if one.keyword != "ARG":
            raise fault(
                one.line, f"{one.keyword[:40]} stands before FROM, where only ARG may; begin with FROM"
            )
    if not begins:
        raise fault(found[-1].line, "the file has no FROM; name the image to begin with")
    ends = [*begins[1:], len(found)]
    return found[: begins[0]], [list(found[at:end]) for at, end in zip(begins, ends, strict=True)]


def _defaults(
    one: Instruction, given: Mapping[str, str], known: Mapping[str, str], escape: str
) -> dict[str, str]:
    """The values of an ARG before FROM. They count in FROM, and behind it where an ARG asks for them."""
    return {
        name: given[name] if name in given else words.expand(value or "", known, escape)
        for name, value in arguments(one.text, escape)
        if name in given or value is not None
    }


def _check(one: Instruction, escape: str) -> None:
    """Refuses what is outside of the subset, whatever variables may bring."""
    if one.keyword in _WAYS_OUT:
        raise unsupported(one.line, one.keyword, _WAYS_OUT[one.keyword])
    if one.keyword == "ONBUILD":
        raise unsupported(one.line, one.keyword)
    if one.keyword not in _ACTS:
        raise fault(one.line, f"{one.keyword[:40]!r} is no instruction; check the spelling")
    with at_line(one.line):
        _, rest = listed_flags(one, escape)
    if not rest:
        raise fault(one.line, f"{one.keyword} has nothing behind it")


@dataclass(slots=True)
class _Walk:
    """Goes through the instructions, and has the arguments that count by now."""

    file: Dockerfile
    planner: Planner
    platform: str
    stage: int
    active: dict[str, str]
    used: set[str] = field(default_factory=set[str])
    made: int = 0
    """Characters that variables were replaced to, all together."""

    def values(self) -> dict[str, str]:
        """The values of variables; the image's own win over arguments."""
        return {**self.active, **self.planner.config.env}

    def word(self, text: str) -> str:
        return self._counted(words.expand(text, self.values(), self.file.escape))

    def body(self, text: str) -> str:
        """The same for the content of a heredoc."""
        return self._counted(words.expand_body(text, self.values(), self.file.escape))

    def _counted(self, text: str) -> str:
        self.made += len(text)
        if self.made > MAX_MADE:
            raise InvalidArgument(f"variables make more than {MAX_MADE >> 20} MiB of text, the limit")
        return text

    def pairs(self, one: Instruction) -> dict[str, str]:
        """All values are of the time before the instruction."""
        found = assignments(one.text, one.keyword, self.file.escape)
        if len(found) > MAX_PAIRS:
            raise InvalidArgument(f"{one.keyword} has {len(found)} values; the limit is {MAX_PAIRS}")
        return {self.word(name): self.word(value) for name, value in found}

    def argument(self, name: str, default: str | None) -> str | None:
        """The value that an ARG takes, if any."""
        self.used.add(name)
        if len(self.used) > MAX_ARGS:
            raise InvalidArgument(f"there are more than {MAX_ARGS} arguments, the limit")
        if name in self.file.args:
            return self.file.args[name]
        if default is not None:
            return self.word(default)
        return self.file.global_args.get(name, _platform_args(self.platform).get(name))

    def for_commands(self) -> dict[str, str]:
        """The arguments that a command sees."""
        given = self.file.args
        return {**{name: given[name] for name in PREDEFINED_ARGS & given.keys()}, **self.active}

    def argv(self, text: str) -> tuple[str, ...]:
        """The exec form, or the shell form as its arguments."""
        found = json_form(text)
        return (*self.planner.shell, text) if found is None else found


def _platform_args(platform: str) -> dict[str, str]:
    os, architecture, *variant = platform.split("/", 2)
    parts = {"PLATFORM": platform, "OS": os, "ARCH": architecture, "VARIANT": "".join(variant)}
    return {f"{side}{name}": value for side in ("TARGET", "BUILD") for name, value in parts.items()}


def _arg(walk: _Walk, one: Instruction) -> None:
    for name, default in arguments(one.text, walk.file.escape):
        if (value := walk.argument(name, default)) is not None:
            walk.active[name] = value


def _env(walk: _Walk, one: Instruction) -> None:
    walk.planner.env(walk.pairs(one))


def _label(walk: _Walk, one: Instruction) -> None:
    walk.planner.labels(walk.pairs(one))


def _run(walk: _Walk, whole: Instruction) -> None:
    flags, rest = listed_flags(whole, walk.file.escape)
    mounts = read_mounts(
        (value for _, value in flags), walk.word, lambda name: origin_of(name, walk.file.stages, walk.stage),
        walk.planner.working_dir, whole.line,
    )  # fmt: skip
    one = replace(whole, text=rest)
    argv, extra, text = json_form(one.text), walk.for_commands(), _shown(whole)
    if argv is not None:
        walk.planner.run(argv, extra, text, one.line, mounts=mounts)
    elif not one.heredocs:
        walk.planner.run_command(one.text, extra, text, one.line, mounts=mounts)
    elif not is_heredoc(one.text):
        bodies = "".join(f"\n{each.content}{each.name}" for each in one.heredocs)
        walk.planner.run_command(one.text + bodies, extra, text, one.line, mounts=mounts)
    elif one.heredocs[0].content.startswith("#!"):
        walk.planner.run_script(one.heredocs[0].text, extra, text, one.line, mounts=mounts)
    else:
        walk.planner.run_command(one.heredocs[0].text, extra, text, one.line, mounts=mounts)


def _copy(walk: _Walk, one: Instruction) -> None:
    flags, rest = flags_of(one, walk.file.escape)
    listed = json_form(rest)
    parts = list(rest.split() if listed is None else listed)
    last = parts.pop() if parts else ""
    if (count := max(len(parts), len(one.heredocs))) > MAX_SOURCES:  # before variables make more of them
        raise InvalidArgument(f"a copy has {count} sources; the limit is {MAX_SOURCES}")
    target = walk.word(last)
    sources = [walk.word(part) for part in parts if listed is not None or not is_heredoc(part)]
    mode, origin = flags.get("chmod"), flags.get("from")
    walk.planner.copy(
        sources, target, origin=None if origin is None else origin_of(origin, walk.file.stages, walk.stage),
        inline=_inline(walk, one), owner=walk.word(flags.get("chown", "")),
        mode=None if mode is None else walk.word(mode), refuses_archives=one.keyword == "ADD", text=_shown(one),
        line=one.line,
    )  # fmt: skip


def _inline(walk: _Walk, one: Instruction) -> list[InlineFile]:
    return [
        InlineFile(
            each.name,
            walk.body(each.text) if each.expand else each.text,
        )
        for each in one.heredocs
    ]


def _workdir(walk: _Walk, one: Instruction) -> None:
    walk.planner.workdir(walk.word(one.text), _shown(one), one.line)


def _user(walk: _Walk, one: Instruction) -> None:
    walk.planner.user(walk.word(one.text))


def _shell(walk: _Walk, one: Instruction) -> None:
    found = json_form(one.text)
    if not found:
        raise InvalidArgument('SHELL takes a JSON array of strings, such as SHELL ["/bin/bash", "-c"]')
    walk.planner.shell = found


def _cmd(walk: _Walk, one: Instruction) -> None:
    walk.planner.cmd(walk.argv(one.text))


def _entrypoint(walk: _Walk, one: Instruction) -> None:
    walk.planner.entrypoint(walk.argv(one.text))


def _expose(walk: _Walk, one: Instruction) -> None:
    walk.planner.expose(words.expand_words(one.text, walk.values(), walk.file.escape))


def _stop_signal(walk: _Walk, one: Instruction) -> None:
    walk.planner.stop_signal(walk.word(one.text))


def _healthcheck(walk: _Walk, one: Instruction) -> None:
    flags, rest = flags_of(one, walk.file.escape)
    walk.planner.healthcheck(healthcheck(flags, rest))


_ACTS: dict[str, Callable[[_Walk, Instruction], None]] = {
    "ADD": _copy,
    "ARG": _arg,
    "CMD": _cmd,
    "COPY": _copy,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "HEALTHCHECK": _healthcheck,
    "LABEL": _label,
    "RUN": _run,
    "SHELL": _shell,
    "STOPSIGNAL": _stop_signal,
    "USER": _user,
    "WORKDIR": _workdir,
}


def _shown(one: Instruction) -> str:
    """The instruction on one line, as people see it while it is built."""
    text = " ".join(f"{one.keyword} {one.text}".split())
    return text if len(text) <= 200 else f"{text[:197]}..."
