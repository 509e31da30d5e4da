"""How samples become the numbers that are printed."""

import os
import time

import pytest
from bench.__main__ import cells
from bench.figures import Figure, Score
from bench.host import exact_cpu_s
from bench.processor import speed

pytestmark = pytest.mark.pure


def score(*samples: float, tried: int | None = None) -> Score:
    return Score(Figure("starts", "ms", samples), tried or len(samples))


def test_instant_starts_that_all_succeed_score_a_hundred() -> None:
    assert score(0, 0, 0).points == 100


def test_starts_at_or_beyond_the_ceiling_score_nothing() -> None:
    assert score(10_000, 25_000).points == 0


def test_the_three_ranks_have_their_weights() -> None:
    samples = [1_000.0] * 94 + [2_000.0] * 4 + [4_000.0] * 2
    found = score(*samples)
    assert found.weighted_ms == pytest.approx(0.60 * 1_000 + 0.25 * 2_000 + 0.15 * 4_000)
    assert found.points == pytest.approx(100 * (0.60 * 0.9 + 0.25 * 0.8 + 0.15 * 0.6))


def test_a_failed_start_takes_its_share_of_the_score() -> None:
    assert score(0, 0, 0, tried=4).points == 75


def test_ranks_are_samples_that_were_taken() -> None:
    figure = Figure("x", "ms", tuple(float(n) for n in range(1, 101)))
    assert (figure.p50, figure.p95, figure.p99) == (50, 95, 99)


def test_processor_time_is_shown_beside_wall_time_where_it_was_taken() -> None:
    figure = Figure("x", "ms", (5.0, 7.0), processor_ms=(1.0, 2.0))
    assert figure.to_json()["processor_ms"] == 1.5
    assert "1.5 ms" in cells(figure)
    assert Figure("x", "ms", (5.0,)).to_json()["processor_ms"] is None


def test_the_speed_of_the_machine_is_processor_time_of_a_loop_and_of_a_start() -> None:
    loop, start = speed()
    assert (loop.unit, start.name) == ("ms", "python -c pass")
    assert all(sample > 0 for figure in (loop, start) for sample in figure.samples)


def test_the_clock_of_a_process_counts_what_it_uses_and_no_waiting() -> None:
    before, own = exact_cpu_s(os.getpid()), time.process_time()
    begun = time.perf_counter()
    speed()
    used = time.process_time() - own
    assert exact_cpu_s(os.getpid()) - before == pytest.approx(used, abs=0.05)
    assert time.perf_counter() - begun - used > 0.05, "it waited for the interpreters that it started"
