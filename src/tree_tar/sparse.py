"""Lays out sparse files for a tar in GNU tar's sparse format 1.0 (its manual, "Storing Sparse Files")."""

import errno
import os
from array import array
from collections.abc import Iterator, Mapping
from itertools import islice

from tree_tar.headers import SPARSE_MAJOR, SPARSE_MINOR, SPARSE_NAME, SPARSE_SIZE, Segments, padding


def data_segments(descriptor: int, size: int, limit: int) -> Segments:
    """The segments of a file that hold data, `limit` of them at most."""
    found = array("q")
    for start, end in islice(data_extents(descriptor, size), limit):
        found.extend((start, end - start))
    return found


def data_extents(descriptor: int, size: int) -> Iterator[tuple[int, int]]:
    """Where an open file has data between its holes, up to `size`: each beginning and end. Raises OSError.
    One that knows no holes, as those of gVisor's tmpfs, is data from its beginning to its end.
    """
    end = 0
    while end < size:
        try:
            start = os.lseek(descriptor, end, os.SEEK_DATA)
            until = min(size, os.lseek(descriptor, start, os.SEEK_HOLE))
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole
                return
            if error.errno != errno.EINVAL:
                raise
            start, until = end, size
        if start < until:
            yield start, until
        end = until


def sparse_map(segments: Segments, size: int) -> bytes:
    """The map that a sparse file's content begins with; an empty segment at the file's end ends it."""
    end = array("q", (size, 0))
    listed = segments if segments[-2:] == end else segments + end
    return b"%d\n" % (len(listed) // 2) + b"".join([b"%d\n" % number for number in listed])


class Layout:
    """How the content of a file is stored: `head`, and the segments behind each other."""

    __slots__ = ("head", "records", "segments")

    def __init__(self, segments: Segments, head: bytes, records: Mapping[str, str]) -> None:
        self.segments = segments
        self.head = head
        self.records = records

    @property
    def stored_bytes(self) -> int:
        """The size that stands in the header."""
        return len(self.head) + sum(self.segments[1::2])


def layout(name: str, segments: Segments, size: int) -> Layout:
    """The layout of the file `name` that has data in `segments`; without holes it has no head."""
    if segments == array("q", (0, size)) or not size:
        return Layout(segments, b"", {})
    listed = sparse_map(segments, size)
    records = {SPARSE_MAJOR: "1", SPARSE_MINOR: "0", SPARSE_NAME: name, SPARSE_SIZE: str(size)}
    return Layout(segments, listed + padding(len(listed)), records)
