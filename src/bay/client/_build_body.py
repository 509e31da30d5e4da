"""The options of a build, and the body of the call at its end: with a config in the form of OCI images.

https://github.com/opencontainers/image-spec/blob/main/config.md
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, TypedDict

from bay.builds.dockerfile import Dockerfile
from bay.builds.ignored import Ignored
from bay.builds.steps import BuildConfig, BuildPlan
from bay.builds.written import plan_steps
from bay.client._context import read_dockerfile, read_ignored
from bay.errors import InvalidArgument
from bay.ids import is_name
from bay.models import ContainerImage, Pull, SandboxSecret

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


_PERIODS = {
    "Interval": "interval_s", "Timeout": "timeout_s", "StartPeriod": "start_period_s",
    "StartInterval": "start_interval_s",
}  # fmt: skip


_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,62}")


def check_ref(ref: str) -> None:
    """Raises InvalidArgument for what cannot call a template, before there is work that would be lost."""
    name, colon, tag = ref.partition(":")
    if not is_name(name) or (colon and not _TAG.fullmatch(tag)):
        raise InvalidArgument(
            f"{ref[:100]!r} cannot call a template; write NAME or NAME:TAG, the name of a-z, 0-9 and inner hyphens"
        )


def known_config(image: ContainerImage) -> BuildConfig:
    """The config that a build begins with. It lacks what only the server needs to know of the base."""
    return BuildConfig(
        env=image.env,
        user=image.user or "",
        working_dir=image.working_dir or "",
        entrypoint=image.entrypoint,
        cmd=image.cmd,
        exposed_ports=image.exposed_ports,
        labels=image.labels,
    )


@dataclass(frozen=True, slots=True)
class Recipe:
    """The source of a plan: a Dockerfile, or steps on top of the image `base`."""

    base: str
    ignored: Ignored
    source: Dockerfile | Sequence[Mapping[str, Any]]

    @classmethod
    def of(cls, context: Path, options: BuildOptions) -> "Recipe":
        """The recipe that the options name. Raises InvalidArgument."""
        image, steps, given = options.get("image"), options.get("steps"), options.get("dockerfile")
        if (image is None) != (steps is None) or (steps is not None and given is not None):
            raise InvalidArgument("a build takes a Dockerfile, or an image and steps; name one of the two")
        if image is not None and steps is not None:
            return cls(image, read_ignored(context / ".dockerignore"), steps)
        text, ignored = read_dockerfile(context, Path(given) if given else None)
        file = Dockerfile.read(text, options.get("args"))
        return cls(file.base, ignored, file)

    def plan(self, image: ContainerImage) -> BuildPlan:
        """The plan on top of the base, which is here now. Raises InvalidArgument."""
        if isinstance(self.source, Dockerfile):
            return self.source.plan(known_config(image), image.platform or "linux/amd64")
        return plan_steps(self.source, known_config(image))


def freeze_body(sandbox_id: str, ref: str, plan: BuildPlan, options: BuildOptions) -> dict[str, Any]:
    """The body of the call that makes the template `ref`, a name or `name:tag`."""
    name, _, tag = ref.partition(":")
    start = options.get("start_command") or plan.start_command
    asked = {
        "tag": tag or None,
        "profile": options.get("profile"),
        "start_command": start if start is None or isinstance(start, str) else list(start),
        "ready_command": options.get("ready_command"),
        "shared": options.get("shared"),
    }
    given = {key: value for key, value in asked.items() if value is not None}
    return {"name": name, "sandbox": sandbox_id, "config": _oci(plan.config), **given}


def _oci(config: BuildConfig) -> dict[str, Any]:
    """The config as a build says it; the rest is the base's."""
    found: dict[str, Any] = {
        "Env": [f"{name}={value}" for name, value in config.env.items()],
        "User": config.user or None,
        "WorkingDir": config.working_dir or None,
        "Entrypoint": list(config.entrypoint),
        "Cmd": list(config.cmd),
        "StopSignal": config.stop_signal,
        "ExposedPorts": {port: {} for port in config.exposed_ports} or None,
        "Labels": dict(config.labels) or None,
        "Healthcheck": None if config.healthcheck is None else _health(config.healthcheck),
    }
    return {key: value for key, value in found.items() if value is not None}


def _health(check: Mapping[str, Any]) -> dict[str, Any]:
    """Periods are in nanoseconds there, and 0 is the default."""
    periods = {key: round((check[name] or 0) * 1_000_000_000) for key, name in _PERIODS.items()}
    return {"Test": list(check["test"]), **periods, "Retries": check["retries"] or 0}
