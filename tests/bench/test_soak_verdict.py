"""What the soak calls flat, and which errors it excuses."""

import random
import time

import pytest
from bench.soak.journal import Journal, Wrong
from bench.soak.verdict import Allowance, Trend, trend

from bay.errors import ConnectionFailed, NotFound, ShipError

pytestmark = pytest.mark.pure


def line(slope: float, *, noise: float = 0, count: int = 60) -> Trend:
    """The trend of samples around 100 that rise by `slope` in all."""
    dice = random.Random(7)  # noqa: S311  no secret
    points = [(float(n), 100 + slope * n / (count - 1) + dice.gauss(0, noise)) for n in range(count)]
    found = trend(points, Allowance(5))
    assert found is not None
    return found


def test_a_level_that_stays_is_flat() -> None:
    found = line(0)
    assert found.flat
    assert found.growth == pytest.approx(0)


def test_a_steady_leak_is_not_flat() -> None:
    found = line(20)
    assert not found.flat
    assert found.growth == pytest.approx(20)


def test_a_leak_shows_through_noise() -> None:
    assert not line(40, noise=10).flat


def test_noise_alone_is_flat() -> None:
    assert line(0, noise=20).flat


def test_growth_within_the_allowance_is_flat() -> None:
    assert line(4).flat


def test_a_share_of_the_level_may_be_allowed() -> None:
    points = [(float(n), 1000 + n) for n in range(60)]
    found = trend(points, Allowance(5, share=0.1))
    assert found is not None
    assert found.allowed == pytest.approx(100)
    assert found.flat


def test_few_samples_tell_nothing() -> None:
    assert trend([(0, 1), (1, 2), (2, 3)], Allowance(0)) is None


def fail(error: Exception) -> object:
    raise error


def test_an_error_without_a_cause_is_unexpected() -> None:
    journal = Journal()
    assert journal.attempt("run", "sandbox-1", lambda: fail(ShipError("broken"))) is None
    assert journal.unexpected == {"run: ship_error": 1}


def test_a_connection_that_breaks_while_bay_is_down_is_excused() -> None:
    journal = Journal()
    over = journal.outage()
    journal.attempt("run", "sandbox-1", lambda: fail(ConnectionFailed("refused")))
    over()
    assert not journal.unexpected
    assert sum(journal.excused.values()) == 1


def test_an_outage_excuses_no_wrong_answer() -> None:
    journal = Journal()
    journal.outage()
    journal.attempt("read", "sandbox-1", lambda: fail(Wrong("a file changed")))
    assert journal.unexpected == {"read: a file changed": 1}


def test_a_killed_ship_excuses_its_own_sandbox_only() -> None:
    journal = Journal()
    journal.strike("sandbox-1")
    for sandbox in ("sandbox-1", "sandbox-2"):
        journal.attempt("run", sandbox, lambda: fail(ShipError("broken")))
    assert sum(journal.excused.values()) == sum(journal.unexpected.values()) == 1


def test_a_sandbox_may_be_gone_once_its_time_is_over() -> None:
    journal = Journal()
    journal.will_end("sandbox-1", 60)
    journal.attempt("run", "sandbox-1", lambda: fail(NotFound("gone")))
    assert sum(journal.unexpected.values()) == 1
    journal.will_end("sandbox-1", -time.monotonic())
    journal.attempt("run", "sandbox-1", lambda: fail(NotFound("gone")))
    assert sum(journal.unexpected.values()) == 1
