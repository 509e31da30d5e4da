"""Builds as data: what is done one after the other, and what the made image says."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SHELL = ("/bin/sh", "-c")

MOUNTS_KEPT = "/.bay-build"
"""The directory of a build's sandbox for caches between commands, and for what stands where mounts are."""

SECRETS = "/run/secrets/"
"""Where sandboxes have the secrets that are files."""

Origin = str | int
"""The place of files that a build begins with, or copies: an image by its reference, or an earlier stage by
its number.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectoryMount:
    """A directory that a command has at `target` only while it runs. With `cache` the next command that names
    the same has its content again; without, it begins empty.
    """

    target: str
    cache: str | None = None
    owner: str = "0:0"
    mode: int = 0o755


@dataclass(frozen=True, slots=True, kw_only=True)
class FilesMount:
    """Files that a command has at `target` only while it runs, of the context or of `origin`. Its changes to
    them are lost.
    """

    target: str
    source: str = "."
    origin: Origin | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretMount:
    """A secret that a command expects in the file `target`, or in the variable `env`."""

    name: str
    target: str | None = None
    env: str | None = None
    is_required: bool = False

    @property
    def is_elsewhere(self) -> bool:
        """Whether the file is a place of the image, where a link is while the command runs."""
        return self.target is not None and not self.target.startswith(SECRETS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A command to run in the build's sandbox. `text` is how it is shown, `line` where it stands, 0 for
    a step that no file has. With `script`, that text is a file first: the command gets its path for SCRIPT.
    """

    text: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    user: str = ""
    working_dir: str = "/"
    script: str | None = None
    mounts: tuple[DirectoryMount, ...] = ()
    files: tuple[FilesMount, ...] = ()
    secrets: tuple[SecretMount, ...] = ()
    line: int = 0

    @property
    def is_mounting(self) -> bool:
        """Whether places of the image are others while it runs."""
        return bool(self.mounts or self.files or any(one.is_elsewhere for one in self.secrets))


@dataclass(frozen=True, slots=True)
class InlineFile:
    """A file whose content stands in the build itself."""

    name: str
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """Files to put at `target`, an absolute path that ends in / where it is a directory. They are of the
    context, or of `origin`, whose sources are paths below its root.

    `owner` is `user[:group]` by name or number, "" root; `mode` None leaves the files' own.
    """

    text: str
    sources: tuple[str, ...]
    target: str
    origin: Origin | None = None
    inline: tuple[InlineFile, ...] = ()
    owner: str = ""
    mode: int | None = None
    refuses_archives: bool = False
    line: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeWorkdir:
    """A working directory to make where it is missing, with the user that runs in it."""

    text: str
    path: str
    user: str = ""
    line: int = 0


Step = Run | Copy | MakeWorkdir


def copies_of(step: Step) -> list[Copy]:
    """The copies that a step makes, those of its mounts included."""
    if isinstance(step, Copy):
        return [step]
    if isinstance(step, MakeWorkdir):
        return []
    return [
        Copy(text=step.text, sources=(one.source,), target=one.target, origin=one.origin, line=step.line)
        for one in step.files
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildConfig:
    """The facts of an image that say how it is run, in the form of `ImageConfig.to_json`."""

    env: Mapping[str, str] = field(default_factory=dict[str, str])
    user: str = ""
    working_dir: str = ""
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    stop_signal: str | None = None
    healthcheck: Mapping[str, Any] | None = None
    exposed_ports: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict[str, str])

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "BuildConfig":
        """The part of an image's config that a build may change."""
        return cls(
            env=dict(config.get("env") or {}), user=config.get("user") or "",
            working_dir=config.get("working_dir") or "", entrypoint=tuple(config.get("entrypoint") or ()),
            cmd=tuple(config.get("cmd") or ()), stop_signal=config.get("stop_signal"),
            healthcheck=config.get("healthcheck"), exposed_ports=tuple(config.get("exposed_ports") or ()),
            labels=dict(config.get("labels") or {}),
        )  # fmt: skip

    def to_oci(self) -> dict[str, Any]:
        """The same in the form that OCI images have.
        https://github.com/opencontainers/image-spec/blob/main/config.md
        """
        found: dict[str, Any] = {
            "Env": [f"{name}={value}" for name, value in self.env.items()],
            "User": self.user or None,
            "WorkingDir": self.working_dir or None,
            "Entrypoint": list(self.entrypoint),
            "Cmd": list(self.cmd),
            "StopSignal": self.stop_signal,
            "ExposedPorts": {port: {} for port in self.exposed_ports} or None,
            "Labels": dict(self.labels) or None,
            "Healthcheck": None if self.healthcheck is None else _health(self.healthcheck),
        }
        return {key: value for key, value in found.items() if value is not None}


_PERIODS = {
    "Interval": "interval_s", "Timeout": "timeout_s", "StartPeriod": "start_period_s",
    "StartInterval": "start_interval_s",
}  # fmt: skip


def _health(check: Mapping[str, Any]) -> dict[str, Any]:
    """Periods are in nanoseconds there, and 0 is the default."""
    periods = {key: round((check.get(name) or 0) * 1_000_000_000) for key, name in _PERIODS.items()}
    return {"Test": list(check["test"]), **periods, "Retries": check.get("retries") or 0}


@dataclass(frozen=True, slots=True)
class BuildPlan:
    """The steps of a build, and the config of what it makes."""

    steps: tuple[Step, ...]
    config: BuildConfig
    start_command: str | None = None
    shell: tuple[str, ...] = SHELL
    """That of RUN, which a stage on top of this one begins with."""
    args: Mapping[str, str] = field(default_factory=dict[str, str])
    """The build arguments that count at the end, and in a stage on top of this one."""
    unused_args: tuple[str, ...] = ()
    """Build arguments that were given and that no ARG asks for."""


SCRIPT = "{script}"
"""Stands in `Run.argv` for the path of the file with the script."""
