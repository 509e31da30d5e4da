"""The functions here describe sparse files by their segments: offset, length, offset, length … in one array.

Source: GNU tar's sparse format 1.0 (https://www.gnu.org/software/tar/manual/html_section/Sparse-Formats.html).
"""

import os
from array import array
from collections.abc import Iterator, Mapping
from typing import TypeAlias

MAJOR, MINOR, NAME, SIZE = (f"GNU.sparse.{key}" for key in ("major", "minor", "name", "realsize"))

Segments: TypeAlias = "array[int]"


def data_segments(descriptor: int, size: int, limit: int) -> Segments:
    """The segments of a file that hold data, `limit` of them at most."""
    found = array("q")
    end = 0
    try:
        while end < size and len(found) < 2 * limit:
            start = os.lseek(descriptor, end, os.SEEK_DATA)
            end = min(size, os.lseek(descriptor, start, os.SEEK_HOLE))
            if start < end:
                found.extend((start, end - start))
    except OSError:  # ENXIO: the rest is a hole
        return found
    return found


def pairs(segments: Segments) -> Iterator[tuple[int, int]]:
    """The offset and the length of each segment."""
    numbers = iter(segments)
    return zip(numbers, numbers, strict=True)


def sparse_map(segments: Segments, size: int) -> bytes:
    """The map that a sparse file's content begins with. It ends with an empty segment at the end of the file."""
    end = array("q", (size, 0))
    listed = segments if segments[-2:] == end else segments + end
    return b"%d\n" % (len(listed) // 2) + b"".join([b"%d\n" % number for number in listed])


def sparse_records(name: str, size: int) -> Mapping[str, str]:
    """The pax records of a sparse file of `size` bytes."""
    return {MAJOR: "1", MINOR: "0", NAME: name, SIZE: str(size)}
