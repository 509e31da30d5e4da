"""The ring, against a plain list of bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ship.execs.ring import Ring, Stream

pytestmark = pytest.mark.pure

Writes = list[tuple[Stream, bytes]]
writes = st.lists(st.tuples(st.sampled_from(["stdout", "stderr"]), st.binary(max_size=40)), max_size=60)


def filled(capacity: int, written: Writes, step: float = 0.01) -> Ring:
    ring = Ring(capacity)
    for count, (stream, data) in enumerate(written):
        ring.append(stream, data, count * step)
    return ring


def all_bytes(written: Writes) -> list[tuple[Stream, int]]:
    return [(stream, byte) for stream, data in written for byte in data]


@given(st.integers(1, 200), writes, st.integers(0, 2000), st.integers(1, 300))
def test_what_is_read_is_what_was_written_at_that_offset(
    capacity: int, written: Writes, since: int, limit: int
) -> None:
    ring = filled(capacity, written)
    expected = all_bytes(written)
    since = min(max(since, ring.first_offset), ring.next_offset)
    pieces = list(ring.read(since, limit))
    read = [(piece.stream, byte) for piece in pieces for byte in piece.data]
    assert read == expected[since : since + limit]
    assert [piece.offset for piece in pieces] == [since, *(p.end for p in pieces)][: len(pieces)]


@given(st.integers(1, 200), writes)
def test_the_newest_bytes_are_kept_and_no_more_than_the_capacity(capacity: int, written: Writes) -> None:
    ring = filled(capacity, written)
    total = len(all_bytes(written))
    assert ring.next_offset == total
    assert ring.first_offset == max(0, total - capacity)


@given(st.integers(1, 200), writes)
def test_the_streams_come_apart_again(capacity: int, written: Writes) -> None:
    ring = filled(capacity, written)
    kept = all_bytes(written)[ring.first_offset :]
    assert ring.collect("stdout") == bytes(byte for stream, byte in kept if stream == "stdout")
    assert ring.collect("stderr") == bytes(byte for stream, byte in kept if stream == "stderr")


def test_single_bytes_by_turns_do_not_cost_more_than_their_bound() -> None:
    ring = Ring(1 << 20)
    for count in range(100_000):
        ring.append("stdout" if count % 2 else "stderr", b"x", 0.0)
    assert ring.next_offset == 100_000
    assert ring.kept_bytes == 4096
    assert len(list(ring.read(ring.first_offset, 1 << 20))) == 4096


def test_a_piece_that_grew_is_read_from_its_middle() -> None:
    ring = filled(100, [("stdout", b"abc"), ("stdout", b"def")])
    assert [(p.offset, p.data) for p in ring.read(4, 10)] == [(4, b"ef")]


def test_pieces_far_apart_in_time_keep_their_times() -> None:
    ring = filled(100, [("stdout", b"abc"), ("stdout", b"def")], step=1.0)
    assert [(p.t, p.data) for p in ring.read(0, 10)] == [(0.0, b"abc"), (1.0, b"def")]


def test_a_ring_that_forgot_keeps_its_offsets() -> None:
    ring = filled(100, [("stdout", b"abc")])
    ring.forget()
    assert (ring.first_offset, ring.next_offset, ring.kept_bytes) == (3, 3, 0)
    ring.append("stdout", b"def", 1.0)
    assert [(p.offset, p.data) for p in ring.read(3, 10)] == [(3, b"def")]


def test_an_offset_in_the_older_half_is_in_danger() -> None:
    ring = Ring(8)
    ring.append("stdout", b"0123", 0.0)
    assert not ring.endangers(0)
    ring.append("stdout", b"4", 0.0)
    assert ring.endangers(0)
    assert not ring.endangers(1)


@given(st.integers(1, 30), writes)
def test_what_is_due_to_a_reader_stays_whole(capacity: int, written: Writes) -> None:
    ring = Ring(capacity)
    got = list[tuple[Stream, int]]()
    ring.keep_from(0)
    for count, (stream, data) in enumerate(written):
        ring.append(stream, data, count * 0.01)
        for piece in ring.read(len(got), 100):
            assert piece.offset == len(got)
            got += [(piece.stream, byte) for byte in piece.data]
        ring.keep_from(len(got))
    assert got == all_bytes(written)
