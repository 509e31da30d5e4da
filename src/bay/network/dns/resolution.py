"""Resolution follows a name along its aliases to its records; the chain is bounded and may not loop."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from bay.network.dns import wire
from bay.network.dns.responses import Record, Response

Ask = Callable[[bytes, int], Awaitable[Response]]


class Loop(Exception):
    """The aliases of a name lead back to one of them, or are too many."""


@dataclass(frozen=True, slots=True)
class Resolution:
    """The records of a name: its aliases in order, and the data of the last one's records."""

    rcode: int
    aliases: tuple[bytes, ...]
    data: tuple[bytes, ...]
    ttl: int
    """The shortest of all the records', seconds."""


async def resolve(ask: Ask, name: bytes, kind: int, most_aliases: int) -> Resolution:
    """The records of `name`; queries an alias where an answer ends early. Raises Loop and `ask`'s errors."""
    aliases: list[Record] = []
    while True:
        last = aliases[-1].data if aliases else name
        response = await ask(last, kind)
        further = _follow(response, name, last, aliases, most_aliases) if kind != wire.CNAME else []
        aliases += further
        records = response.of(aliases[-1].data if aliases else name, kind)
        if records or not further or response.ends or response.rcode != wire.NOERROR:
            return _found(response.rcode, aliases, records)


def _follow(response: Response, name: bytes, last: bytes, before: list[Record], most: int) -> list[Record]:
    """The aliases in `response` from `last` on."""
    been = {name, *(alias.data for alias in before)}
    further: list[Record] = []
    while (alias := response.alias_of(last)) is not None:
        last = alias.data
        if last in been or len(been) > most:
            raise Loop
        been.add(last)
        further.append(alias)
    return further


def _found(rcode: int, aliases: list[Record], records: tuple[Record, ...]) -> Resolution:
    ttl = min((record.ttl for record in (*aliases, *records)), default=0)
    # Resolvers may name an address twice; it is one.
    data = tuple(dict.fromkeys(record.data for record in records))
    return Resolution(rcode, tuple(alias.data for alias in aliases), data, ttl)
