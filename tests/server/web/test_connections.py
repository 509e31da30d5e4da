"""Who has to leave when there is no more room for connections, and who stays."""

import time
from typing import Any

import pytest

from bay.errors import QuotaExceeded, RequestTimeout
from bay.server.web.connection_limits import ClientConnection, ConnectionBounds, Connections

pytestmark = pytest.mark.pure


class Transport:
    """What a connection needs of one."""

    is_aborted = False

    def is_closing(self) -> bool:
        return self.is_aborted

    def abort(self) -> None:
        self.is_aborted = True

    def get_write_buffer_size(self) -> int:
        return 0


class Client:
    """Somebody at the other end, who owes nothing."""

    def __init__(self) -> None:
        self.transport: Any = Transport()

    def owed(self) -> int | None:
        return None

    def turn_away(self, error: RequestTimeout) -> None:
        self.transport.abort()


class Crowd:
    """Connections, by the names that a test gives them."""

    def __init__(self, most: int = 8, of_address: int | None = None) -> None:
        bounds = ConnectionBounds(most=most, most_of_address=of_address, head_s=10, body_s=10, idle_s=10)
        self.all = Connections(bounds)
        self.named: dict[str, ClientConnection] = {}

    def join(self, *names: str, address: str = "192.0.2.1") -> None:
        for name in names:
            self.named[name] = self.all.join(Client(), address)

    def owned(self, owner: str, *names: str) -> None:
        for name in names:
            self.join(name)
            self.named[name].asked()
            self.named[name].belongs_to(owner)

    def gone(self) -> set[str]:
        return {name for name, one in self.named.items() if one.client.transport.is_closing()}


def test_the_oldest_that_asks_nothing_goes_first_then_the_oldest_visitor_and_never_an_owner() -> None:
    crowd = Crowd(most=8)
    crowd.owned("alice", "a1", "a2")
    crowd.join("v1", "v2", "w1", "w2", "w3")
    for name in ("v1", "v2"):
        crowd.named[name].asked()
    crowd.named["w1"].asked()
    crowd.named["w1"].answered()  # idle, and since a later time than w2 waits
    crowd.join("w4", "w5")
    assert crowd.gone() == {"w2"}
    crowd.join("w6", "w7", "w8", "w9")
    assert crowd.gone() == {"w2", "w3", "w1", "w4", "w5"}
    for name in ("w6", "w7", "w8", "w9"):
        crowd.named[name].asked()
    crowd.join("w10")
    assert crowd.gone() == {"w2", "w3", "w1", "w4", "w5", "v1"}
    assert len(crowd.all) == 8


def test_of_owners_it_is_the_one_with_most_connections_who_gets_no_more() -> None:
    crowd = Crowd(most=8)  # of which owners may have six
    crowd.owned("alice", "a1")
    crowd.owned("bob", "b1", "b2", "b3", "b4", "b5")
    with pytest.raises(QuotaExceeded):
        crowd.owned("bob", "b6")
    assert crowd.gone() == set()
    crowd.owned("alice", "a2")
    assert crowd.gone() == {"b5"}, "what bob has had for longest stays"


def test_one_that_has_left_takes_no_room_whatever_is_still_said_of_it() -> None:
    crowd = Crowd()
    crowd.join("w")
    crowd.named["w"].asked()
    crowd.named["w"].left()
    crowd.named["w"].belongs_to("alice")
    crowd.named["w"].answered()
    assert len(crowd.all) == 0


@pytest.mark.parametrize(
    "others", [["2001:db8::1", "2001:db8::ffff:2"], ["192.0.2.7", "::ffff:192.0.2.7"]], ids=["v6", "v4"]
)
def test_addresses_that_one_client_has_are_counted_together(others: list[str]) -> None:
    crowd = Crowd(of_address=2)
    crowd.join("first", address=others[0])
    crowd.join("second", address=others[1])
    crowd.join("elsewhere", address="2001:db8:0:1::1")
    assert crowd.gone() == set()
    crowd.join("third", address=others[0])
    crowd.all.look(time.monotonic() + 2)
    assert crowd.gone() == {"first"}


def test_many_that_come_at_once_from_one_address_have_time_to_show_a_key() -> None:
    crowd = Crowd(most=20, of_address=2)
    crowd.join("a1", "a2", "a3", "a4", "a5")
    crowd.all.look(time.monotonic())
    assert crowd.gone() == set()
    for name in ("a1", "a2", "a3"):
        crowd.named[name].asked()
        crowd.named[name].belongs_to("alice")
    crowd.join("s1")
    crowd.all.look(time.monotonic() + 2)
    assert crowd.gone() == {"a4"}


def test_one_address_never_has_more_than_half_of_the_room() -> None:
    crowd = Crowd(most=8, of_address=2)
    crowd.join("s1", "s2", "s3", "s4", "s5", "s6")
    assert crowd.gone() == {"s1", "s2"}
