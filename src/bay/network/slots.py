"""Network slots: one number for each sandbox, from which its device, mark, zone and routing table follow."""

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

INSIDE_V4, GATEWAY_V4 = IPv4Address("10.186.0.2"), IPv4Address("10.186.0.1")
INSIDE_V6, GATEWAY_V6 = IPv6Address("fdba::2"), IPv6Address("fdba::1")

MARK_MASK = 0x0FFF_0000
_MARK_SHIFT = 16
_TABLES = 0xBA00_0000

_DEVICE = re.compile(r"bay[0-9a-f]{4}-[0-9a-f]{4}")

LAST_NUMBER = 4094
STUB = 0xFFFF
"""The number in the name of the other end of the link that leads nowhere."""

NOWHERE_TABLE = _TABLES
"""The routing table by which the host itself finds the sandboxes' common address: it leads nowhere."""


@dataclass(frozen=True, slots=True)
class NetworkSlot:
    """A session's place in the host's network. `number`, 1 to 4094, is its alone among all Bays here."""

    number: int
    session_id: str
    sandbox_id: str | None = None
    sentry: bool = False
    """Whether the session has a kernel of gVisor's, with a network stack of its own (see `sentry_link`)."""

    @property
    def mark(self) -> int:
        """The packet mark (under MARK_MASK) of its packets, and the mark of its accepted connections."""
        return self.number << _MARK_SHIFT

    @property
    def zone(self) -> int:
        """The conntrack zone of its own packets: all sandboxes have the same address."""
        return self.number

    @property
    def table(self) -> int:
        """The routing table that has its device as the way to the sandboxes' common address."""
        return _TABLES + self.number

    @property
    def key(self) -> str:
        """The prefix of its chains, maps and counters."""
        return f"s{self.number:04x}"


def device_prefix(instance: str) -> str:
    """The prefix of the names of all devices of one Bay."""
    return f"bay{instance}-"


def device_of(instance: str, number: int) -> str:
    """The name of the host's end of a sandbox's link; of number 0, of the device that leads nowhere."""
    return f"{device_prefix(instance)}{number:04x}"


def is_device(name: str) -> bool:
    """Whether a device's name is one that a Bay gives."""
    return _DEVICE.fullmatch(name) is not None


def number_of(instance: str, device: str) -> int | None:
    """The number in a device's name; None where it is no sandbox's of this Bay."""
    digits = device.removeprefix(device_prefix(instance))
    if digits == device or len(digits) != 4:
        return None
    number = int(digits, 16)
    return number if 1 <= number <= LAST_NUMBER else None
