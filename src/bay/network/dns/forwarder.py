"""The DNS forwarder resolves each sandbox's names upstream, as far as its policy allows them.

The socket identifies the sandbox: Bay opened it in the sandbox's own network namespace, where nothing else
can send to it. A name that the policy does not allow is REFUSED. An allowed one is resolved by Bay, its
addresses are opened in the kernel for the answer's TTL, and only then is the answer sent. So a sandbox
reaches by a name exactly the addresses in its answer.

Rejected: a packet filter that reads passing answers (TCP, fragments and compression make it a second, worse
parser, and the answer comes before the opening), and a proxy that reads TLS names (ended by ECH).
"""

import asyncio
import socket
import time
from collections.abc import Callable, Sequence

from bay.clock import Clock, utc_now
from bay.meters import Meters
from bay.models import RefusedName
from bay.network.dns.limits import DnsLimits
from bay.network.dns.log import Counts
from bay.network.dns.names import ForwarderContext, Opener
from bay.network.dns.sandbox_resolver import BROKER, SandboxResolver
from bay.network.dns.sockets import Sockets
from bay.network.dns.upstream import Upstream, UpstreamResolver, resolver
from bay.network.policy import CompiledPolicy
from bay.network.reserved_ranges import Address


class Forwarder:
    """The resolvers of all sandboxes, all on the event loop; `key` identifies a sandbox while it is served.
    `now`: a clock in seconds that does not jump; `clock`: displayed times. `ipv6` False: AAAA has no records,
    so that programs do not try addresses that lead nowhere.
    """

    def __init__(
        self,
        *,
        resolvers: Sequence[str | Address | UpstreamResolver],
        opener: Opener,
        is_reachable: Callable[[Address], bool],
        now: Callable[[], float] = time.monotonic,
        clock: Clock = utc_now,
        ipv6: bool = True,
        limits: DnsLimits | None = None,
        meters: Meters | None = None,
    ) -> None:
        limits = limits or DnsLimits()
        upstream = Upstream([resolver(one) for one in resolvers], limits, now)
        meters = meters or Meters()
        self._around = ForwarderContext(upstream, opener, is_reachable, ipv6, limits, now, clock, meters)
        self._served: dict[int, Sockets] = {}

    async def aclose(self) -> None:
        """Stop serving everybody."""
        await asyncio.gather(*map(self.stop, list(self._served)))

    async def listen(
        self,
        key: int,
        udp: socket.socket,
        tcp: socket.socket,
        plan: CompiledPolicy,
        broker: str = BROKER,
    ) -> None:
        """Serve a sandbox on its two sockets, which this then owns; a served one keeps its cache.
        `broker` is the address at which its programs find its broker.
        """
        before = self._served.pop(key, None)
        if before is None:
            resolver = SandboxResolver(key, plan, self._around, broker)
        else:
            await before.aclose()
            resolver = before.resolver
            resolver.set_plan(plan)
        self._served[key] = Sockets(resolver, udp, tcp, self._around.limits)
        self._served[key].open()

    def set_plan(self, key: int, plan: CompiledPolicy) -> None:
        """Judge names by `plan`, those being resolved as well; drop answers it refuses. Raises KeyError."""
        self._served[key].resolver.set_plan(plan)

    async def stop(self, key: int) -> None:
        """Stop serving a sandbox and drop its cache; a sandbox that is not served is ignored."""
        served = self._served.pop(key, None)
        if served is not None:
            await served.aclose()
            await served.resolver.aclose()

    async def addresses(self, key: int, name: str) -> tuple[Address, ...]:
        """The addresses of a name, opened for a sandbox as if it had asked; none if it is not served."""
        return await self._served[key].resolver.addresses(name) if key in self._served else ()

    def refused(self, key: int) -> tuple[RefusedName, ...]:
        """The names that were not answered, newest last, bounded; empty for a sandbox that is not served."""
        return self._served[key].resolver.log.refused() if key in self._served else ()

    def counts(self, key: int) -> Counts:
        """Questions allowed and refused by each rule since the last change of policy; None: the mode."""
        return self._served[key].resolver.log.counts() if key in self._served else {}

    def names_of(self, key: int) -> dict[Address, set[str]]:
        """The names by which a sandbox knows each address, expired ones too: connections outlive them."""
        return self._served[key].resolver.names.origins.all() if key in self._served else {}
