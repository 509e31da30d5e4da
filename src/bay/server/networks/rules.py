"""Which network policies this host takes."""

import asyncio
from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network

from bay.errors import BadRequest, CapabilityNotSupported
from bay.models import NetworkMode, NetworkPolicy
from bay.network.policy import checked


async def checked_policy(
    policy: NetworkPolicy, offered: Sequence[NetworkMode], private: Sequence[IPv4Network | IPv6Network]
) -> NetworkPolicy:
    """The policy as the store keeps it. Rules may open `private` networks, and no other that is not public.

    Raises InvalidArgument, and CapabilityNotSupported for a mode that the driver does not enforce.
    """
    if policy.mode not in offered:
        raise CapabilityNotSupported(
            f"this host cannot enforce network mode {policy.mode}; `bay doctor` says why",
            details={"capability": policy.mode, "available": list(offered)},
        )
    if policy.mode == "none" and policy.rules:
        raise BadRequest("mode none takes no rules, because it blocks all traffic; use allowlist or open")
    return await asyncio.to_thread(checked, policy, private)  # thousands of rules take a moment
