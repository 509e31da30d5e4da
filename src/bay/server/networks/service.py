"""The network service writes a policy as a wish with a version; the reconciler holds the session to it."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Network, IPv6Network

from bay.clock import Clock
from bay.drivers.base import Capabilities, Driver, NetworkControl
from bay.errors import BadRequest, CapabilityNotSupported, Conflict, NotFound, Timeout
from bay.models import CurrentPolicy, NetworkMode, NetworkPolicy, NetworkState, Profile
from bay.network.policy import checked
from bay.server.networks.egress import ProxiedEgress
from bay.server.sessions.effective_policy import has_headers, mode_of
from bay.server.sessions.rows import handle_of, proxy_of
from bay.server.sessions.waker import Waker
from bay.server.web.auth import Caller
from bay.store import events, networks, sandboxes, secrets
from bay.store.connection import StoreConnection
from bay.store.engine import Store
from bay.store.records import SandboxRecord

_SETTLE_S = 30.0


@dataclass(eq=False, kw_only=True)
class Networks:
    """The service behind `…/network-policy` and `…/network`. Rules may open `private` destinations."""

    store: Store
    waker: Waker
    driver: Driver
    profiles: dict[str, Profile]
    private: Sequence[IPv4Network | IPv6Network]
    clock: Clock
    egress: ProxiedEgress | None = None
    """Where sessions with rules reach nothing but a proxy."""

    async def get(self, caller: Caller, ref: str) -> CurrentPolicy:
        """The policy that a sandbox has."""
        record = await self.waker.find(caller, ref)
        async with self.store.read() as db:
            return await self._current(db, record)

    async def put(self, caller: Caller, ref: str, policy: NetworkPolicy | None) -> CurrentPolicy:
        """Give a sandbox that policy, or with None its profile's again; returns when it holds.
        Raises DriverUnavailable when the host refuses, and Timeout; Bay tries again by itself.
        """
        record = await self.waker.find(caller, ref)
        self.waker.refuse_expired(record)
        here = self.driver.capabilities.of(record.isolation)
        wanted = policy and await checked_policy(policy, here, self.private)
        async with self.store.write() as db:
            await check_injected(db, caller.owner, wanted)
            present = await sandboxes.get(db, record.id) or record
            if present.session is not None and not self._may_change(present):
                raise Conflict(
                    f"driver {self.driver.name} applies a policy when compute starts, and {record.id} has compute that "
                    "began without a proxy; stop it, and change the policy then"
                    if self.egress
                    else f"driver {self.driver.name} applies a policy when compute starts, and {record.id} has compute; "
                    "stop it, and change the policy then"
                )
            version = present.network_version + 1
            mode = await write_policy(db, present.id, wanted, version)
            await events.add(
                db, present, "network.changed", self.clock(),
                mode=mode or self._mode_of(replace(present, network_mode=None)),
                source="sandbox" if wanted else "profile", version=version,
            )  # fmt: skip
        if self.egress is not None and present.session is not None:
            await self.egress.renew(present.session.id)
        await self._settle(present, version)
        return await self.get(caller, record.id)

    async def state(self, caller: Caller, ref: str) -> NetworkState:
        """A sandbox's traffic since its session began. Wakes nothing."""
        record = await self.waker.find(caller, ref)
        running = record.session is not None and record.session.phase in ("running", "paused")
        if record.session is not None and running and isinstance(self.driver, NetworkControl):
            return await self.driver.network_state(handle_of(record.session))
        without = NetworkState(
            mode=self._mode_of(record), enforced=self.driver.capabilities.egress != "unenforced", counters=(), refused=(),
            received_bytes=0, sent_bytes=0,
        )  # fmt: skip
        if self.egress is not None and record.session is not None and proxy_of(record) is not None:
            return await self.egress.state(record.session, without)
        return without

    async def _current(self, db: StoreConnection, record: SandboxRecord) -> CurrentPolicy:
        present = await sandboxes.get(db, record.id) or record
        own, here = await networks.get(db, record.id), self.driver.capabilities.of(present.isolation)
        profile = self.profiles.get(present.profile)
        policy = own or (profile.network_policy if profile else NetworkPolicy(mode="none"))
        return CurrentPolicy(
            mode=policy.mode, rules=policy.rules, version=present.network_version,
            source="sandbox" if own else "profile", enforced=here.egress != "unenforced" and policy.mode in here.network,
        )  # fmt: skip

    def _may_change(self, record: SandboxRecord) -> bool:
        """Whether its session can be held to another policy."""
        return isinstance(self.driver, NetworkControl) or proxy_of(record) is not None

    def _mode_of(self, record: SandboxRecord) -> NetworkMode:
        return mode_of(record, self.profiles.get(record.profile), self.driver.capabilities)

    async def _settle(self, before: SandboxRecord, version: int) -> None:
        late = Timeout(
            f"the policy of {before.id} was not applied within {_SETTLE_S:g} s; Bay continues in the background"
        )
        await self.waker.settle(
            before, lambda r: _holds(r, version), lambda r: _is_refused(r, before), late, _SETTLE_S
        )


