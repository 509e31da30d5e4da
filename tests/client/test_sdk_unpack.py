"""Archives that a hostile sandbox sends: nothing outside of the local directory is touched, and nothing is
promised memory.
"""

import errno
import io
import os
import tarfile
import tempfile
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import canned
import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bay
from bay.client._local import Meter
from bay.client._unpack import RULES, Unpacking
from tree_tar.beneath import leads_inside
from tree_tar.reader import BadArchive, Piece, Reader

pytestmark = pytest.mark.pure

END = bytes(1024)


def member(name: str, data: bytes = b"", **fields: object) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info.tobuf(tarfile.PAX_FORMAT) + data + bytes(-len(data) % 512)


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> bytes:
    return member(name, type=kind, linkname=target)


def unpack(root: Path, *parts: bytes, left: list[str] | None = None, piece: int = 1 << 16) -> int:
    meter = Meter(None, None)
    unpacking = Unpacking(root, meter, left.append if left is not None else None)
    unpacking.open()
    data = b"".join(parts)
    try:
        for start in range(0, len(data), piece):
            unpacking.feed(data[start : start + piece])
        unpacking.finish()
    finally:
        unpacking.close()
    return meter.done


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """Where it is unpacked; what is beside it must stay as it was."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    descriptors = len(os.listdir("/proc/self/fd"))
    yield tmp_path / "root"
    assert sorted(path.name for path in tmp_path.iterdir()) in (["outside"], ["outside", "root"])
    assert [path.name for path in outside.iterdir()] == ["secret"]
    assert (outside / "secret").read_text() == "secret"
    assert (outside / "secret").stat().st_nlink == 1
    assert len(os.listdir("/proc/self/fd")) == descriptors


@pytest.mark.parametrize(
    "name", ["../outside/secret", "a/../../outside/secret", "/tmp/x", "..", "a/..", "x\0y"]
)
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_a_name_that_leads_out_is_refused(root: Path, name: str, kind: bytes) -> None:
    # As a pax record: in the old header a NUL ends the name.
    with pytest.raises(bay.BayError, match="outside of the directory"):
        unpack(root, pax({"path": name}), member("x", type=kind, linkname="y"), END)


def pax(records: dict[str, str]) -> bytes:
    lines = b"".join(record(key, value) for key, value in records.items())
    return member("pax", lines, type=tarfile.XHDTYPE)


def record(key: str, value: str) -> bytes:
    text = f" {key}={value}\n".encode()
    length = len(text) + len(str(len(text)))
    length = len(text) + len(str(length))
    return str(length).encode() + text


@pytest.mark.parametrize(
    "target",
    ["../outside", "/etc", "a/../..", "d/../../outside", "..", "./../outside", "a//../../outside", ""],
)
def test_a_link_that_leads_out_is_left_out(root: Path, target: str) -> None:
    left: list[str] = []
    unpack(root, link("l", target), member("f", b"x"), END, left=left)
    assert (left, [path.name for path in root.iterdir()]) == (["l"], ["f"])


def test_links_that_stay_inside_are_made(root: Path) -> None:
    unpack(root, link("a/b/up", "../f"), link("l", "a/f"), link("self", "."), member("a/f", b"x"), END)
    assert (root / "a/b/up").read_text() == (root / "l").read_text() == "x"


def test_a_link_through_another_link_does_not_lead_out(root: Path) -> None:
    """By its words `a/b/deep/../outside` is in the directory; by the file system, `deep` being the top, it is
    not.
    """
    left: list[str] = []
    unpack(root, link("a/b/deep", "../.."), link("out", "a/b/deep/../outside"), END, left=left)
    assert left == ["out"]


def test_nothing_is_written_through_a_link_of_the_archive(root: Path) -> None:
    with pytest.raises(bay.BayError, match="is not followed"):
        unpack(root, member("d", type=tarfile.DIRTYPE), link("l", "d"), member("l/x", b"1"), END)
    assert list((root / "d").iterdir()) == []


@pytest.mark.parametrize(
    "entry",
    [
        member("here/secret", b"evil"),
        member("here/secret", type=tarfile.DIRTYPE),
        member("here", type=tarfile.DIRTYPE, mode=0o700),
        link("here/l", "x"),
        link("mine", "here/secret", tarfile.LNKTYPE),
    ],
)
def test_nothing_is_written_through_a_link_that_was_there_before(root: Path, entry: bytes) -> None:
    root.mkdir()
    (root / "here").symlink_to("../outside")
    with pytest.raises(bay.BayError, match="is not followed"):
        unpack(root, entry, END)
    assert [path.name for path in root.iterdir()] == ["here"]


def test_a_file_takes_the_place_of_a_link_and_leaves_what_it_led_to(root: Path) -> None:
    root.mkdir()
    (root / "f").symlink_to("../outside/secret")
    unpack(root, member("f", b"new"), END)
    assert (root / "f").read_text() == "new"
    assert not (root / "f").is_symlink()


def test_a_hard_link_to_a_link_is_refused(root: Path) -> None:
    """`a/l` says `../x`, which is inside; the same words beside the directory itself would lead out of it."""
    with pytest.raises(bay.BayError, match="not a regular file"):
        unpack(root, link("a/l", "../x"), link("out", "a/l", tarfile.LNKTYPE), END)
    assert not (root / "out").is_symlink()


def test_a_file_does_not_take_the_place_of_a_directory(root: Path) -> None:
    with pytest.raises(bay.BayError, match="of another kind"):
        unpack(root, member("d/x", b"1"), member("d", b"2"), END)
    assert [path.name for path in root.iterdir()] == ["d"]


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_devices_and_fifos_are_left_out(root: Path, kind: bytes) -> None:
    left: list[str] = []
    unpack(root, member("d", type=kind, devmajor=1, devminor=3), member("f", b"x"), END, left=left)
    assert (left, [path.name for path in root.iterdir()]) == (["d"], ["f"])


def test_an_unknown_kind_is_passed_over_with_what_is_in_it(root: Path) -> None:
    left: list[str] = []
    assert unpack(root, member("u", b"y" * 600, type=b"U"), member("f", b"x"), END, left=left) == 1
    assert (left, [path.name for path in root.iterdir()]) == (["u"], ["f"])


def test_modes_are_made_harmless(root: Path) -> None:
    unpack(root, member("f", b"x", mode=0o6777), member("d", type=tarfile.DIRTYPE, mode=0o1007), END)
    assert ((root / "f").stat().st_mode & 0o7777, (root / "d").stat().st_mode & 0o7777) == (0o755, 0o705)


@pytest.mark.parametrize("mtime", ["nan", "inf", "-1", "99999999999999999999", "x", "1e300"])
def test_a_time_that_is_none_is_no_matter(root: Path, mtime: str) -> None:
    unpack(root, pax({"mtime": mtime}), member("f", b"x", mtime=5), END)
    assert (root / "f").stat().st_mtime in (5, -1)


def test_a_long_header_is_not_taken_into_memory(root: Path) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(bay.BayError, match="a header of"):
            unpack(root, member("pax", b"x" * (2 << 20), type=tarfile.XHDTYPE), END)
        assert tracemalloc.get_traced_memory()[1] < 12 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_many_headers_before_one_file_are_an_error(root: Path, kind: bytes) -> None:
    header = member("pax", b"13 comment=x\n", type=kind)
    assert unpack(root, *[header * 8 + member(f"f{number}") for number in range(3)], END) == 0
    with pytest.raises(bay.BayError, match="more than 8 headers"):
        unpack(root, header * 9 + member("g"), END)


def test_as_many_pieces_as_a_sandbox_sends_take_no_time() -> None:
    places = [1 << 60 | 2 * number for number in range(50_000)]
    listed = "50001\n" + "".join(f"{at}\n1\n" for at in places) + f"{1 << 61}\n0\n"
    began = time.process_time()
    events = list(Reader(RULES).feed(sparse(1 << 61, listed, b"x" * 50_000)))
    written = [event.offset for event in events if isinstance(event, Piece)]
    assert (written, time.process_time() - began < 2) == (places, True)
    with pytest.raises(BadArchive, match="more than 65536 segments"):
        list(Reader(RULES).feed(sparse(9, "65537\n", b"")))


def test_many_small_records_take_no_time(root: Path) -> None:
    """A million bytes of records of five bytes: cutting each off from the front would copy 100 GB."""
    with pytest.raises(bay.BayError, match="broke off"):
        unpack(root, member("pax", b"5 a=\n" * 200_000, type=tarfile.XHDTYPE))


@pytest.mark.parametrize(
    "bad", [b"9 a=b\n", b"x a=b\n", b" a=b\n", b"5 a=b\n", b"6 a=bc", b"-6 a=b\n", b"4\n"]
)
def test_a_pax_header_that_is_none_is_an_error(root: Path, bad: bytes) -> None:
    with pytest.raises(bay.BayError, match="damaged"):
        unpack(root, member("pax", bad, type=tarfile.XHDTYPE), member("f"), END)


SPARSE = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "holes"}


def sparse(size: int, pieces: str, data: bytes) -> bytes:
    """A file that is stored without its holes; `pieces` is the list of where the others belong."""
    listed = pieces.encode()
    stored = listed + bytes(-len(listed) % 512) + data
    return pax({**SPARSE, "GNU.sparse.realsize": str(size)}) + member("GNUSparseFile.0/holes", stored)


@pytest.mark.parametrize("piece", [1, 7, 512, 1 << 16])
def test_a_file_with_holes_comes_with_its_holes(root: Path, piece: int) -> None:
    size = 64 << 20
    archive = sparse(size, f"3\n0\n5\n1048576\n600\n{size}\n0\n", b"begin" + b"x" * 600)
    assert unpack(root, archive, member("next", b"n"), END, piece=piece) == 606
    facts = (root / "holes").stat()
    assert (facts.st_size, facts.st_blocks < 64) == (size, True)
    with (root / "holes").open("rb") as file:
        assert file.read(6) == b"begin\0"
        file.seek(1 << 20)
        assert file.read(601) == b"x" * 600 + b"\0"
    assert (root / "next").read_bytes() == b"n"


@pytest.mark.parametrize(
    ("size", "pieces", "data"),
    [
        (10, "1\n0\n11\n", b"x" * 11), (10, "1\n-1\n5\n", b"x" * 5), (10, "2\n0\n5\n", b"x" * 5), (10, "x\n", b""),
        (10, "1\n0\n5\n", b"x" * 4), (10, "1\n0\n5\n", b"x" * 6), (10, "", b""), (10, "9" * 30 + "\n", b""),
        (1 << 63, "0\n", b""), (10, "1\n" * 600, b""),
    ],
)  # fmt: skip
def test_holes_that_say_nonsense_are_an_error_and_leave_no_half_file(
    root: Path, size: int, pieces: str, data: bytes
) -> None:
    with pytest.raises(bay.BayError, match="damaged"):
        unpack(root, sparse(size, pieces, data), END)
    assert list(root.iterdir()) == []


def test_a_sparse_file_of_another_kind_is_an_error(root: Path) -> None:
    with pytest.raises(bay.BayError, match="sparse"):
        unpack(root, pax({"GNU.sparse.major": "0"}), member("f", b"x"), END)
    assert unpack(root, member("f", type=tarfile.GNUTYPE_SPARSE), END) == 0  # left out: GNU's old kind
    assert list(root.iterdir()) == []


@pytest.mark.parametrize("whole", [member("f", b"x" * 1000) + END])
@pytest.mark.parametrize("keep", [0, 100, 512, 1000, 1536, 1600])
def test_an_archive_that_breaks_off_is_an_error_and_leaves_no_half_file(
    root: Path, whole: bytes, keep: int
) -> None:
    with pytest.raises(bay.BayError, match="broke off"):
        unpack(root, whole[:keep])
    assert [path.name for path in root.iterdir()] in ([], ["f"])
    assert keep >= 1512 or not list(root.iterdir())


def test_garbage_is_an_error(root: Path) -> None:
    with pytest.raises(bay.BayError, match="damaged"):
        unpack(root, b"\xff" * 2048)


def test_long_gnu_names_are_understood(root: Path) -> None:
    info = tarfile.TarInfo("d/" + "n" * 200)
    info.size = 1
    unpack(root, info.tobuf(tarfile.GNU_FORMAT), b"x".ljust(512, b"\0"), END, piece=7)
    assert (root / "d" / ("n" * 200)).read_text() == "x"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["..", "a", "b", "l", "m", ".", ""]), max_size=5), st.data())
def test_no_chain_of_links_leads_out(words: list[str], data: st.DataObject) -> None:
    """Whatever passes is resolved by the real file system, and stays below the directory."""
    paths = st.lists(st.sampled_from(["..", "a", "b", "l", "m", "."]), min_size=1, max_size=4).map("/".join)
    names = st.lists(st.sampled_from(["a", "b", "l", "m"]), min_size=1, max_size=3).map("/".join)
    links = [*data.draw(st.lists(st.tuples(names, paths), max_size=4)), ("l", "/".join(words))]
    with tempfile.TemporaryDirectory() as made:
        root = Path(made).resolve() / "deep" / "root"
        for name, target in links:
            with suppress(bay.BayError, OSError):
                unpack(root, link(name, target), END)
        for path in root.rglob("*") if root.exists() else ():
            assert is_a_circle(path) or Path(os.path.realpath(path)).is_relative_to(root)


def is_a_circle(path: Path) -> bool:
    """Whether the kernel gives up on it.

    What realpath makes of a circle with `//` in it, such as l -> l//a, is nowhere: /a.
    """
    try:
        path.stat()
    except OSError as error:
        return error.errno == errno.ELOOP
    return False


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=1100), st.integers(0, 1023))
def test_whatever_comes_is_an_archive_or_a_bay_error(noise: bytes, at: int) -> None:
    whole = bytearray(pax({"path": "ü"}) + member("f", b"x") + link("l", "f") + END)
    whole[at : at + len(noise)] = noise
    with tempfile.TemporaryDirectory() as made:
        with suppress(bay.BayError, OSError):
            unpack(Path(made) / "root", bytes(whole))
        assert set(os.listdir(made)) <= {"root"}


def test_links_lead_inside_only_when_no_name_stands_before_the_dots() -> None:
    assert leads_inside("a/b/l", "../../x")
    assert not leads_inside("a/b/l", "../../../x")
    assert not leads_inside("a/b/l", "c/../x")


def test_what_the_sdk_is_sent_is_unpacked_so(tmp_path: Path) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if "archive" not in request.url.path:
            return httpx.Response(200, json=canned.SANDBOX)
        return httpx.Response(200, content=member("../evil", b"x") + END)

    client = bay.Client("http://bay.test", "k", transport=httpx.MockTransport(answer))
    with client, pytest.raises(bay.BayError, match="outside of the directory"):
        client.sandboxes.get("box").files.download_dir("d", tmp_path / "d")
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_what_tarfile_writes_is_read_in_pieces_of_any_size(tmp_path: Path) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        tar.add(Path(__file__).parent, ".", filter=lambda info: None if "__pycache__" in info.name else info)
    assert unpack(tmp_path / "a", packed.getvalue(), piece=511) > 10_000
    assert (tmp_path / "a" / Path(__file__).name).read_bytes() == Path(__file__).read_bytes()
