"""Connection limits: which clients may be connected, and which of them are dropped.

A connection is *waiting* until the head of a request is whole. Then its request is under way: by a *visitor*,
of whom no key is known, or in the name of an owner. Once it was answered the connection is *idle* until the
next request begins. Time is short for those who wait, for the idle, and for bodies that do not move. Room is
short for all: when it is full, the oldest that waits or is idle goes first, then the oldest visitor. Owners
leave a quarter of the room to callers that are not authenticated yet, and when the rest is full, the owner
with most connections gets no more. So a crowd of strangers shuts out no caller with a key, and no owner
another.

Nothing is timed by connection: `run` looks once a second, so that a request costs a few moves between dicts.
"""

import asyncio
import time
from collections import Counter
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address, ip_network
from itertools import islice
from typing import Protocol

import structlog

from bay.errors import QuotaExceeded, RequestTimeout

log = structlog.get_logger("bay.http")

_LOOK_S = 1.0
_TELL_S = 60.0
_IPV6_SITE = 64
"""Bits of an IPv6 address that tell networks apart; the holder of one has all addresses below it."""


class Client(Protocol):
    """The server's side of a client's connection."""

    @property
    def transport(self) -> asyncio.Transport: ...

    def owed(self) -> int | None:
        """Bytes of the body so far, while it is the client's turn to send more of it; else None."""
        ...

    def turn_away(self, error: RequestTimeout) -> None:
        """Close the connection, with an answer where one can still be given."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionBounds:
    """How many connections there may be, and how long a client may take. Times are seconds."""

    most: int
    most_of_address: int | None
    """Of those in whose name no owner stands, once they have had a second to show a key."""
    head_s: float
    body_s: float
    idle_s: float


@dataclass(eq=False, slots=True)
class ClientConnection:
    """One connection, and where it stands."""

    crowd: "Connections"
    client: Client
    address: str
    owner: str | None = None
    since: float = 0.0
    """When it began to wait, or last moved."""
    seen: tuple[bool, int] | None = None
    """Its progress at the last check."""
    is_gone: bool = False

    def began(self) -> None:
        """The first byte of a request has come."""
        self.crowd.wait(self)

    def asked(self) -> None:
        """The head of a request is whole."""
        self.crowd.visit(self)

    def belongs_to(self, owner: str) -> None:
        """The request under way is that owner's. Raises QuotaExceeded when owners have all of their room."""
        self.crowd.own(self, owner)

    def answered(self) -> None:
        """The request was answered."""
        self.crowd.rest(self)

    def left(self) -> None:
        """It is closed."""
        self.crowd.leave(self)

    def expected(self) -> tuple[bool, int] | None:
        """The counter that must change in the client's turn: bytes left to send, or bytes received."""
        if self.client.transport.is_closing():
            return True, self.client.transport.get_write_buffer_size()
        came = self.client.owed()
        return None if came is None else (False, came)


Group = dict[ClientConnection, None]
"""Connections, in the order in which they came to stand there."""