def check_offered(policy: NetworkPolicy, here: Capabilities) -> None:
    """Raises CapabilityNotSupported for a policy that sessions of this driver cannot have."""
    if policy.mode not in here.network:
        raise CapabilityNotSupported(
            f"network mode {policy.mode} cannot be enforced here; choose {' or '.join(here.network)}, or see `bay doctor`",
            details={"capability": policy.mode, "available": list(here.network)},
        )
    if policy.rules and not here.network_rules:
        raise CapabilityNotSupported(
            "this server's driver knows no rules of network policies; give a mode alone",
            details={"capability": "network_rules", "available": list(here.network)},
        )
    if not here.broker and any(rule.inject for rule in policy.rules):
        raise CapabilityNotSupported(
            "this host cannot add headers to requests; leave out `inject`",
            details={"capability": "broker", "available": []},
        )
    if here.egress == "proxy":
        _check_proxied(policy)


def _check_proxied(policy: NetworkPolicy) -> None:
    """Raises CapabilityNotSupported for a rule that is about what no proxy carries."""
    for index, rule in enumerate(policy.rules):
        if rule.protocol not in (None, "tcp"):
            raise CapabilityNotSupported(
                f"rule {index} is for {rule.protocol}, and a sandbox with rules reaches everything by a proxy here, which "
                "carries TCP alone; leave out `protocol`, or the rule",
                details={"capability": "protocol", "available": ["tcp"], "rule": index},
            )


async def checked_policy(
    policy: NetworkPolicy, here: Capabilities, private: Sequence[IPv4Network | IPv6Network]
) -> NetworkPolicy:
    """The policy as the store keeps it, whose rules open no network that is neither public nor `private`.
    Raises InvalidArgument, and CapabilityNotSupported for a mode that the driver does not enforce.
    """
    check_offered(policy, here)
    if policy.mode == "none" and policy.rules:
        raise BadRequest("mode none takes no rules, because it blocks all traffic; use allowlist or open")
    return await asyncio.to_thread(checked, policy, private)  # thousands of rules take a moment


async def check_injected(db: StoreConnection, owner: str, policy: NetworkPolicy | None) -> None:
    """Raises NotFound unless the owner has the secrets that the policy's headers hold."""
    names = {rule.inject.secret for rule in policy.rules if rule.inject} if policy else set[str]()
    there = await secrets.named(db, owner, names) if names else {}
    if missing := sorted(names - there.keys()):
        raise NotFound(f"there is no secret {missing[0]}; set it first")


async def write_policy(
    db: StoreConnection, sandbox_id: str, policy: NetworkPolicy | None, version: int
) -> NetworkMode | None:
    """Write a sandbox's policy from that version on, None for its profile's; and return its own mode."""
    if policy is None:
        await networks.remove(db, sandbox_id)
    else:
        await networks.put(db, sandbox_id, policy)
    mode = policy.mode if policy else None
    await sandboxes.change(
        db, sandbox_id, network_version=version, network_mode=mode, network_brokers=has_headers(policy)
    )
    return mode


def _holds(record: SandboxRecord, version: int) -> bool:
    """Whether no session runs by an older policy: a starting one may have read it, an ending one has it.
    A hibernated one reads its policy when it is woken.
    """
    session = record.session
    if session is None or session.phase == "hibernated":
        return True
    return session.network_version == version or record.network_version != version


def _is_refused(record: SandboxRecord, before: SandboxRecord) -> bool:
    lives = record.session is not None and record.session.phase in ("running", "paused")
    return lives and record.error is not None and record.error != before.error
