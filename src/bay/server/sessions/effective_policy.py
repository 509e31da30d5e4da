"""The effective network policy: the sandbox's, else its profile's, and none on a host that cannot hold to it.

A driver whose egress is unenforced gets the policy as it is, and starts no session that it would not hold to.
"""

from bay.drivers.base import Capabilities
from bay.models import NetworkMode, NetworkPolicy, Profile
from bay.store import networks
from bay.store.connection import StoreConnection
from bay.store.records import SandboxRecord

NOTHING = NetworkPolicy(mode="none")


async def policy_of(
    db: StoreConnection, sandbox: SandboxRecord, profile: Profile | None, here: Capabilities
) -> NetworkPolicy:
    """The effective policy of the sandbox's sessions with a driver that has the capabilities `here`."""
    own = await networks.get(db, sandbox.id) if sandbox.network_mode is not None else None
    wanted = own or (profile.network_policy if profile else NOTHING)
    return wanted if _stands(wanted.mode, here.of(sandbox.isolation)) else NOTHING


def has_headers(policy: NetworkPolicy | None) -> bool:
    """Whether a rule of the policy has a header added."""
    return policy is not None and any(rule.inject is not None for rule in policy.rules)


def is_brokered(sandbox: SandboxRecord, profile: Profile | None) -> bool:
    """The same of the sandbox's policy, or its profile's."""
    if sandbox.network_mode is not None:
        return sandbox.network_brokers
    return profile is not None and has_headers(profile.network_policy)


def mode_of(sandbox: SandboxRecord, profile: Profile | None, here: Capabilities) -> NetworkMode:
    """The mode of that policy; of a session whose policy cannot change, the one that it began with."""
    if sandbox.session is not None and (held := (sandbox.session.handle or {}).get("network")):
        return held
    wanted = sandbox.network_mode or (profile.network_policy.mode if profile else "none")
    return wanted if _stands(wanted, here.of(sandbox.isolation)) else "none"


def _stands(mode: NetworkMode, here: Capabilities) -> bool:
    return mode in here.network or here.egress == "unenforced"
