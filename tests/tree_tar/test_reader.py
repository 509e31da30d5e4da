"""The reader gives the same members and content however the stream is cut, and bounds what it takes."""

import io
import os
from array import array
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bay.cargo.tar_unpack import CargoPolicy
from bay.errors import BadRequest
from ship.tools.unpack import UploadPolicy
from tree_tar.extract import Extractor, Policy
from tree_tar.headers import END, FILE, SYMLINK, header, padding
from tree_tar.reader import BadArchive, Event, Member, Reader, Rules
from tree_tar.sparse import layout

RULES = Rules(extension_bytes=4096, extensions=2, segments=100)
SPARSE = layout("holes", array("q", (1000, 10, 5000, 600)), 1 << 20)
STORED = SPARSE.head + b"a" * 10 + b"b" * 600
ARCHIVE = b"".join(
    (
        header("n" * 200, FILE, mtime_ns=5, size=700) + b"x" * 700 + padding(700),
        header("link", SYMLINK, link="ü"),
        header("holes", FILE, size=len(STORED), records=SPARSE.records) + STORED + padding(len(STORED)),
        END,
    )
)


def merged(events: Iterator[Event]) -> list[tuple[str, dict[int, int]]]:
    """Each member's name with its content, a byte at each offset."""
    found: list[tuple[str, dict[int, int]]] = []
    for event in events:
        if isinstance(event, Member):
            found.append((event.name, {}))
        else:
            found[-1][1].update(enumerate(event.data, event.offset))
    return found


def fed(*pieces: bytes) -> Iterator[Event]:
    reader = Reader(RULES)
    for piece in pieces:
        yield from reader.feed(piece)
    assert reader.ended


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, len(ARCHIVE)), max_size=40))
def test_the_cuts_of_a_stream_do_not_matter(cuts: list[int]) -> None:
    places = sorted({0, len(ARCHIVE), *cuts})
    pieces = [ARCHIVE[start:end] for start, end in pairwise(places)]
    whole = merged(fed(ARCHIVE))
    assert merged(fed(*pieces)) == whole
    assert [name for name, _ in whole] == ["n" * 200, "link", "holes"]
    assert whole[2][1] == {at: ord("a") for at in range(1000, 1010)} | {
        at: ord("b") for at in range(5000, 5600)
    }


@pytest.mark.parametrize("size", [0, 1, 512, 1000, len(ARCHIVE) - len(END)])
def test_a_stream_that_breaks_off_is_an_error(size: int) -> None:
    with pytest.raises(BadArchive, match="too early"):
        list(Reader(RULES).pull(io.BytesIO(ARCHIVE[:size]).read))


def test_only_what_bay_writes_is_taken_without_foreign_formats() -> None:
    strict = RULES._replace(extensions=1, foreign=False, old_sparse=False)
    assert len(list(Reader(strict).feed(ARCHIVE))) == 6
    for magic in (b"ustar  \0", bytes(8)):
        block = header("f", FILE)
        other = block[:148] + b" " * 8 + block[156:257] + magic + block[265:]
        other = other[:148] + b"%06o\0 " % sum(other) + other[156:]
        assert len(list(Reader(RULES).feed(other))) == 1
        with pytest.raises(BadArchive, match="ustar"):
            list(Reader(strict).feed(other))


@pytest.mark.parametrize(
    ("policy", "error"),
    [
        (UploadPolicy(), BadArchive),
        (CargoPolicy(lambda _parts, _member: True, own=False, depth=0), BadRequest),
    ],
)
def test_a_link_with_a_nul_is_refused(tmp_path: Path, policy: Policy, error: type[Exception]) -> None:
    top = os.open(tmp_path, os.O_RDONLY)
    try:
        event = next(Reader(RULES).feed(header("link", SYMLINK, records={"linkpath": "a\0b"})))
        with closing(Extractor(top, policy)) as extractor, pytest.raises(error, match="cannot be made"):
            extractor.take(event)
    finally:
        os.close(top)
    assert os.listdir(tmp_path) == []
