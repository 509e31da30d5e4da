"""The counters of a sandbox's network: what was allowed and refused, by the rule that decided. Pure."""

from collections.abc import Mapping

from bay.models import NetworkCounter

ConnectionCounts = dict[tuple[int | None, str | None], tuple[int, int]]
"""Connections allowed and refused, by rule, or without one by reason."""


def counters(
    connections: ConnectionCounts, names: Mapping[int | None, tuple[int, int]]
) -> tuple[NetworkCounter, ...]:
    """Those that are not at zero: the rules in order, then the reasons. `names`: names allowed and refused,
    by rule, None for the mode.
    """
    named = {(rule, "default" if rule is None else None): counts for rule, counts in names.items()}
    keys = sorted({*connections, *named}, key=lambda key: (key[0] is None, key[0] or 0, key[1] or ""))
    counts = ((key, connections.get(key, (0, 0)), named.get(key, (0, 0))) for key in keys)
    return tuple(
        NetworkCounter(
            rule=rule,
            reason=reason,
            allowed_connections=to_addresses[0],
            refused_connections=to_addresses[1],
            allowed_names=of_names[0],
            refused_names=of_names[1],
        )
        for (rule, reason), to_addresses, of_names in counts
        if any((*to_addresses, *of_names))
    )
