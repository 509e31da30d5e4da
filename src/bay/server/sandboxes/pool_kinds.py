"""The kinds of pooled sandboxes: a profile's are one kind. Pure.

A fingerprint tells that a session is the one that a create would have started.
"""

import hashlib
import json
from dataclasses import dataclass, replace
from datetime import datetime

from bay import __version__
from bay.ids import new_id
from bay.models import Profile, Resources, to_wire
from bay.store.records import NOBODY, SandboxRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolKind:
    """The sandboxes of one pool: how they start, and how many of them wait."""

    profile: Profile
    fingerprint: str
    pool_size: int
    pool_max: int | None

    @classmethod
    def of_profile(cls, profile: Profile) -> "PoolKind":
        """The sandboxes of a profile as it stands in the settings."""
        size, most = profile.pool_size, profile.pool_max
        return cls(profile=profile, fingerprint=fingerprint_of(profile), pool_size=size, pool_max=most)

    @property
    def name(self) -> str:
        """Its name in the log."""
        return self.profile.id

    @property
    def largest(self) -> int:
        """The most that the pool holds."""
        return self.pool_size if self.pool_max is None else self.pool_max

    @property
    def follows_demand(self) -> bool:
        """Whether the pool grows and shrinks with the creates."""
        return self.pool_max is not None

    @property
    def resources(self) -> Resources:
        """The resources of each of its sandboxes."""
        return self.profile.resources

    def fresh_record(self, now: datetime) -> SandboxRecord:
        """The row of one more, which belongs to nobody."""
        return replace(fresh_record(self.profile, NOBODY, new_id("ws"), now), pool=self.fingerprint)


def fresh_record(profile: Profile, owner: str, cargo_id: str, now: datetime) -> SandboxRecord:
    """The row of a new sandbox of that profile, wanted running, with no name and no limit in time."""
    return SandboxRecord(
        seq=0, id=new_id("sandbox"), owner=owner, name=None, profile=profile.id, image=profile.image,
        isolation=profile.isolation, cargo_id=cargo_id, persist=profile.persist, env={}, labels={}, target="running",
        generation=0, error=None, idle_timeout=None, idle_expires_at=None, expires_at=None, created_at=now,
        deleted_at=None, session=None,
    )  # fmt: skip


def fingerprint_of(profile: Profile) -> str:
    """Hash of a session's inputs, 32 hex characters: equal ones start the same thing."""
    session = (
        profile.id, profile.image, profile.isolation, profile.resources, profile.root, profile.kernel, profile.persist,
        profile.disk_mb, profile.network_policy, profile.user, profile.users,
    )  # fmt: skip
    text = json.dumps([__version__, to_wire(list(session))], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
