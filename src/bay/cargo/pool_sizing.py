"""Computes a pool's size, and when it takes nothing new. No I/O."""

from dataclasses import dataclass

from bay.units import GIB, MIB

SMALLEST = 256 * MIB
"""Of a pool; btrfs itself needs about half of that."""
_GRAIN = 16 * MIB
_STEP = 512 * MIB
_WORTH = 64 * MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """The file system that a pool's file lies on, in bytes; `held` is what the file occupies of it."""

    total: int
    free: int
    held: int


def host_reserve(total: int) -> int:
    """Space that a pool leaves to the host: 5 %, at least 1 GiB, but never more than an eighth."""
    return min(max(GIB, total // 20), total // 8)


def pool_reserve(total: int) -> int:
    """Space reserved for present sandboxes: 2 %, between 64 MiB and 1 GiB, but never more than an eighth."""
    return min(max(64 * MIB, total // 50), GIB, total // 8)


def wanted(host: Host, max_bytes: int | None) -> int:
    """How large a pool could be, full, without taking the host's reserve; below `SMALLEST` there is none."""
    backed = host.held + host.free - host_reserve(host.total)
    bounded = backed if max_bytes is None else min(backed, max_bytes)
    return max(0, bounded // _GRAIN * _GRAIN)


def next_size(now: int, wanted_size: int) -> int:
    """The next size of a pool of `now` bytes: up at once, down by steps, `now` when it is not worth it."""
    aim = max(wanted_size, SMALLEST)
    if abs(aim - now) < max(_WORTH, now // 64):
        return now
    return max(aim, now - _STEP)
