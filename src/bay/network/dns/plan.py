"""What the forwarder must know of a policy, and what it calls when a name was resolved."""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any, Protocol


class NameVerdict(Protocol):
    """What a policy says to a name."""

    @property
    def answered(self) -> bool:
        """Whether the name may be known at all."""
        ...

    @property
    def rule(self) -> int | None:
        """The place of the rule that decided; None for the mode."""
        ...

    @property
    def opens(self) -> Any:
        """What may be reached under the name; the forwarder hands it on."""
        ...

    @property
    def carried(self) -> str:
        """What the asker chose of the name: what stands where the deciding rule has `*`, all of it where no rule decided."""
        ...


class Plan(Protocol):
    """A policy, compiled."""

    @property
    def private(self) -> Sequence[IPv4Network | IPv6Network]:
        """Private networks that its rules with a cidr allow: names may lead there, but open nothing."""
        ...

    def name(self, name: str) -> NameVerdict:
        """What it says to `name`: lower-case A-labels without a final dot."""
        ...


class Opener(Protocol):
    """Makes addresses reachable. The sandbox hears of them only afterwards.

    A policy may change while this is awaited, so whoever holds the kernel to policies judges `name` again under the lock that
    it changes policies with: `verdict` is what was true when it was called. Raises HostError when it cannot.
    """

    async def __call__(
        self,
        key: int,
        name: str,
        verdict: NameVerdict,
        addresses: Sequence[IPv4Address | IPv6Address],
        ttl_s: int,
    ) -> None: ...