class Connections:
    """All connections of clients, within `bounds`."""

    def __init__(self, bounds: ConnectionBounds) -> None:
        self._bounds = bounds
        self._waiting: Group = {}
        self._idle: Group = {}
        self._visiting: Group = {}
        self._owned: dict[str, Group] = {}
        self._nameless: dict[str, Group] = {}
        """Those that are no owner's, by address."""
        self._count_owned = 0
        self._turned_away: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._waiting) + len(self._idle) + len(self._visiting) + self._count_owned

    def join(self, client: Client, address: str) -> ClientConnection:
        """A new one. Another may have to go for it, or itself."""
        connection = ClientConnection(self, client, _network_of(address))
        self.wait(connection)
        self._keep_room(connection)
        return connection

    def wait(self, connection: ClientConnection) -> None:
        """It has to send the head of a request, from now on."""
        self._move(connection, self._waiting)

    def rest(self, connection: ClientConnection) -> None:
        """It may send another request."""
        self._move(connection, self._idle)

    def visit(self, connection: ClientConnection) -> None:
        """A request is under way of which no key is known."""
        self._move(connection, self._visiting)

    def own(self, connection: ClientConnection, owner: str) -> None:
        """A request of `owner` begins. Raises QuotaExceeded when it has most and owners' room is full."""
        if connection.is_gone:
            return
        self._part(connection)
        connection.owner = owner
        self._owned.setdefault(owner, {})[connection] = None
        self._count_owned += 1
        if self._count_owned > self._bounds.most - self._bounds.most // 4:
            self._thin_out(connection)

    def leave(self, connection: ClientConnection) -> None:
        """Remove it from the books. Idempotent."""
        self._part(connection)
        connection.is_gone = True

    async def run(self) -> None:
        """End what takes too long, until cancelled."""
        told = time.monotonic()
        while True:
            await asyncio.sleep(_LOOK_S)
            self.look(now := time.monotonic())
            if self._turned_away and now - told >= _TELL_S:
                log.warning("http.crowded", **self._turned_away, open=len(self), most=self._bounds.most)
                self._turned_away.clear()
                told = now

    def look(self, now: float) -> None:
        """Turn away all that should have moved by `now`, or are too many of one address."""
        if self._bounds.most_of_address is not None:
            for beside in list(self._nameless.values()):
                self._trim(beside, len(beside) - self._bounds.most_of_address, now)
        self._hurry(self._waiting, self._bounds.head_s, now)
        self._hurry(self._idle, self._bounds.idle_s, now)
        for group in (self._visiting, *self._owned.values()):
            for connection in list(group):
                self._hurry_busy(connection, now)

    def _hurry(self, group: Group, limit_s: float, now: float) -> None:
        for connection in list(group):
            if now - connection.since < limit_s:
                return  # they stand in the order in which they came to stand here
            expected = connection.expected()
            if not connection.client.transport.is_closing():
                connection.client.turn_away(
                    RequestTimeout(f"the head of the request did not come within {limit_s:g} s")
                )
            elif expected == connection.seen:  # it takes nothing of a last answer either
                self._drop(connection, "silent")
                continue
            self._move(connection, group)
            connection.seen = expected

    def _hurry_busy(self, connection: ClientConnection, now: float) -> None:
        expected = connection.expected()
        if expected is None or expected != connection.seen:
            connection.seen, connection.since = expected, now
        elif now - connection.since < self._bounds.body_s:
            return
        elif connection.client.transport.is_closing():
            self._drop(connection, "silent")
        else:
            connection.client.turn_away(
                RequestTimeout(
                    f"nothing came of the request's body for {self._bounds.body_s:g} s; send it again"
                )
            )

    def _trim(self, beside: Group, surplus: int, now: float) -> None:
        """Drop so many of an address; the newest stay, as they may yet show a key (hundreds open at once)."""
        if surplus > 0:
            old = (one for one in beside if one not in self._visiting and now - one.since >= _LOOK_S)
            for connection in list(islice(old, surplus)):
                self._drop(connection, "of_address")

    def _keep_room(self, newest: ClientConnection) -> None:
        beside = self._nameless[newest.address]
        of_address = self._bounds.most_of_address
        if of_address is not None and len(beside) > max(of_address, self._bounds.most // 2):
            self._drop(next(one for one in beside if one not in self._visiting), "of_address")
        elif len(self) > self._bounds.most:
            self._drop(self._oldest(newest), "in_all")

    def _oldest(self, newest: ClientConnection) -> ClientConnection:
        """Who has to go for `newest`; itself when all others are owners'."""
        silent = [group for group in (self._waiting, self._idle) if group]
        oldest = min((next(iter(group)) for group in silent), key=lambda one: one.since)
        return next(iter(self._visiting), newest) if oldest is newest else oldest

    def _thin_out(self, newest: ClientConnection) -> None:
        most = max(self._owned.values(), key=len)
        if newest in most:
            self.visit(newest)
            raise QuotaExceeded(
                f"{len(most)} connections of this owner are open, and Bay's limit is reached; close some"
            )
        self._drop(next(reversed(most)), "of_owner")

    def _drop(self, connection: ClientConnection, why: str) -> None:
        self._turned_away[why] += 1
        self.leave(connection)  # now, and not once the loop has closed it: room is counted at once
        connection.client.transport.abort()

    def _move(self, connection: ClientConnection, group: Group) -> None:
        """Have it stand behind all others of a group of those who are no owner's."""
        if connection.is_gone:
            return
        self._part(connection)
        connection.since = time.monotonic()
        group[connection] = None
        self._nameless.setdefault(connection.address, {})[connection] = None

    def _part(self, connection: ClientConnection) -> None:
        """Take it away from where it stands."""
        connection.seen = None
        if connection.owner is not None:
            self._count_owned -= _remove(self._owned, connection.owner, connection)
            connection.owner = None
        else:
            self._waiting.pop(connection, None)
            self._idle.pop(connection, None)
            self._visiting.pop(connection, None)
            _remove(self._nameless, connection.address, connection)


def _remove(groups: dict[str, Group], name: str, connection: ClientConnection) -> int:
    """The count of the group of that name, which is kept only while one of it is connected."""
    group = groups.get(name, {})
    before = len(group)
    group.pop(connection, None)
    if not group:
        groups.pop(name, None)
    return before - len(group)


def _network_of(address: str) -> str:
    """The address, or of IPv6 its network: an address there is as good as none."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address  # such as the path of a socket
    if not isinstance(parsed, IPv6Address):
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ip_network((int(parsed), _IPV6_SITE), strict=False))
