"""The sessions behind Bay's egress proxy: who they are, and the policies of their rows.

A policy is a row, which the proxy of each replica reads when a connection begins. Connections that stand are
judged again when a policy changes: the replica that wrote it has all others do so. Each also looks from time
to time, since such a word may be lost.
"""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import IPv4Network, IPv6Network, ip_address

import structlog

from bay.errors import BayError
from bay.ids import is_id_of
from bay.models import NetworkCounter, NetworkPolicy, NetworkState, from_wire, to_wire
from bay.network.policy import CompiledPolicy, compile_policy
from bay.network.proxy.credentials import secret_of
from bay.network.proxy.guest import PolicyVersion
from bay.network.proxy.server import EgressProxy, ProxySession
from bay.network.proxy.sums import sum_of
from bay.network.reserved_ranges import Address
from bay.server.replicas.bus import Bus
from bay.server.sessions.core import Core
from bay.server.sessions.effective_policy import policy_of
from bay.server.sessions.rows import handle_of, proxy_of
from bay.store import sandboxes, sessions
from bay.store.records import SandboxRecord, SessionRecord

log = structlog.get_logger("bay.egress")

_RENEW, _STATE = "egress:renew", "egress:state"
_LOOK_S = 2.0
_LOOKS_UNTIL_ALL = 30
_TOLD_NAMES, _TOLD_COUNTERS, _TOLD_BYTES = 20, 30, 6_500
"""The newest refused names that a replica tells another one, and the highest counters: of a state that is too
long for a message nothing would be told, and so a program could hide what it does.
"""


class ProxiedEgress:
    """The proxy of this replica. `private`: networks that rules may allow; `deny`: those that nobody reaches,
    beside reserved ones.
    """

    def __init__(
        self,
        core: Core,
        bus: Bus,
        *,
        listen: tuple[str, int],
        resolvers: Sequence[Address],
        private: Sequence[IPv4Network | IPv6Network],
        deny: Sequence[IPv4Network | IPv6Network],
        ipv6: bool,
    ) -> None:
        self._core, self._bus = core, bus
        self._listen, self._private = listen, private
        self.port = listen[1]
        """Where it listens; the real one once it is open."""
        self._proxy = EgressProxy(
            sessions=self._session, policies=self._policy, resolvers=resolvers, deny=deny, ipv6=ipv6,
            meters=core.meters,
        )  # fmt: skip
        bus.answer(_RENEW, self._renew_here)
        bus.answer(_STATE, self._state_here)

    async def open(self) -> None:
        """Listen. Raises DriverUnavailable."""
        self.port = await self._proxy.open(*self._listen)

    async def aclose(self) -> None:
        """End all connections."""
        await self._proxy.aclose()

    async def run(self) -> None:
        """Look for changes that no word came of, until cancelled."""
        looks = 0
        while True:
            await asyncio.sleep(_LOOK_S)
            looks += 1
            try:
                await self.look(connected=looks % _LOOKS_UNTIL_ALL != 0)
            except BayError as error:
                log.warning("egress.not_looked", error=error.message)

    async def look(self, *, connected: bool) -> None:
        """Hold the sessions that are known here to what their rows say; `connected`: those with a connection
        alone. Raises BayError.
        """
        known = self._proxy.known(connected=connected)
        if known:
            async with self._core.store.read() as db:
                present = await sessions.policy_versions(db, known)
            for session_id, version in known.items():
                if present.get(session_id) != version:
                    await self._look_at(session_id)

    async def _look_at(self, session_id: str) -> None:
        try:
            await self._proxy.renew(session_id)
        except BayError as error:  # the others have their look
            log.warning("egress.not_renewed", session=session_id, error=error.message)

    async def renew(self, session_id: str) -> bool:
        """Hold the session to what its row says now, in every replica; whether each has said that it does."""
        return await self._bus.all(_RENEW, session_id)

    async def _renew_here(self, session_id: str) -> bool:
        await self._proxy.renew(session_id)
        return True

    async def state(self, session: SessionRecord, otherwise: NetworkState) -> NetworkState:
        """The session's traffic through all replicas that live, as far as they tell it; `otherwise` where
        there was none yet.
        """
        own = self.proxied(session.id)
        told = await self._bus.others(_STATE, session.id)
        others = [from_wire(NetworkState, one) for one in told]
        return sum_of(otherwise, others if own is None else [own, *others])

    def proxied(self, session_id: str) -> NetworkState | None:
        """The session's traffic through this replica; None where there was none."""
        return self._proxy.state(session_id)

    async def _state_here(self, session_id: str) -> object:
        found = self.proxied(session_id)
        return found and told_of(found)

    async def _session(self, session_id: str) -> ProxySession | None:
        if (found := await self._row(session_id)) is None:
            return None
        sandbox, session, address = found
        secret = secret_of(session.token)
        return ProxySession(
            secret=secret, owner=sandbox.owner, address=address, version=sandbox.network_version
        )

    async def _row(self, session_id: str) -> tuple[SandboxRecord, SessionRecord, Address] | None:
        """A session that may use the proxy, and the address of its pod."""
        if not is_id_of("sess", session_id):
            return None
        async with self._core.store.read() as db:
            sandbox = await sandboxes.of_session(db, session_id)
        session = sandbox and sandbox.session
        if sandbox is None or session is None or session.id != session_id or proxy_of(sandbox) is None:
            return None
        address = _address_of(session)
        return None if address is None or session.phase == "ending" else (sandbox, session, address)

    async def _policy(self, session_id: str) -> PolicyVersion | None:
        if (found := await self._row(session_id)) is None:
            return None
        sandbox, _, _ = found
        # The policy is read after its version: one that is newer than that is read once more.
        async with self._core.store.read() as db:
            profile = self._core.profiles.get(sandbox.profile)
            policy = await policy_of(db, sandbox, profile, self._core.driver.capabilities)
        plan = await asyncio.to_thread(_ready_plan, policy, self._private)
        return PolicyVersion(policy=policy, plan=plan, version=sandbox.network_version)


def told_of(found: NetworkState) -> object:
    """As much of it as a message holds."""
    counted = sorted(found.counters, key=_connections_and_names, reverse=True)[:_TOLD_COUNTERS]
    refused = found.refused[-_TOLD_NAMES:]
    while True:
        told = to_wire(replace(found, counters=tuple(counted), refused=refused))
        if not refused or len(json.dumps(told)) <= _TOLD_BYTES:
            return told
        refused = refused[1:]


def _connections_and_names(one: NetworkCounter) -> int:
    return one.allowed_connections + one.refused_connections + one.allowed_names + one.refused_names


def _ready_plan(policy: NetworkPolicy, private: Sequence[IPv4Network | IPv6Network]) -> CompiledPolicy:
    """The plan, which has nothing left to work out at its first decision: of thousands of rules that takes a
    moment.
    """
    plan = compile_policy(policy, private)
    plan.cidrs(4)
    return plan


def _address_of(session: SessionRecord) -> Address | None:
    """Of the pod, once its Ship has proven that it is there."""
    endpoint = handle_of(session).endpoint
    place = endpoint and endpoint.address
    return None if place is None else ip_address(place.rpartition(":")[0].strip("[]"))
