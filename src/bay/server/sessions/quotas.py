"""Quotas bound the use of a key, and of all keys of an owner together, at any one time.

Checked inside the transaction that writes the intent. The database has one writer, so however many calls come
at once, the sum never passes a limit. Rejected: counters beside the rows, which a crash makes wrong.
A profile's pool counts for no owner, and a template's for the template's, as if it were full.
"""

import math
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

from bay.clock import Clock
from bay.errors import QuotaExceeded
from bay.models import Limits, Profile, Resources, Sizes
from bay.server.sessions.sizes import resources_of
from bay.server.web.auth import Caller
from bay.store import sandboxes, tallies
from bay.store.connection import StoreConnection
from bay.store.records import NOBODY, SandboxRecord, TemplateRecord
from bay.store.tallies import ProfileUsage, UsageScope
from bay.units import MIB

_MINUTE = timedelta(minutes=1)
_RETRY_S = 5
"""No hint when to retry: the owner decides when to stop or delete something."""
_EPSILON = 1e-9  # cores are sums of decimal fractions

_WORDS = {
    "sandboxes": ("sandboxes", "delete one"),
    "running": ("running sandboxes", "pause or stop one"),
    "cpus": ("cores in running sandboxes", "pause or stop one"),
    "memory_mb": ("MiB of memory in sandboxes that run or are frozen", "stop one"),
    "cargos": ("external cargos", "delete one"),
    "disk_mb": ("MiB of files", "delete files or sandboxes"),
    "secrets": ("secrets", "delete one"),
    "creates_per_minute": ("creates in a minute", "wait {} s"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Need:
    """The resources that a request asks for."""

    sandboxes: int = 0
    running: int = 0
    cpus: float = 0
    memory_mb: int = 0


@dataclass(frozen=True, slots=True)
class _Bound:
    """Limits, and whose they are."""

    of: Literal["key", "owner"]
    whose: UsageScope
    limits: Limits

    def check(self, quota: str, used: float, more: float, retry_s: int = _RETRY_S) -> None:
        """Raises QuotaExceeded when `more` does not fit; asking for nothing always fits."""
        limit: float | None = getattr(self.limits, quota)
        if limit is None or not more or used + more <= limit + _EPSILON:
            return
        what, way_out = _WORDS[quota]
        who = f"key {self.whose.key_id}" if self.of == "key" else f"owner {self.whose.owner}"
        details = {
            "quota": quota,
            "limit": limit,
            "used": used,
            "of": self.of,
            "retry_after_ms": retry_s * 1000,
        }
        raise QuotaExceeded(
            f"{who} may have {_plain(limit)} {what} and has {_plain(used)}, which leaves no room for "
            f"{_plain(more)} more; {way_out.format(retry_s)}, or have the quota {quota} raised",
            details=details,
        )


class Quotas:
    """Says whether there is room, by the connection of the transaction that would take it."""

    def __init__(
        self,
        *,
        of_key: Callable[[str], Limits | None],
        each_owner: Limits,
        owners: Mapping[str, Limits],
        profiles: Mapping[str, Profile],
        clock: Clock,
    ) -> None:
        self._of_key = of_key
        self._each_owner = each_owner
        self._owners = owners
        self._profiles = profiles
        self._clock = clock

    async def admit_create(
        self, db: StoreConnection, caller: Caller, resources: Resources, *, starts: bool
    ) -> None:
        """Let the caller make a sandbox, which with `starts` also wants compute. Raises QuotaExceeded."""
        now = self._clock()
        need = replace(_compute(resources) if starts else _Need(), sandboxes=1)
        for bound in self._bounds(caller.owner, caller.key_id):
            await self._check_rate(db, bound, now)
            await self._check_disk(db, bound)
            await self._check_present(db, bound, now, need)

    async def admit_cargo(self, db: StoreConnection, caller: Caller) -> None:
        """Let the caller make a cargo that belongs to no sandbox. Raises QuotaExceeded."""
        for bound in self._bounds(caller.owner, caller.key_id):
            await self._check_disk(db, bound)
            if bound.limits.cargos is not None:
                bound.check("cargos", await tallies.external_cargos(db, bound.whose.owner), 1)

    def admit_secret(self, caller: Caller, present: int) -> None:
        """Let the caller's owner, who has `present` secrets, have one more. Raises QuotaExceeded."""
        for bound in self._bounds(caller.owner, caller.key_id):
            bound.check("secrets", present, 1)

    async def admit_files(self, db: StoreConnection, caller: Caller) -> None:
        """Let the caller bring files that no sandbox writes. Raises QuotaExceeded."""
        for bound in self._bounds(caller.owner, caller.key_id):
            await self._check_disk(db, bound)

    async def admit_memory(self, db: StoreConnection, sandbox: SandboxRecord) -> None:
        """Let an automatic checkpoint keep the memory of the sandbox, which the limit of its files does not
        bound. Raises QuotaExceeded.
        """
        for bound in self._bounds(sandbox.owner, sandbox.key_id):
            await self._check_disk(db, bound)

    async def admit_pull(self, db: StoreConnection, owner: str, own_bytes: int) -> None:
        """Let a pull that the owner asked for begin: others may have ended since. `own_bytes` of its archive
        count already. Raises QuotaExceeded.
        """
        for bound in self._bounds(owner, None) if owner != NOBODY else ():
            await self._check_disk(db, bound, own_bytes)

    async def admit_pool(self, db: StoreConnection, caller: Caller, template: TemplateRecord) -> None:
        """Let the pool of the caller's template be as large as the record says, full or not. Raises
        QuotaExceeded.
        """
        size, one = template.pool_largest, _compute(self._resources(template.profile, template.sizes))
        need = _Need(
            sandboxes=size, running=size, cpus=round(size * one.cpus, 6), memory_mb=size * one.memory_mb
        )
        for bound in self._bounds(caller.owner, caller.key_id):
            await self._check_present(db, bound, self._clock(), need, besides=template.id)

    async def admit_pooled(self, db: StoreConnection, template: TemplateRecord) -> None:
        """Let more sandboxes of the template, with its files, wait in its pool. Raises QuotaExceeded."""
        for bound in self._bounds(template.owner, template.pool_key_id):
            await self._check_disk(db, bound)

    async def admit_running(self, db: StoreConnection, sandbox: SandboxRecord) -> None:
        """Let the sandbox have compute; one that has or wants it already may go on. Raises QuotaExceeded. Its
        files are no reason to refuse: an owner over the limit must get at them to remove some.
        """
        for bound in self._bounds(sandbox.owner, sandbox.key_id):
            present = await sandboxes.get(db, sandbox.id)
            if present is None or _is_counted(present):
                return
            need = _compute(self._resources(present.profile, present.sizes))
            if present.phase not in (None, "hibernated"):  # frozen, which holds the memory already
                need = replace(need, memory_mb=0)
            await self._check_present(db, bound, self._clock(), need, besides=present.id)

    async def admit_resize(
        self, db: StoreConnection, sandbox: SandboxRecord, before: Resources, after: Resources
    ) -> None:
        """Let the sandbox have other resources; less of one always fits. Raises QuotaExceeded."""
        grown = _Need(
            cpus=after.cpus if _is_counted(sandbox) and after.cpus > before.cpus else 0,
            memory_mb=after.memory // MIB if _holds_memory(sandbox) and after.memory > before.memory else 0,
        )
        for bound in self._bounds(sandbox.owner, sandbox.key_id):
            await self._check_present(db, bound, self._clock(), grown, besides=sandbox.id)

    def _bounds(self, owner: str, key_id: str | None) -> Generator[_Bound]:
        of_key = self._of_key(key_id) if key_id else None
        if of_key is not None and of_key != Limits():
            yield _Bound("key", UsageScope(owner, key_id), of_key)
        of_owner = self._owners.get(owner, self._each_owner)
        if of_owner != Limits():
            yield _Bound("owner", UsageScope(owner), of_owner)

    async def _check_rate(self, db: StoreConnection, bound: _Bound, now: datetime) -> None:
        limit = bound.limits.creates_per_minute
        if limit is None:
            return
        used = await tallies.created_since(db, bound.whose, now - _MINUTE)
        if used >= limit:
            retry_s = await self._until_room(db, bound.whose, limit, now)
            bound.check("creates_per_minute", used, 1, retry_s)

    async def _until_room(self, db: StoreConnection, whose: UsageScope, limit: int, now: datetime) -> int:
        """Seconds until so many of the newest are a minute old that one more fits."""
        leaves = await tallies.nth_newest(db, whose, limit) if limit else None
        wait = (leaves or now) + _MINUTE - now
        return min(60, max(1, math.ceil(wait.total_seconds())))  # the clock may have been put back

    async def _check_disk(self, db: StoreConnection, bound: _Bound, besides_bytes: int = 0) -> None:
        if bound.limits.disk_mb is not None:
            used = math.ceil((await tallies.disk_bytes(db, bound.whose) - besides_bytes) / MIB)
            bound.check("disk_mb", used, 1)

    async def _check_present(
        self, db: StoreConnection, bound: _Bound, now: datetime, need: _Need, besides: str | None = None
    ) -> None:
        """`besides`: the sandbox, or the template with a pool, that the need is all of."""
        found = await tallies.by_profile(db, bound.whose, now, besides)
        found += await tallies.pools(db, bound.whose, besides)
        bound.check("sandboxes", sum(t.sandboxes for t in found), need.sandboxes)
        bound.check("running", sum(t.running for t in found), need.running)
        bound.check("cpus", self._cpus(found), need.cpus)
        bound.check("memory_mb", self._memory_mb(found), need.memory_mb)

    def _cpus(self, found: list[ProfileUsage]) -> float:
        return round(sum(t.running * max(one.cpus for one in self._of(t)) for t in found), 6)

    def _memory_mb(self, found: list[ProfileUsage]) -> int:
        return sum(t.holding * (max(one.memory for one in self._of(t)) // MIB) for t in found)

    def _of(self, usage: ProfileUsage) -> tuple[Resources, Resources]:
        """The resources that are wanted and held: while they differ, the larger count."""
        wanted = Sizes(cpus=usage.cpus, memory_mb=usage.memory_mb)
        held = Sizes(cpus=usage.held_cpus, memory_mb=usage.held_memory_mb)
        return self._resources(usage.profile, wanted), self._resources(usage.profile, held)

    def _resources(self, profile: str, own: Sizes) -> Resources:
        # A profile that is no longer in the settings counts as one that sets nothing.
        return resources_of(own, self._profiles.get(profile) or Profile(id=profile))


def _compute(resources: Resources) -> _Need:
    return _Need(running=1, cpus=resources.cpus, memory_mb=resources.memory // MIB)


def _holds_memory(sandbox: SandboxRecord) -> bool:
    return sandbox.phase not in (None, "hibernated") or _is_counted(sandbox)


def _plain(number: float) -> str:
    return f"{number:.6f}".rstrip("0").rstrip(".")


def _is_counted(sandbox: SandboxRecord) -> bool:
    """Whether it counts as running already."""
    return sandbox.target == "running" or sandbox.phase in ("starting", "running", "ending")
