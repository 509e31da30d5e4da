"""A sandbox's names are resolved upstream, judged by the policy, opened in the kernel and cached, in turn."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from math import ceil

from bay.clock import Clock
from bay.meters import Meters
from bay.network.dns import wire
from bay.network.dns.cache import Cache, CachedAnswer, Key, Origins, Pin
from bay.network.dns.limits import Budget, DnsLimits
from bay.network.dns.resolution import Resolution, resolve
from bay.network.dns.responses import Response
from bay.network.dns.upstream import Upstream
from bay.network.policy import CompiledPolicy
from bay.network.reserved_ranges import Address

ADDRESSES = (wire.A, wire.AAAA)


Opener = Callable[[int, str, Sequence[Address], int], Awaitable[None]]
"""Makes reachable, before the sandbox `key` has the answer: `key`, `name`, `addresses`, `ttl_s` (seconds).

The network manager judges the name again under its lock, as the policy may have changed. Raises HostError.
"""


@dataclass(frozen=True, slots=True)
class ForwarderContext:
    """The parts of the forwarder that all sandboxes share."""

    upstream: Upstream
    opener: Opener
    is_reachable: Callable[[Address], bool]
    ipv6: bool
    limits: DnsLimits
    now: Callable[[], float]
    clock: Clock
    meters: Meters


@dataclass(frozen=True, slots=True)
class UpstreamQuestion:
    """A name and a type that others have to be asked for. `rule` is that which allows it."""

    text: str
    name: bytes
    type: int
    rule: int | None

    @property
    def key(self) -> Key:
        """As `Question.key`."""
        return self.name, self.type


class SandboxNames:
    """The names of one sandbox. `plan` is the policy that judges them."""

    def __init__(self, key: int, plan: CompiledPolicy, budget: Budget, around: ForwarderContext) -> None:
        self._key, self.plan, self._budget, self._around = key, plan, budget, around
        self._cache = Cache(around.limits, around.now)
        self.origins = Origins(around.limits)

    def set_plan(self, plan: CompiledPolicy) -> None:
        """Drop answers that `plan` does not allow; the next question opens others again, for its services."""
        self.plan = plan
        for key, pin in self._cache.live():
            if not self._may_stay(pin):
                self._cache.drop(key)

    def _may_stay(self, pin: Pin) -> bool:
        told = all(map(self._may_be_told, pin.answer.addresses))
        return pin.answer.reason is None and told and self.plan.name(pin.text).answered

    def held(self, key: Key) -> Pin | None:
        """The cached answer to a question, whether or not the current plan has opened it."""
        return self._cache.get(key)

    def left(self, pin: Pin) -> int:
        """Seconds for which `pin` holds."""
        return max(0, ceil(pin.ends_at - self._around.now()))

    async def settle(self, asked: UpstreamQuestion) -> Pin:
        """The answer, cached, with its addresses open. Raises NoAnswer, Loop, and the opener's errors."""
        pin = self._cache.get(asked.key) or await self._resolve(asked)
        while pin.answer.reason is None:
            plan = self.plan
            verdict = plan.name(pin.text)
            if not verdict.answered:
                return self._pin(asked, CachedAnswer(rcode=wire.REFUSED, reason="policy"), 0)
            if addresses := self._opened(pin.answer):
                ttl = self.left(pin) + self._around.limits.grace_s
                await self._around.opener(self._key, pin.text, addresses, ttl)
            if plan is self.plan:  # the plan did not change while the kernel opened the addresses
                self.origins.add(pin.text, addresses)
                return self._hold(asked, Pin(pin.text, pin.answer, pin.ends_at, plan, verdict.rule))
        return self._hold(asked, pin)

    def fail(self, asked: UpstreamQuestion, reason: str) -> Pin:
        """Cache the failure for a moment, without a retry."""
        answer = CachedAnswer(rcode=wire.SERVFAIL, reason=reason)
        return self._hold(asked, self._pin(asked, answer, self._around.limits.failure_s))

    async def _resolve(self, asked: UpstreamQuestion) -> Pin:
        found = await resolve(self._ask, asked.name, asked.type, self._around.limits.aliases)
        return self._pin(asked, self._answer(asked, found), self._clamped(found.ttl))

    async def _ask(self, name: bytes, kind: int) -> Response:
        response = await self._around.upstream.ask(name, kind)
        self._budget.received(response.size)
        return response

    def _answer(self, asked: UpstreamQuestion, found: Resolution) -> CachedAnswer:
        """The part of the resolution that may be answered."""
        data, addresses = found.data, ()
        if asked.type in ADDRESSES:
            known = {one: ip_address(one) for one in data}
            data = tuple(one for one in data if self._may_be_told(known[one]))
            data = data[: self._around.limits.addresses_per_name]
            addresses = tuple(known[one] for one in data)
        if found.data and not data:
            return CachedAnswer(rcode=wire.REFUSED, reason="private_answer")
        records = wire.answer_records(asked.name, found.aliases, asked.type, data)
        return CachedAnswer(found.rcode, records, addresses)

    def _may_be_told(self, address: Address) -> bool:
        return self._around.is_reachable(address) or self._is_private(address)

    def _is_private(self, address: Address) -> bool:
        """Whether a rule with a cidr allows the private address, which names do not open."""
        return any(address in network for network in self.plan.private)

    def _opened(self, answer: CachedAnswer) -> tuple[Address, ...]:
        return tuple(one for one in answer.addresses if not self._is_private(one))

    def _clamped(self, ttl: int) -> int:
        limits = self._around.limits
        return min(max(ttl, limits.ttl_min_s), limits.ttl_max_s)

    def _pin(self, asked: UpstreamQuestion, answer: CachedAnswer, ttl: int) -> Pin:
        return Pin(asked.text, answer, self._around.now() + ttl, self.plan, asked.rule)

    def _hold(self, asked: UpstreamQuestion, pin: Pin) -> Pin:
        self._cache.put(asked.key, pin)
        return pin
