"""Layers that a generator makes, of damaged bytes, and of names and links that lead everywhere: none gets at
a file beside its directory, and each is unpacked or refused.
"""

import contextlib
import gzip
import io
import os
import tarfile
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from image_files import Layer
from layer_files import TIME, Entry, directory, entry, gzipped, hard_link, symlink, tar, zstandarded

from layer_unpack.decoder import Damaged, gunzip, unzstd
from layer_unpack.refusals import Refused
from layer_unpack.tree import RULES, LayerTree
from tree_tar.beneath import closing
from tree_tar.headers import BLOCK
from tree_tar.reader import BadArchive, Reader

pytestmark = [pytest.mark.host, pytest.mark.skipif(os.geteuid() != 0, reason="gives files to other users")]

EXAMPLES = settings(
    max_examples=int(os.environ.get("BAY_LAYER_EXAMPLES", "300")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
PIECES = st.sampled_from(
    ["a", "b", "l", "..", ".", "", ".wh.a", ".wh.l", ".wh...", ".wh..", ".wh..wh..opq", "beside"]
)


def _path(top: str, pieces: list[str]) -> str:
    return top + "/".join(pieces)


PATHS = st.builds(_path, st.sampled_from(["", "/"]), st.lists(PIECES, max_size=5))


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    name, kind = (
        draw(PATHS),
        draw(st.sampled_from(["file", "directory", "symlink", "link", "fifo", "device"])),
    )
    match kind:
        case "file":
            return entry(name, draw(st.binary(max_size=9)))
        case "directory":
            return directory(name, draw(st.sampled_from([0o700, 0o2755, 0o000])))
        case "symlink":
            return symlink(name, draw(PATHS))
        case "link":
            return hard_link(name, draw(PATHS))
        case "fifo":
            return entry(name, kind=tarfile.FIFOTYPE)
        case _:
            return entry(name, kind=tarfile.CHRTYPE, devmajor=1, devminor=3)


def unpacked(content: bytes) -> None:
    """Unpack into a new directory, beside a file that must stay as it was."""
    with tempfile.TemporaryDirectory(prefix="bay-corpus-") as place:
        beside, top = Path(place, "beside"), Path(place, "a/b/fs")
        beside.write_text("as it was")
        top.mkdir(parents=True)
        before = beside.lstat()
        with contextlib.suppress(Refused, BadArchive):
            _unpack(content, top)
        assert beside.lstat() == before
        assert beside.read_text() == "as it was"
        found = [sorted(os.listdir(directory)) for directory in (place, top.parents[1], top.parent)]
        assert found == [["a", "beside"], ["b"], ["fs"]]


def _unpack(content: bytes, top: Path) -> None:
    reader = Reader(RULES)
    with (
        closing(os.open(top, os.O_RDONLY | os.O_DIRECTORY)) as opened,
        contextlib.closing(LayerTree(opened, 200)) as tree,
    ):
        for event in reader.feed(content):
            tree.take(event)
        tree.finish()


@EXAMPLES
@given(st.lists(entries(), max_size=12))
@example([symlink("l", "../.."), entry("l/beside", b"x"), hard_link("b", "l/beside"), entry("b", b"y")])
@example([symlink("a", "l"), symlink("l", ".."), directory("a/l"), entry("a/l/../beside", b"x")])
def test_names_and_links_never_lead_out(made: list[Entry]) -> None:
    unpacked(tar(*made, form=tarfile.GNU_FORMAT))


# One member of each kind, in each form that `tarfile` writes.
WHOLE = [
    tar(
        directory("d", uid=3),
        entry("d/file", b"x" * 700, mode=0o6755, mtime=TIME + 0.5),
        entry("d/" + "n" * 80 + "/" + "m" * 80, b"long"),
        symlink("l", "d/file"),
        hard_link("h", "d/file"),
        entry("p", kind=tarfile.FIFOTYPE),
        entry("d/.wh.gone"),
        form=form,
    )
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
]
CHANGES = st.lists(
    st.tuples(st.integers(0, 1 << 14), st.binary(min_size=1, max_size=13)), min_size=1, max_size=6
)


def changed(content: bytes, changes: list[tuple[int, bytes]], mend: bool) -> bytes:
    """`content` with other bytes in places; `mend`: with checksums that are right again."""
    damaged = bytearray(content)
    for at, piece in changes:
        start = at % len(damaged)
        damaged[start : start + len(piece)] = piece
    del damaged[len(content) :]
    for block in range(0, len(damaged) - BLOCK + 1, BLOCK) if mend else ():
        header = damaged[block : block + BLOCK]
        if header[257:262] == bytearray(b"ustar"):
            header[148:156] = b" " * 8
            damaged[block + 148 : block + 156] = b"%06o\0 " % sum(header)
    return bytes(damaged)


@EXAMPLES
@given(st.sampled_from(WHOLE), CHANGES, st.booleans())
def test_damaged_tars_are_unpacked_or_refused(
    content: bytes, changes: list[tuple[int, bytes]], mend: bool
) -> None:
    unpacked(changed(content, changes, mend))


@EXAMPLES
@given(st.sampled_from([gzipped, zstandarded]), CHANGES)
def test_damaged_compression_is_an_error_of_its_library(
    compress: Callable[[bytes], Layer], changes: list[tuple[int, bytes]]
) -> None:
    source = io.BytesIO(changed(compress(WHOLE[0]).blob, changes, mend=False))
    decode, found = gunzip if compress is gzipped else unzstd, bytearray()
    with contextlib.suppress(zlib.error, zstandard.ZstdError, Damaged):
        decode(source.read, found.extend)
    assert len(found) < 100 << 20


@EXAMPLES
@given(st.lists(st.binary(max_size=2000), max_size=5), st.integers(0, 3))
def test_gzip_of_any_members_is_what_went_in(members: list[bytes], zeros: int) -> None:
    blob = b"".join(gzip.compress(member, 1) for member in members) + bytes(zeros * 999)
    found = bytearray()
    gunzip(io.BytesIO(blob).read, found.extend)
    assert found == b"".join(members)
