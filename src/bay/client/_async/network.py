"""A sandbox's network policy, and its traffic."""

from collections.abc import Sequence

from bay.client._answers import model
from bay.client._async.http import AsyncHttp
from bay.client._calls import Call
from bay.client._options import bare
from bay.client._paths import sandbox_path
from bay.models import NetworkMode, NetworkPolicy, NetworkRule, NetworkState


class AsyncNetwork:
    """The network of one sandbox.

    A change of policy holds when the call returns, for connections that stand as well. None of this starts
    compute.
    """

    def __init__(self, http: AsyncHttp, sandbox_id: str) -> None:
        self._http = http
        self._sandbox_id = sandbox_id

    async def get(self) -> NetworkPolicy:
        """The policy: its own, or its profile's."""
        return await self._policy(Call(method="GET", path=self._path("network-policy"), safe=True))

    async def set(
        self, policy: NetworkPolicy | NetworkMode, rules: Sequence[NetworkRule] = ()
    ) -> NetworkPolicy:
        """Have it reach what `policy` says: a whole one, or a mode with `rules`.

        Gives it as the server understood it. Raises InvalidArgument for a rule that cannot be; the message
        says which and why. Nothing is changed then.
        """
        wanted = policy if isinstance(policy, NetworkPolicy) else NetworkPolicy(mode=policy, rules=(*rules,))
        path = self._path("network-policy")
        return await self._policy(Call(method="PUT", path=path, body=bare(wanted), safe=True))

    async def reset(self) -> NetworkPolicy:
        """Give its own policy up for its profile's, which is returned.

        Without one of its own this is no error.
        """
        return await self._policy(Call(method="DELETE", path=self._path("network-policy"), safe=True))

    async def state(self) -> NetworkState:
        """The allowed and refused traffic since its session began: counts by rule, names, bytes."""
        call = Call(method="GET", path=self._path("network"), safe=True)
        return model(NetworkState, await self._http.json(call))

    async def _policy(self, call: Call) -> NetworkPolicy:
        return model(NetworkPolicy, await self._http.json(call))

    def _path(self, *rest: str) -> str:
        return sandbox_path(self._sandbox_id, *rest)
