"""A guest of the proxy: one session, its policy, its connections, and what became of them."""

from collections.abc import Callable
from dataclasses import dataclass

from bay.models import NetworkPolicy, NetworkRule, NetworkState
from bay.network.counters import ConnectionCounts, counters
from bay.network.dns.names import ForwarderContext
from bay.network.dns.sandbox_resolver import SandboxResolver
from bay.network.http_passage import NotPassedOn, Stream
from bay.network.policy import MAX_RULES, CompiledPolicy, PolicyDecision
from bay.network.proxy.requests import EgressTarget
from bay.network.reserved_ranges import Address

_COUNTED = 2 * MAX_RULES
"""Rules and reasons with counts, of the present policy and of former ones."""

_JUDGED = 8
"""Of the addresses of a name so many are judged, as answers may have hundreds."""

IsDenied = Callable[[Address], bool]
"""Whether no sandbox reaches an address, whatever its rules say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyVersion:
    """A policy, compiled. A sandbox's later one has a higher `version`."""

    policy: NetworkPolicy
    plan: CompiledPolicy
    version: int


@dataclass(slots=True, eq=False)
class ProxiedConnection:
    """A connection of a guest, from the client to an address of its target."""

    target: EgressTarget
    address: Address
    client: Stream
    host: Stream

    def cut(self) -> None:
        """End both sides at once."""
        self.client.writer.transport.abort()
        self.host.writer.transport.abort()


class ProxyGuest:
    """One session, all on the event loop: code without an await is not interrupted."""

    def __init__(
        self,
        key: int,
        session_id: str,
        owner: str,
        begun: PolicyVersion,
        around: ForwarderContext,
        is_denied: IsDenied,
    ) -> None:
        self.session_id, self.owner = session_id, owner
        self.is_over = False
        self._present = begun
        self._resolver = SandboxResolver(key, begun.plan, around)
        self._is_denied = is_denied
        self._meters = around.meters
        self._open: set[ProxiedConnection] = set()
        self._counts: dict[tuple[NetworkRule | None, str | None], tuple[int, int]] = {}
        self._received = self._sent = 0

    async def aclose(self) -> None:
        """End all its connections; it begins no other one."""
        self.is_over = True
        for one in list(self._open):
            one.cut()
        await self._resolver.aclose()

    @property
    def version(self) -> int:
        """Of the policy that holds."""
        return self._present.version

    @property
    def is_connected(self) -> bool:
        """Whether it has a connection."""
        return bool(self._open)

    def hold(self, present: PolicyVersion) -> int:
        """Judge by that policy from now on, and end the connections that it does not allow; how many."""
        self._present = present
        if len(self._counts) > _COUNTED:  # those of former rules, which may come back
            rules = frozenset(present.policy.rules)
            self._counts = {
                key: one for key, one in self._counts.items() if key[0] is None or key[0] in rules
            }
        self._resolver.set_plan(present.plan)
        gone = [one for one in self._open if not self._decide(one.target, one.address).allowed]
        for one in gone:
            one.cut()
        return len(gone)

    async def addresses(self, target: EgressTarget) -> list[Address]:
        """The addresses of the target that the guest may reach at its port, one at least. Raises
        NotPassedOn.
        """
        if isinstance(target.host, str):
            found = await self._resolver.lookup(target.host)
            if not found.addresses:
                raise _unresolved(target, found.reason)
            known = found.addresses[:_JUDGED]
        else:
            known = (target.host,)
        decisions = [(one, self._decide(target, one)) for one in known]
        allowed = [address for address, decision in decisions if decision.allowed]
        if not allowed:
            self._count(decisions[0][1])
            raise _refused(target)
        return allowed

    def begin(
        self, target: EgressTarget, address: Address, client: Stream, host: Stream
    ) -> ProxiedConnection:
        """Take over a connection that was made; call `end` at its end. Raises NotPassedOn where the policy
        has changed meanwhile.
        """
        decision = self._decide(target, address)
        self._count(decision)
        if self.is_over or not decision.allowed:
            raise _refused(target)
        made = ProxiedConnection(target, address, client, host)
        self._open.add(made)
        return made

    def end(self, one: ProxiedConnection) -> None:
        """It is over."""
        self._open.discard(one)

    def count_bytes(self, client: Stream) -> None:
        """A client's connection to the proxy is over."""
        self._received += client.said
        self._sent += client.heard
        self._meters.egress_bytes.labels("in").inc(client.said)
        self._meters.egress_bytes.labels("out").inc(client.heard)

    def count_flood(self) -> None:
        """A connection was refused since there are too many."""
        self._count(PolicyDecision(False, reason="flood"))

    def state(self) -> NetworkState:
        """Its network, and what became of its connections since this proxy knows it."""
        rules = {rule: index for index, rule in reversed(list(enumerate(self._present.policy.rules)))}
        found: ConnectionCounts = {
            (rule and rules[rule], reason): counts
            for (rule, reason), counts in self._counts.items()
            if rule is None or rule in rules
        }
        return NetworkState(
            mode=self._present.policy.mode,
            enforced=True,
            proxied=True,
            counters=counters(found, self._resolver.log.counts()),
            refused=self._resolver.log.refused(),
            received_bytes=self._received + sum(one.client.said for one in self._open),
            sent_bytes=self._sent + sum(one.client.heard for one in self._open),
        )

    def _decide(self, target: EgressTarget, address: Address) -> PolicyDecision:
        if self._is_denied(address):
            return PolicyDecision(False, reason="reserved")
        names = (target.host,) if isinstance(target.host, str) else ()
        return self._present.plan.decide(address, "tcp", target.port, names)

    def _count(self, decision: PolicyDecision) -> None:
        rule = None if decision.rule is None else self._present.policy.rules[decision.rule]
        key = rule, None if rule is not None else decision.reason
        allowed, refused = self._counts.get(key, (0, 0))
        self._counts[key] = allowed + decision.allowed, refused + (not decision.allowed)
        self._meters.egress_connections.labels("allowed" if decision.allowed else "refused").inc()


def _refused(target: EgressTarget) -> NotPassedOn:
    return NotPassedOn(403, "refused", f"the sandbox's network policy does not allow {target.authority}")


def _unresolved(target: EgressTarget, reason: str | None) -> NotPassedOn:
    match reason:
        case None:
            return NotPassedOn(502, "upstream", f"{target.host} has no address")
        case "upstream" | "loop":
            return NotPassedOn(502, "upstream", f"no resolver has an address of {target.host}")
        case "private_answer":
            return NotPassedOn(403, "refused", f"{target.host} leads to addresses that no sandbox reaches")
        case "entropy":
            return NotPassedOn(403, "refused", "the sandbox sends too much in names")
        case _:
            return _refused(target)
