"""Templates: named images of sandboxes, from which others start."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from bay.models.sandboxes import Failure

TemplateState = Literal["building", "ready", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A template: the files of a sandbox as they were, and how sandboxes from it begin.

    `name` and `tag` find it, and so do its `aliases`, each a `name:tag`; the tag is null once other templates
    have taken all of them. `start_command` runs in each
    of its sandboxes as the service `main`, and `ready_command` ends with 0 once that serves. A template with
    `shared` may be used by every owner. `pool_size` of its sandboxes wait, started, for creates; with a
    `pool_max` up to so many, when creates come fast.
    """

    id: str
    name: str
    tag: str | None
    aliases: tuple[str, ...] = ()
    state: TemplateState
    shared: bool
    profile: str
    """The profile of its sandboxes, unless their create names another."""
    sandbox_id: str | None = None
    """The sandbox that it was made of."""
    image_id: str | None = None
    """The image that its sandboxes have; null until it is ready."""
    has_files: bool = False
    """Whether its sandboxes begin with files in their workspace."""
    start_command: tuple[str, ...] | None = None
    ready_command: tuple[str, ...] | None = None
    cpus: float | None = None
    """Cores of its sandboxes; this and the next three are null for the profile's."""
    memory_mb: int | None = None
    disk_mb: int | None = None
    pids: int | None = None
    env: dict[str, str] = field(default_factory=dict[str, str])
    """The variables of its sandboxes, without their values."""
    user: str | None = None
    working_dir: str | None = None
    pool_size: int = 0
    pool_max: int | None = None
    pool_ready: int = 0
    """How many wait in its pool now."""
    pool_error: str | None = None
    """Why its pool is not full; null while nothing is in its way."""
    error: Failure | None = None
    """Why it could not be made."""
    created_at: datetime
