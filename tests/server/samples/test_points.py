"""Points of use: how several become one, and how they are packed."""

from math import isnan, nan

import pytest

from bay.server.samples.points import SamplePoint, from_json, pack, rolled_up, to_json, unpack

pytestmark = pytest.mark.pure

BUSY = SamplePoint(
    at=600, samples=1, seconds=10, cpu_usec=5e6, cpus_max=0.5, memory_bytes=100, memory_max_bytes=100,
    memory_cache_bytes=10, disk_bytes=7, read_bytes=1, written_bytes=2, received_bytes=3, sent_bytes=4, execs=1,
    execs_max=1,
)  # fmt: skip
UNKNOWN = SamplePoint(
    at=610, samples=1, seconds=0, memory_bytes=300, memory_max_bytes=300, execs=2, execs_max=2
)


def words(points: list[SamplePoint]) -> list[list[float | None]]:
    """The points with None for NaN, which is equal to nothing."""
    return to_json(points)


def test_sums_add_up_and_gauges_have_a_mean_and_a_highest() -> None:
    later = BUSY._replace(
        at=650, cpu_usec=1e6, cpus_max=0.1, memory_bytes=200, memory_max_bytes=250, disk_bytes=9
    )
    (one,) = rolled_up([BUSY, later], 60)
    assert (one.at, one.samples, one.seconds, one.cpu_usec) == (600, 2, 20, 6e6)
    assert (one.cpus_max, one.memory_bytes, one.memory_max_bytes, one.disk_bytes) == (0.5, 150, 250, 9)
    assert (one.read_bytes, one.written_bytes, one.received_bytes, one.sent_bytes) == (2, 4, 6, 8)


def test_an_unknown_figure_is_left_out_of_a_sum_and_of_a_mean() -> None:
    (one,) = rolled_up([BUSY, UNKNOWN], 60)
    assert (one.seconds, one.cpu_usec, one.memory_cache_bytes) == (10, 5e6, 10)
    assert (one.memory_bytes, one.execs, one.execs_max) == (200, 1.5, 2)


def test_what_no_point_knows_stays_unknown_and_is_no_zero() -> None:
    (one,) = rolled_up([UNKNOWN, UNKNOWN._replace(at=620)], 60)
    assert isnan(one.cpu_usec)
    assert isnan(one.cpus_max)
    assert isnan(one.received_bytes)


def test_rolling_up_twice_weighs_each_sample_once() -> None:
    first = [BUSY._replace(at=at, memory_bytes=100) for at in range(600, 660, 10)]
    late = BUSY._replace(at=660, memory_bytes=800)
    twice = rolled_up(rolled_up([*first, late], 60), 900)
    assert words(twice) == words(rolled_up([*first, late], 900))
    assert twice[0].memory_bytes == 200


def test_a_step_without_samples_has_no_point() -> None:
    assert [one.at for one in rolled_up([BUSY, BUSY._replace(at=720)], 60)] == [600, 720]


@pytest.mark.parametrize("points", [[BUSY], [UNKNOWN, BUSY._replace(at=1e9 + 20, cpu_usec=2.0**53)]])
def test_points_are_the_same_after_packing_and_after_a_message(points: list[SamplePoint]) -> None:
    assert words(unpack(pack(points))) == words(points)
    assert words(from_json(to_json(points))) == words(points)


def test_a_later_version_of_the_packing_is_left_alone() -> None:
    assert unpack(b"\x02" + pack([BUSY])[1:]) == []
    assert unpack(b"") == []


@pytest.mark.parametrize("answer", [None, "no", 3])
def test_an_answer_that_is_none_has_no_points(answer: object) -> None:
    assert from_json(answer) == []


def test_not_a_number_stays_so() -> None:
    assert isnan(unpack(pack([BUSY._replace(sent_bytes=nan)]))[0].sent_bytes)
