"""The build that a template's row asks for."""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from bay.builds.dockerfile import Dockerfile
from bay.builds.mounts import check_secrets
from bay.builds.steps import BuildConfig, BuildPlan, Origin
from bay.builds.written import plan_steps
from bay.images.oci_layout import architecture
from bay.models import KeyScope, Pull, SandboxSecret, from_wire, to_wire

STEP_S = 3600
"""Seconds that one step may take, unless the build says it."""


@dataclass(frozen=True, slots=True)
class StageSpec:
    """A stage by its number, its name, and the image or earlier stage that it begins with."""

    number: int
    name: str
    base: Origin


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

    def stages(self) -> list[StageSpec]:
        """The stages that are built, the last at the end. Raises InvalidArgument for a Dockerfile that breaks
        a rule.
        """
        if self.image is not None:
            return [StageSpec(0, "", self.image)]
        file = self._file
        return [StageSpec(at, file.stages[at].name, file.stages[at].base) for at in file.needed()]

    def images_copied(self) -> list[str]:
        """The references of images that steps copy from."""
        return [] if self.steps is not None else self._file.images_copied()

    def plan(
        self, base: BuildConfig, platform: str, stage: int = 0, below: BuildPlan | None = None
    ) -> BuildPlan:
        """The plan of a stage on top of that config, and of the plan of another stage. Raises
        InvalidArgument.
        """
        if self.steps is not None:
            return plan_steps(self.steps, base)
        plan = self._file.plan(base, platform, stage, below)
        check_secrets(plan.steps, {one.name: (one.env, one.file) for one in self.secrets})
        return plan

    def check(self) -> None:
        """Raises InvalidArgument for what is wrong whatever the base image says."""
        if self.steps is not None:
            plan_steps(self.steps, BuildConfig())
        else:
            self._file.images_copied()

    @property
    def _file(self) -> Dockerfile:
        return Dockerfile.read(self.dockerfile or "", self.args, f"linux/{architecture()}")
