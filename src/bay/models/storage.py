"""Cargos, checkpoints, and what outlives a session."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

CheckpointContent = Literal["files", "memory"]
"""The parts of a sandbox that a checkpoint has: its files, or also the memory of what ran in it."""
Persist = Literal["workspace", "machine"]
"""The files that outlive a session: those under /workspace, or also every change to the root file system."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointPolicy:
    """When automatic checkpoints are made: `every` so many seconds while there is activity, `before_stop`.

    Of those the newest `keep_last` are kept. With `memory` those of a sandbox that has compute then save its
    memory too; one whose memory cannot be saved has files alone.
    """

    every: int | None = None
    keep_last: int = 10
    before_stop: bool = False
    memory: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Cargo:
    """Persistent files, mounted at /workspace. Managed: lives and dies with its sandbox.

    Sizes are bytes on disk. `charged_bytes` is what counts against `size_limit_mb`, which holds only where
    `size_limit_enforced`.
    """

    id: str
    managed: bool
    managed_by_sandbox_id: str | None
    backend: str
    size_limit_mb: int | None
    created_at: datetime
    last_accessed_at: datetime
    size_limit_enforced: bool = False
    used_bytes: int | None = None
    used_inodes: int | None = None
    charged_bytes: int | None = None
    measured_at: datetime | None = None
    sandbox_ids: tuple[str, ...] = ()
    """The sandboxes that have it as their workspace or as a volume."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """An external cargo (by id) at an absolute path of a sandbox, beside its workspace."""

    cargo: str
    path: str
    read_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The files of a sandbox as they were at `created_at`; with the `kind` memory also what ran in it then.

    `number` counts the checkpoints of a sandbox from 1 on, and none has the number of a deleted one. Sizes
    are bytes on disk, null until they are measured. `exclusive_bytes` are held by nothing but this
    checkpoint, and `memory_bytes` are those of its memory, with changed files that the
    sandbox does not keep, beside its files. `parent_id` is the checkpoint
    that its files grew from; `current` says that the present files grew from this one. `auto` ones are made,
    and removed again, by the sandbox's policy.
    """

    id: str
    sandbox_id: str
    number: int
    name: str | None
    comment: str | None
    created_at: datetime
    kind: CheckpointContent
    auto: bool
    parent_id: str | None
    current: bool
    persist: Persist
    size_bytes: int | None
    exclusive_bytes: int | None
    inodes: int | None
    measured_at: datetime | None
    memory_bytes: int | None = None
