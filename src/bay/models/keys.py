"""Keys, their limits, and the audit."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

KeyScope = Literal["admin", "write", "read"]
"""The rights of a key: read = look only, write = its owner's things, admin = also keys, audit and host."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much a key, or all keys of an owner together, may use at once; None = no limit. Sizes are MiB."""

    sandboxes: int | None = None
    running: int | None = None
    """Sandboxes that have or want compute and are not frozen."""
    cpus: float | None = None
    """Cores of those."""
    memory_mb: int | None = None
    """Memory of those and of the frozen ones."""
    disk_mb: int | None = None
    """Files, as last measured."""
    cargos: int | None = None
    """Cargos that belong to no sandbox."""
    creates_per_minute: int | None = None
    secrets: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """Who calls: whose sandboxes a key sees, and what it may do to them. The secret is stored nowhere."""

    id: str
    name: str
    owner: str
    scope: KeyScope
    quotas: Limits | None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewKey(Key):
    """A key as its create answers it. `secret` is shown this once; a repeated create has None there."""

    secret: str | None = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """One call that was meant to change something, and what came of it.

    `status` is None while the call is under way, and for ever when Bay ended during it. `owner` and `key_id`
    are None for an unauthenticated call; `code` is the error's, None on success.
    """

    at: datetime
    owner: str | None
    key_id: str | None
    method: str
    path: str
    resource_id: str | None
    request_id: str
    status: int | None
    code: str | None
