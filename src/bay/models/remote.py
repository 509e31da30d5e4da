"""Checkpoints in an object store."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from bay.models.sandboxes import Failure
from bay.models.storage import Persist

PushState = Literal["pushing", "ready", "failed"]
"""How far a push has come. One that failed has left nothing that can be pulled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteCheckpoint:
    """A checkpoint in the object store, or on its way there.

    `key` names it on every Bay that uses the same store: it is the id that the checkpoint has, or had, on
    the Bay that pushed it. `bytes` and `sha256` are the archive's, compressed; while `state` is `pushing`,
    `bytes` is how much is there. `files` counts files and directories. `created_at` is the checkpoint's.
    """

    key: str
    state: PushState
    sandbox_id: str
    sandbox_name: str | None
    name: str | None
    comment: str | None
    persist: Persist
    image: str
    created_at: datetime
    bytes: int
    sha256: str | None = None
    files: int | None = None
    pushed_at: datetime | None = None
    bay: str | None = None
    """The version of the Bay that pushed it."""
    error: Failure | None = None
    attempts: int = 0
