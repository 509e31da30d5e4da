"""The options of a build, its files, and the body of the call that asks for it."""

import re
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, TypedDict

from bay.builds.dockerfile import Dockerfile
from bay.builds.reading import listed_flags
from bay.builds.steps import BuildConfig, Step
from bay.builds.written import plan_steps
from bay.client._context import context_of, copied, read_dockerfile, read_ignored
from bay.client._local import Meter
from bay.client._options import secret_bodies
from bay.client._pack import packed_files
from bay.errors import InvalidArgument
from bay.ids import is_name
from bay.models import Pull, SandboxSecret

OnLog = Callable[[str], None]
"""A callback for the log of a build: parts of it as they come, which may end within a line."""


class BuildOptions(TypedDict, total=False):
    """The options of `templates.build`; one left out, or None, is the default.

    `dockerfile` is its path, `Dockerfile` in the context unless given; `args` are values for its ARGs.
    `secrets` of the owner are given to the commands of RUN by name, and do not stay in the template.
    `profile` must keep the whole root file system (`persist: machine`). `pull` says when the base image is
    fetched. A step may take `step_timeout_s` seconds, an hour unless given. `log` gets the log as it comes.
    `start_command`, `ready_command` and `shared` are as for `templates.create`. In place of a Dockerfile it
    takes an `image` to begin with and `steps`: mappings with one key each, of ``run`` (text for a shell, or a
    list), ``copy`` (`sources`, `target`, and `owner` and `mode` as text), ``env``, ``workdir``, ``user`` and
    ``start_command``.
    """

    dockerfile: str | PathLike[str] | None
    image: str | None
    steps: Sequence[Mapping[str, Any]] | None
    args: Mapping[str, str] | None
    secrets: Sequence[SandboxSecret | str] | None
    profile: str | None
    pull: Pull | None
    step_timeout_s: float | None
    log: OnLog | None
    start_command: str | Sequence[str] | None
    ready_command: str | Sequence[str] | None
    shared: bool | None


class Told:
    """Gives a caller's `log` its parts. `failed` says whether the error that ends a build is the caller's."""

    def __init__(self, log: OnLog | None) -> None:
        self._log = log
        self.failed = False

    def __call__(self, part: str) -> None:
        if self._log is not None:
            self.failed = True
            self._log(part)
            self.failed = False


_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,62}")


def check_ref(ref: str) -> None:
    """Raises InvalidArgument for what cannot call a template, before there is work that would be lost."""
    name, colon, tag = ref.partition(":")
    if not is_name(name) or (colon and not _TAG.fullmatch(tag)):
        raise InvalidArgument(
            f"{ref[:100]!r} cannot call a template; write NAME or NAME:TAG, the name of a-z, 0-9 and inner hyphens"
        )


@dataclass(frozen=True, slots=True)
class Recipe:
    """The source of a build: the text of a Dockerfile, or steps on top of an image; and the files that it may
    copy, by their names below the context's top.
    """

    dockerfile: str | None
    steps: Sequence[Mapping[str, Any]] | None
    files: Sequence[tuple[str, Path]]

    @classmethod
    def of(cls, context: Path, options: BuildOptions) -> "Recipe":
        """The recipe that the options name. Raises InvalidArgument."""
        image, steps, given = options.get("image"), options.get("steps"), options.get("dockerfile")
        if (image is None) != (steps is None) or (steps is not None and given is not None):
            raise InvalidArgument("a build takes a Dockerfile, or an image and steps; name one of the two")
        if steps is not None:
            text, ignored = None, read_ignored(context / ".dockerignore")
            known = plan_steps(steps, BuildConfig()).steps
        else:
            text, ignored = read_dockerfile(context, Path(given) if given else None)
            known = _steps_of(Dockerfile.read(text, options.get("args")))
        entries = context_of(context, ignored)
        wanted = entries if known is None else copied(entries, known)
        return cls(text, steps, [(one.path, context / one.path) for one in wanted])

    def stream(self, meter: Meter) -> Generator[bytes, None, None]:
        """The tar of the files."""
        return packed_files(self.files, meter)

    def body(self, ref: str, options: BuildOptions) -> dict[str, Any]:
        """The body of the call that asks for the template `ref`, a name or `name:tag`."""
        name, _, tag = ref.partition(":")
        secrets = options.get("secrets")
        start, ready = options.get("start_command"), options.get("ready_command")
        asked = {
            "dockerfile": self.dockerfile,
            "image": options.get("image"),
            "steps": None if self.steps is None else [dict(step) for step in self.steps],
            "tag": tag or None,
            "profile": options.get("profile"),
            "args": options.get("args"),
            "secrets": None if secrets is None else secret_bodies(secrets),
            "pull": options.get("pull"),
            "step_timeout": options.get("step_timeout_s"),
            "start_command": start if start is None or isinstance(start, str) else list(start),
            "ready_command": ready if ready is None or isinstance(ready, str) else list(ready),
            "shared": options.get("shared"),
            "context": bool(self.files),
        }
        return {"name": name, **{key: value for key, value in asked.items() if value is not None}}


def _steps_of(file: Dockerfile) -> Sequence[Step] | None:
    """The steps; None where a variable of the base image, which only the server knows, may choose files."""
    instructions = [one for stage in file.stages for one in stage.instructions]
    if any("$" in one.text for one in instructions if one.keyword in ("COPY", "ADD")):
        return None
    mounts = (listed_flags(one, file.escape)[0] for one in instructions if one.keyword == "RUN")
    if any("$" in value for flags in mounts for _, value in flags):
        return None
    try:
        return [step for at in file.needed() for step in file.plan(BuildConfig(), stage=at).steps]
    except InvalidArgument:  # it may be right on top of the base
        return None
