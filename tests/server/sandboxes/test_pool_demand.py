"""The size of a pool that follows the creates, by a clock that is told."""

from datetime import datetime, timedelta

import pytest

from bay.clock import ManualClock
from bay.server.sandboxes.pool_demand import size_wanted

pytestmark = pytest.mark.pure


def sizes(every_s: float, creates: int, *, after_s: float = 0, bounds: tuple[int, int] = (1, 8)) -> list[int]:
    """The size right after each create, and `after_s` after the last."""
    clock, made, found = ManualClock(), list[datetime](), list[int]()
    for _ in range(creates):
        clock.advance(every_s)
        made.append(clock())
        found.append(size_wanted(made, clock(), *bounds))
    clock.advance(after_s)
    return [*found, size_wanted(made, clock(), *bounds)]


def test_without_creates_it_has_its_least_size() -> None:
    assert sizes(1, 0) == [1]
    assert sizes(1, 0, bounds=(0, 8)) == [0]


@pytest.mark.parametrize(("every_s", "size"), [(0, 8), (1, 8), (2, 5), (5, 2), (9, 2), (10, 1), (60, 1)])
def test_it_holds_what_comes_within_ten_seconds(every_s: float, size: int) -> None:
    assert sizes(every_s, 50)[-1] == size


def test_it_grows_with_a_burst_up_to_its_bound() -> None:
    assert sizes(0.1, 12) == [1, 2, 3, 4, 5, 6, 7, 8, 8, 8, 8, 8, 8]


def test_a_burst_is_remembered_for_ten_minutes_and_no_longer() -> None:
    assert sizes(0, 5, after_s=599)[-1] == 5
    assert sizes(0, 5, after_s=600)[-1] == 1


def test_slow_creates_after_a_burst_do_not_keep_it() -> None:
    clock = ManualClock()
    made = [clock() for _ in range(6)]
    for _ in range(20):
        clock.advance(60)
        made.append(clock())
        held = size_wanted(made, clock(), 1, 8)
        assert held == (6 if (clock() - made[0]) < timedelta(minutes=10) else 1)


def test_a_pool_of_one_size_keeps_it() -> None:
    assert sizes(0.1, 20, bounds=(3, 3)) == [3] * 21
