"""The kinds of pooled sandboxes: a profile's are one kind, and a template's are one. Pure.

A fingerprint tells that a session is the one that a create would have started.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from bay import __version__
from bay.errors import InvalidArgument
from bay.ids import new_id
from bay.models import Profile, Resources, ServiceSpec, to_wire
from bay.server.sessions import sizes
from bay.server.templates.services import can_have_pool, template_services
from bay.store.records import NOBODY, SandboxRecord, TemplateRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolKind:
    """The sandboxes of one pool: how they start, and how many of them wait."""

    profile: Profile
    template: TemplateRecord | None = None
    """None for the sandboxes of creates that name no template."""
    fingerprint: str
    pool_size: int
    pool_max: int | None

    @classmethod
    def of_profile(cls, profile: Profile) -> "PoolKind":
        """The sandboxes of a profile as it stands in the settings."""
        size, most = profile.pool_size, profile.pool_max
        return cls(profile=profile, fingerprint=fingerprint_of(profile), pool_size=size, pool_max=most)

    @classmethod
    def of_template(cls, template: TemplateRecord, profiles: Mapping[str, Profile]) -> "PoolKind | None":
        """The sandboxes of a template; None where its profile is gone, or forbids them by now."""
        profile = profiles.get(template.profile)
        if profile is None or not can_have_pool(profile):
            return None
        try:
            sizes.checked(template.sizes, profile)
        except InvalidArgument:
            return None
        print_ = fingerprint_of(profile, template)
        size, most = template.pool_size, template.pool_max
        return cls(profile=profile, template=template, fingerprint=print_, pool_size=size, pool_max=most)

    @property
    def template_id(self) -> str | None:
        """The id of its template."""
        return self.template and self.template.id

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
        own = sizes.PROFILES_OWN if self.template is None else self.template.sizes
        return sizes.resources_of(own, self.profile)

    @property
    def disk_mb(self) -> int | None:
        """The limit of the files of each, MiB; None for no limit."""
        own = sizes.PROFILES_OWN if self.template is None else self.template.sizes
        return sizes.sizes_of(own, self.profile).disk_mb

    @property
    def services(self) -> tuple[ServiceSpec, ...]:
        """The services that each starts with."""
        return () if self.template is None else template_services(self.template)

    def fresh_record(self, now: datetime) -> SandboxRecord:
        """The row of one more, which belongs to nobody."""
        made = replace(fresh_record(self.profile, NOBODY, new_id("ws"), now), pool=self.fingerprint)
        if (of := self.template) is None:
            return made
        return replace(
            made, env=of.env, cpus=of.cpus, memory_mb=of.memory_mb, disk_mb=of.disk_mb, pids=of.pids
        )


def fresh_record(profile: Profile, owner: str, cargo_id: str, now: datetime) -> SandboxRecord:
    """The row of a new sandbox of that profile, wanted running, with no name and no limit in time."""
    return SandboxRecord(
        seq=0, id=new_id("sandbox"), owner=owner, name=None, profile=profile.id, image=profile.image,
        isolation=profile.isolation, cargo_id=cargo_id, persist=profile.persist, env={}, labels={}, target="running",
        generation=0, error=None, idle_timeout=None, idle_expires_at=None, expires_at=None, created_at=now,
        deleted_at=None, session=None,
    )  # fmt: skip


def fingerprint_of(profile: Profile, template: TemplateRecord | None = None) -> str:
    """Hash of a session's inputs, 32 hex characters: equal ones start the same thing."""
    session = (
        profile.id, profile.image, profile.isolation, profile.resources, profile.root, profile.kernel, profile.persist,
        profile.disk_mb, profile.network_policy, profile.user, profile.users,
        profile.home, profile.skills and profile.capabilities, profile.env_file and profile.env,
        profile.hibernate,
    )  # fmt: skip
    if template is not None:
        own = (
            template.id, template.image_id, template.checkpoint_id, template.sizes, template.env,
            template_services(template),
        )  # fmt: skip
        session = (*session, *own)
    text = json.dumps([__version__, to_wire(list(session))], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
