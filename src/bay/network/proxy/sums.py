"""Sums what several proxies have seen of one session. Pure."""

from collections.abc import Sequence
from dataclasses import replace

from bay.models import NetworkCounter, NetworkState, RefusedName

_NAMES = 200


def sum_of(last: NetworkState, seen: Sequence[NetworkState], names: int = _NAMES) -> NetworkState:
    """The traffic of all in `seen`, with `names` refused names at most, and the rest as in `last`."""
    return replace(
        last,
        proxied=True,
        counters=_counters([counter for one in seen for counter in one.counters]),
        refused=_refused([name for one in seen for name in one.refused])[-names:],
        received_bytes=sum(one.received_bytes for one in seen),
        sent_bytes=sum(one.sent_bytes for one in seen),
    )


def _counters(seen: Sequence[NetworkCounter]) -> tuple[NetworkCounter, ...]:
    found: dict[tuple[int | None, str | None], NetworkCounter] = {}
    for one in seen:
        known = found.get((one.rule, one.reason))
        found[one.rule, one.reason] = one if known is None else _both(known, one)
    return tuple(sorted(found.values(), key=lambda one: (one.rule is None, one.rule or 0, one.reason or "")))


def _both(one: NetworkCounter, other: NetworkCounter) -> NetworkCounter:
    return replace(
        one,
        allowed_connections=one.allowed_connections + other.allowed_connections,
        refused_connections=one.refused_connections + other.refused_connections,
        allowed_names=one.allowed_names + other.allowed_names,
        refused_names=one.refused_names + other.refused_names,
    )


def _refused(seen: Sequence[RefusedName]) -> tuple[RefusedName, ...]:
    found: dict[tuple[str, str, str], RefusedName] = {}
    for one in seen:
        known = found.get((one.name, one.type, one.reason), one)
        count = one.count if known is one else known.count + one.count
        first, last = min(known.first_at, one.first_at), max(known.last_at, one.last_at)
        found[one.name, one.type, one.reason] = replace(one, count=count, first_at=first, last_at=last)
    return tuple(sorted(found.values(), key=lambda one: one.last_at))
