"""The database's clock, as a replica knows it."""

from datetime import UTC, datetime, timedelta

import pytest

from bay.server.replicas import clock
from bay.server.replicas.clock import DatabaseClock

pytestmark = pytest.mark.pure

TOLD = datetime(2030, 1, 1, tzinfo=UTC)


class Boot:
    """The seconds since the boot of a host."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> timedelta:
        return timedelta(seconds=self.now_s)


@pytest.fixture
def boot(monkeypatch: pytest.MonkeyPatch) -> Boot:
    made = Boot()
    monkeypatch.setattr(clock, "since_boot", made)
    return made


def tell(known: DatabaseClock, boot: Boot, told: datetime, after_s: float) -> None:
    """Have the clock hear that time, to a question whose answer takes so many seconds."""
    asked = boot()
    boot.now_s += after_s
    known.set(told, asked)


def test_it_is_the_databases_wherever_the_hosts_own_stands(
    boot: Boot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock, "utc_now", lambda: TOLD + timedelta(days=400))
    known = DatabaseClock()
    tell(known, boot, TOLD, 0.01)
    assert abs(known() - TOLD) < timedelta(seconds=0.02)
    boot.now_s += 60
    assert abs(known() - TOLD - timedelta(seconds=60)) < timedelta(seconds=0.02)


@pytest.mark.parametrize("sent_early", [True, False])
def test_an_answer_that_came_late_does_not_move_it(boot: Boot, sent_early: bool) -> None:
    """The database, or this process, slept before it or after it."""
    known = DatabaseClock()
    tell(known, boot, TOLD, 0)
    now = known()
    tell(known, boot, now if sent_early else now + timedelta(seconds=40), 40)
    assert known() == now + timedelta(seconds=40)


def test_it_follows_a_database_whose_clock_was_set(boot: Boot) -> None:
    known = DatabaseClock()
    tell(known, boot, TOLD, 0.01)
    tell(known, boot, TOLD - timedelta(minutes=5), 0.01)
    assert abs(known() - TOLD + timedelta(minutes=5)) < timedelta(seconds=0.02)
