"""A sandbox's network policy, and its traffic."""

from collections.abc import Sequence

from bay.client._async.http import AsyncSandboxNoun
from bay.client._calls import Call
from bay.client._options import bare
from bay.models import NetworkMode, NetworkPolicy, NetworkRule, NetworkState


class AsyncNetwork(AsyncSandboxNoun):
    """The network of one sandbox.

    A change of policy holds when the call returns, for connections that stand as well. None of this starts
    compute.
    """

    async def get(self) -> NetworkPolicy:
        """The policy: its own, or its profile's."""
        return await self._policy(Call.get(self._path("network-policy")))

    async def set(
        self, policy: NetworkPolicy | NetworkMode, rules: Sequence[NetworkRule] = ()
    ) -> NetworkPolicy:
        """Have it reach what `policy` says: a whole one, or a mode with `rules`.

        Gives it as the server understood it. Raises InvalidArgument for a rule that cannot be; the message
        says which and why. Nothing is changed then.
        """
        wanted = policy if isinstance(policy, NetworkPolicy) else NetworkPolicy(mode=policy, rules=(*rules,))
        return await self._policy(Call("PUT", self._path("network-policy"), body=bare(wanted), safe=True))

    async def reset(self) -> NetworkPolicy:
        """Give its own policy up for its profile's, which is returned. Again is no error."""
        return await self._policy(Call("DELETE", self._path("network-policy"), safe=True))

    async def state(self) -> NetworkState:
        """The allowed and refused traffic since its session began: counts by rule, names, bytes."""
        return await self._http.one(NetworkState, Call.get(self._path("network")))

    async def _policy(self, call: Call) -> NetworkPolicy:
        return await self._http.one(NetworkPolicy, call)
