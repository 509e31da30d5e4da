"""Secrets: values that Bay keeps for an owner, and gives to sandboxes by name."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """A secret of an owner. No answer has its value."""

    name: str
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxSecret:
    """A secret that a sandbox is given: as the environment variable `env` of each command, or as a `file`.

    With neither it is the variable of its own name. A `file` lies in `/run/secrets`, in memory alone.
    """

    name: str
    env: str | None = None
    file: str | None = None
