"""A sandbox's own DNS answers, for their TTL: a shared cache would tell by timing what another resolved."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from bay.network.dns.limits import DnsLimits
from bay.network.dns.wire import NOERROR, RecordParts
from bay.network.policy import CompiledPolicy
from bay.network.reserved_ranges import Address

Key = tuple[bytes, int]


@dataclass(frozen=True, slots=True)
class CachedAnswer:
    """The answer to a question. `reason` says why there is none, a reason of `models.RefusedName`."""

    rcode: int = NOERROR
    records: tuple[RecordParts, ...] = ()
    addresses: tuple[Address, ...] = ()
    reason: str | None = None

    @property
    def size(self) -> int:
        """Bytes that it takes to hold, about."""
        return 200 + sum(len(head) + len(body) + 100 for head, body in self.records)


@dataclass(frozen=True, slots=True)
class Pin:
    """An answer until `ends_at`; its addresses are open by the `rule` of `plan`'s verdict on its name."""

    text: str
    answer: CachedAnswer
    ends_at: float
    plan: CompiledPolicy
    rule: int | None


class Cache:
    """One sandbox's pins, bounded in number, bytes and addresses; the oldest make room."""

    def __init__(self, limits: DnsLimits, now: Callable[[], float]) -> None:
        self._limits, self._now = limits, now
        self._pins: OrderedDict[Key, Pin] = OrderedDict()
        self._bytes = self._addresses = 0

    def get(self, key: Key) -> Pin | None:
        """The live answer to `key`."""
        pin = self._pins.get(key)
        if pin is not None and pin.ends_at <= self._now():
            self.drop(key)
            return None
        return pin

    def put(self, key: Key, pin: Pin) -> None:
        """Hold `pin`, in place of another for its key, as long as there is room for it."""
        self.drop(key)
        self._pins[key] = pin
        self._weigh(pin, 1)
        while self._is_over():
            self.drop(next(iter(self._pins)))

    def drop(self, key: Key) -> None:
        """Hold nothing for `key`."""
        if (pin := self._pins.pop(key, None)) is not None:
            self._weigh(pin, -1)

    def live(self) -> Iterator[tuple[Key, Pin]]:
        """All live answers; the cache may be changed meanwhile."""
        now = self._now()
        return iter([(key, pin) for key, pin in self._pins.items() if pin.ends_at > now])

    def _weigh(self, pin: Pin, sign: int) -> None:
        self._bytes += sign * pin.answer.size
        self._addresses += sign * len(pin.answer.addresses)

    def _is_over(self) -> bool:
        limits = self._limits
        return (
            len(self._pins) > limits.held_answers
            or self._bytes > limits.held_bytes
            or self._addresses > limits.addresses
        )


class Origins:
    """The names by which a sandbox resolved an address; the least recently seen makes room for a new one."""

    def __init__(self, limits: DnsLimits) -> None:
        self._limits = limits
        self._names: OrderedDict[Address, OrderedDict[str, None]] = OrderedDict()

    def add(self, name: str, addresses: tuple[Address, ...]) -> None:
        """`name` was answered with `addresses`."""
        for address in addresses:
            names = self._names.setdefault(address, OrderedDict())
            self._names.move_to_end(address)
            names[name] = None
            names.move_to_end(name)
            if len(names) > self._limits.names_per_address:
                names.popitem(last=False)
        while len(self._names) > self._limits.addresses:
            self._names.popitem(last=False)

    def all(self) -> dict[Address, set[str]]:
        """A copy."""
        return {address: set(names) for address, names in self._names.items()}
