"""The build that a template's row asks for."""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from bay.builds.dockerfile import Dockerfile
from bay.builds.steps import BuildConfig, BuildPlan
from bay.builds.written import plan_steps
from bay.models import KeyScope, Pull, SandboxSecret, from_wire, to_wire

STEP_S = 3600
"""Seconds that one step may take, unless the build says it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildSpec:
    """A Dockerfile, or steps on top of `image`, and what the steps are given. `context`: whether a tar of
    files belongs to it, and has come. `key_id` and `scope` are of the key that asked for it.
    """

    dockerfile: str | None = None
    image: str | None = None
    steps: tuple[dict[str, Any], ...] | None = None
    args: dict[str, str] = field(default_factory=dict[str, str], repr=False)
    secrets: tuple[SandboxSecret, ...] = ()
    pull: Pull = "missing"
    step_timeout_s: float = STEP_S
    context: Literal["none", "awaited", "here"] = "none"
    key_id: str = ""
    scope: KeyScope = "read"

    @classmethod
    def of_row(cls, row: dict[str, Any]) -> "BuildSpec":
        """The build that a row has as JSON."""
        return from_wire(cls, row)

    def to_row(self) -> dict[str, Any]:
        """It as JSON."""
        return to_wire(self)

    def with_context(self) -> "BuildSpec":
        """The same build, whose context has come."""
        return replace(self, context="here")

    @property
    def base(self) -> str:
        """The image that it begins with. Raises InvalidArgument for a Dockerfile that breaks a rule."""
        return self.image or self._file.base

    def plan(self, base: BuildConfig, platform: str) -> BuildPlan:
        """The plan on top of that config. Raises InvalidArgument."""
        if self.steps is not None:
            return plan_steps(self.steps, base)
        return self._file.plan(base, platform)

    def check(self) -> None:
        """Raises InvalidArgument for what is wrong whatever the base image says."""
        if self.steps is not None:
            plan_steps(self.steps, BuildConfig())
        else:
            self._file  # noqa: B018 - reading it is the check

    @property
    def _file(self) -> Dockerfile:
        return Dockerfile.read(self.dockerfile or "", self.args)
