"""The rules by which the members of a layer's tar become files: in this process, without the cage."""

import errno
import os
import stat
import subprocess
import tarfile
from array import array
from contextlib import closing
from pathlib import Path

import pytest
from layer_files import (
    TIME,
    Entry,
    device,
    directory,
    entry,
    hard_link,
    names_in,
    symlink,
    tar,
)

from layer_unpack import directories
from layer_unpack import tree as layer_tree
from layer_unpack.refusals import FAILED, FULL, INVALID, TOO_LARGE, Refused
from layer_unpack.tree import RULES, LayerTree
from tree_tar.headers import FILE, header
from tree_tar.reader import BadArchive, Member, Reader

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to other users")

NO_CAPABILITIES = bytes.fromhex("0100000200040000000000000000000000000000")  # cap_net_bind_service in a v2


class Made:
    """A layer's directory, with a file beside it that must stay as it was."""

    def __init__(self, place: Path) -> None:
        self.top = place / "fs"
        self.top.mkdir()
        self.beside = place / "beside"
        self.beside.write_text("as it was")
        self.opaque: list[str] = []
        self.tree: LayerTree

    def unpack(self, content: bytes, max_entries: int = 1000) -> "Made":
        """Raises Refused or BadArchive."""
        before = self._fingerprint()
        umask = os.umask(0)
        top = os.open(self.top, os.O_RDONLY | os.O_DIRECTORY)
        try:
            reader = Reader(RULES)
            with closing(LayerTree(top, max_entries)) as self.tree:
                for event in reader.feed(content):
                    self.tree.take(event)
                assert reader.ended or reader.is_between
                self.opaque = self.tree.finish()
        finally:
            os.umask(umask)
            os.close(top)
            assert self._fingerprint() == before
        return self

    def _fingerprint(self) -> object:
        facts = self.beside.lstat()
        named = (facts.st_mode, facts.st_nlink, facts.st_mtime_ns, facts.st_uid, facts.st_ctime_ns)
        return named, self.beside.read_text(), sorted(os.listdir(self.top.parent))

    @property
    def names(self) -> dict[str, str]:
        return names_in(self.top)


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path)


def test_owners_modes_and_times_are_those_of_the_members(made: Made) -> None:
    made.unpack(
        tar(
            directory("d", 0o3770, uid=5, gid=6, mtime=TIME - 500),
            entry("d/f", b"x", mode=0o6755, uid=7, gid=8, mtime=TIME - 400.25),
            symlink("d/l", "f", uid=9, gid=10, mtime=TIME - 300),
            entry("d/p", kind=tarfile.FIFOTYPE, mode=0o622, uid=11, mtime=TIME - 200),
        )
    )
    found = {name: (made.top / name).lstat() for name in ("d", "d/f", "d/l", "d/p")}
    assert {
        name: (stat.S_IMODE(facts.st_mode), facts.st_uid, facts.st_gid) for name, facts in found.items()
    } == {"d": (0o3770, 5, 6), "d/f": (0o6755, 7, 8), "d/l": (0o777, 9, 10), "d/p": (0o622, 11, 0)}
    assert [facts.st_mtime for facts in found.values()] == [TIME - 500, TIME - 400.25, TIME - 300, TIME - 200]


def test_a_directory_keeps_its_time_whatever_is_made_in_it_later(made: Made) -> None:
    made.unpack(
        tar(
            directory(".", 0o751, mtime=7),
            directory("a", mtime=1),
            directory("a/b", mtime=2),
            entry("a/b/f"),
            entry("a/late"),
            entry("top"),
            hard_link("a/b/again", "top"),
        )
    )
    times = {name: (made.top / name).stat().st_mtime for name in (".", "a", "a/b")}
    assert times == {".": 7, "a": 1, "a/b": 2}
    assert stat.S_IMODE(made.top.stat().st_mode) == 0o751


def test_what_lies_in_a_set_group_directory_has_its_own_group_and_mode(made: Made) -> None:
    made.unpack(tar(directory("g", 0o2775, gid=50), entry("g/f"), directory("g/d"), entry("g/implied/f")))
    found = {name: (made.top / "g" / name).stat() for name in ("f", "d", "implied", "implied/f")}
    assert {facts.st_gid for name, facts in found.items() if name != "implied/f"} == {0}
    assert not any(facts.st_mode & stat.S_ISGID for facts in found.values())


def test_attributes_that_mean_something_in_a_sandbox_are_kept(made: Made) -> None:
    records = {
        "SCHILY.xattr.user.note": "kept",
        "SCHILY.xattr.security.capability": NO_CAPABILITIES.decode("latin-1"),
        "SCHILY.xattr.security.bay": "dropped",
        "SCHILY.xattr.trusted.overlay.redirect": "/etc",
        "SCHILY.xattr.trusted.overlay.opaque": "y",
        "SCHILY.xattr.user.overlay.opaque": "y",
        "SCHILY.xattr.system.posix_acl_default": "dropped",
    }
    made.unpack(tar(entry("f", b"x", pax_headers=records), directory("d", pax_headers=records)))
    assert set(os.listxattr(made.top / "f")) == {"user.note", "security.capability"}
    assert os.getxattr(made.top / "f", "user.note") == b"kept"
    assert "user.note" in os.listxattr(made.top / "d")
    assert not [name for name in os.listxattr(made.top / "d") if "overlay" in name]


def test_overlay_marks_would_be_set_without_the_list_of_those_kept(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layer_tree, "_KEPT_XATTRS", ("",))
    made.unpack(tar(directory("d", pax_headers={"SCHILY.xattr.trusted.overlay.redirect": "/etc"})))
    assert os.listxattr(made.top / "d") == ["trusted.overlay.redirect"]


def test_owners_that_no_sandbox_has_become_nobody(made: Made) -> None:
    made.unpack(tar(entry("f", b"x", uid=1_234_567, gid=3, mode=0o6755), entry("g", uid=4, gid=1 << 31)))
    found = [(made.top / name).stat() for name in ("f", "g")]
    assert [(facts.st_uid, facts.st_gid) for facts in found] == [(65_534, 3), (4, 65_534)]
    assert stat.S_IMODE(found[0].st_mode) == 0o755


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_may_be_long_and_of_any_bytes(made: Made, form: int) -> None:
    names = [
        "ü/日本語",
        "emoji-🦊",
        "n" * 255,
        "/".join(["p" * 200] * 5),
        "line\nfeed",
        "tab\there",
        "\udcff\udcfe-raw",
    ]
    made.unpack(tar(*(entry(name, name.encode("utf-8", "surrogateescape")) for name in names), form=form))
    for name in names:
        content = Path(os.fsdecode(os.fsencode(made.top / name))).read_bytes()
        assert content == name.encode("utf-8", "surrogateescape")


@pytest.mark.parametrize(
    "options",
    [["--format=gnu"], *(["--format=posix", f"--sparse-version={v}"] for v in ("0.0", "0.1", "1.0"))],
)
def test_sparse_files_stay_sparse(made: Made, options: list[str], tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    with (source / "holes").open("wb") as file:
        for offset in range(0, 60 << 20, 3 << 20):
            file.seek(offset)
            file.write(b"data" * 2048)
        file.truncate(64 << 20)
    command = ["tar", "--sparse", *options, "-cf", "-", "-C", str(source), "holes"]
    content = subprocess.run(command, capture_output=True, check=True, timeout=60).stdout
    if options[-1] == "--sparse-version=0.0":  # whose map is in repeated records, of which a reader keeps one
        with pytest.raises(BadArchive, match="sparse"):
            made.unpack(content)
        return
    made.unpack(content)
    found = made.top / "holes"
    assert found.read_bytes() == (source / "holes").read_bytes()
    assert found.stat().st_blocks * 512 < 8 << 20


def test_a_later_member_takes_the_place_of_an_earlier_one(made: Made) -> None:
    made.unpack(
        tar(
            entry("a", b"old"),
            entry("a", b"new", mode=0o600),
            directory("b"),
            directory("b/c"),
            entry("b/c/f"),
            entry("b", b"file now"),
            entry("c"),
            directory("c", 0o700),
            symlink("d", "a"),
            entry("d", b"not a"),
            directory("e", 0o700, uid=3),
            entry("e/f"),
            directory("e", 0o2755, uid=4, mtime=5),
            entry("f"),
            symlink("f", "a"),
            symlink("g", "a"),
            directory("g"),
        )
    )
    assert made.names == {
        "a": "file", "b": "file", "c": "directory", "d": "file", "e": "directory", "e/f": "file", "f": "symlink",
        "g": "directory",
    }  # fmt: skip
    assert (made.top / "a").read_text() == "new"
    assert (made.top / "d").read_text() == "not a"
    facts = (made.top / "e").stat()
    assert (stat.S_IMODE(facts.st_mode), facts.st_uid, facts.st_mtime) == (0o2755, 4, 5)


WHITEOUTS: dict[str, tuple[list[Entry], dict[str, str], list[str]]] = {
    "a name of a lower layer": (
        [directory("d"), entry("d/.wh.x")],
        {"d": "directory", "d/x": "whiteout"},
        [],
    ),
    "twice": ([entry(".wh.x"), entry(".wh.x")], {"x": "whiteout"}, []),
    "after a file": ([entry("x", b"1"), entry(".wh.x")], {"x": "file"}, []),
    "before a file": ([entry(".wh.x"), entry("x", b"1")], {"x": "file"}, []),
    "before a link": ([entry(".wh.x"), symlink("x", "y")], {"x": "symlink"}, []),
    "before a directory": ([entry(".wh.x"), directory("x")], {"x": "directory"}, ["x"]),
    "after a directory": ([directory("x"), entry(".wh.x")], {"x": "directory"}, ["x"]),
    "before a file below": ([entry(".wh.x"), entry("x/f")], {"x": "directory", "x/f": "file"}, ["x"]),
    "opaque": ([directory("x"), entry("x/.wh..wh..opq")], {"x": "directory"}, ["x"]),
    "opaque, after what is in it": (
        [entry("x/f"), entry("x/.wh..wh..opq")],
        {"x": "directory", "x/f": "file"},
        ["x"],
    ),
    "opaque at the top": ([entry(".wh..wh..opq"), entry("f")], {"f": "file"}, [""]),
    "opaque, then a file": ([entry("x/.wh..wh..opq"), entry("x", b"1")], {"x": "file"}, []),
    "opaque behind a link": (
        [directory("x"), symlink("l", "x"), entry("l/.wh..wh..opq")],
        {"x": "directory", "l": "symlink"},
        ["x"],
    ),
    "what aufs leaves": (
        [directory(".wh..wh.plnk"), entry(".wh..wh.plnk/1.2"), entry(".wh..wh.aufs")],
        {},
        [],
    ),
    "a name with spaces": ([entry(".wh. x ")], {" x ": "whiteout"}, []),
}


@pytest.mark.parametrize("case", WHITEOUTS)
def test_a_whiteout_hides_lower_layers_and_nothing_of_its_own(made: Made, case: str) -> None:
    entries, names, opaque = WHITEOUTS[case]
    made.unpack(tar(*entries))
    assert (made.names, made.opaque) == (names, opaque)


@pytest.mark.parametrize("name", [".wh.", ".wh..", ".wh...", "a/.wh.", "a/.wh..", "a/.wh..."])
def test_a_whiteout_of_its_own_directory_or_of_the_one_above_is_refused(made: Made, name: str) -> None:
    with pytest.raises(Refused, match="would delete a directory from within"):
        made.unpack(tar(directory("a"), entry("a/f", b"stays"), entry(name)))
    assert (made.top / "a/f").read_text() == "stays"


def test_a_file_below_a_whiteout_is_refused(made: Made) -> None:
    with pytest.raises(Refused, match="below a mark for a deleted name"):
        made.unpack(tar(entry(".wh.x/f")))


def test_links_of_the_same_layer_are_followed_inside_it(made: Made) -> None:
    made.unpack(
        tar(
            directory("usr/lib"),
            symlink("lib", "usr/lib"),
            entry("lib/one", b"1"),
            symlink("abs", "/usr"),
            entry("abs/lib/two", b"2"),
            symlink("up", "../../../../usr"),
            entry("up/three", b"3"),
            symlink("usr/back", ".."),
            entry("usr/back/four", b"4"),
            symlink("new", "made/late"),
            entry("new/five", b"5"),
            directory("lib/dir", 0o700),
            hard_link("abs/same", "lib/one"),
        )
    )
    found = {name: (made.top / name).read_text() for name in ("usr/lib/one", "usr/lib/two", "usr/three", "four", "made/late/five", "usr/same")}  # fmt: skip
    assert list(found.values()) == ["1", "2", "3", "4", "5", "1"]
    assert made.names["lib"] == "symlink"
    assert stat.S_IMODE((made.top / "usr/lib/dir").stat().st_mode) == 0o700


def outside(made: Made) -> list[Entry]:
    return [symlink("out", str(made.top.parent)), entry("out/beside", b"overwritten")]


def test_a_link_to_the_outside_leads_to_the_same_place_inside(made: Made) -> None:
    made.unpack(tar(*outside(made)))
    inside = made.top / str(made.beside).lstrip("/")
    assert inside.read_text() == "overwritten"


def _unlink(parent: int, name: str) -> None:
    os.unlink(name, dir_fd=parent)


def test_a_link_would_lead_out_without_its_guard(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directories, "OPEN_DIRECTORY", directories.OPEN_DIRECTORY & ~os.O_NOFOLLOW)
    monkeypatch.setattr(layer_tree, "_clear", _unlink)
    with pytest.raises(AssertionError):
        made.unpack(tar(*outside(made)))
    assert made.beside.read_text() == "overwritten"


REFUSED: dict[str, tuple[list[Entry], str]] = {
    "a name that leads out": ([entry("../beside", b"x")], "leads out"),
    "a name that leads out later": ([directory("a"), entry("a/../../beside", b"x")], "leads out"),
    "a name that leads up and stays in": ([directory("a"), entry("a/../b")], "leads out"),
    "a directory that leads out": ([directory("..", 0o777)], "leads out"),
    "a link that leads out": ([hard_link("l", "../beside")], "leads out"),
    "a link to a file of the host": ([hard_link("l", "/etc/passwd")], "does not have before it"),
    "a link through a link": ([symlink("s", "/etc"), hard_link("l", "s/passwd")], "does not have before it"),
    "a link to itself": ([hard_link("l", "l")], "does not have before it"),
    "a link to what comes later": ([hard_link("l", "f"), entry("f")], "does not have before it"),
    "a link to a directory": ([directory("d"), hard_link("l", "d")], "no file"),
    "a link to a whiteout": ([entry(".wh.w"), hard_link("l", "w")], "no file"),
    "a link to the root": ([hard_link("l", "/")], "root directory"),
    "a link to what it replaces": ([entry("d/f"), hard_link("d", "d/f")], "cannot be made"),
    "a root that is a file": ([entry(".")], "root directory"),
    "a root that is a link": ([symlink(".", "/etc")], "root directory"),
    "no name": ([entry("")], "root directory"),
    "a file with files": ([entry("f", b"x"), entry("f/g")], "below 'f'"),
    "a fifo with files": ([entry("p", kind=tarfile.FIFOTYPE), entry("p/g")], "below 'p'"),
    "a loop of links": ([symlink("a", "b"), symlink("b", "a"), entry("a/x")], "too many symbolic links"),
    "a link to itself with files": ([symlink("a", "a"), entry("a/x")], "too many symbolic links"),
    "a chain of long links": (
        [*(symlink(f"l{n}", "/".join([f"l{n + 1}", *["d", ".."] * 700])) for n in range(39)), entry("l0/x")],
        "too many symbolic links",
    ),
    "a name that is too long": ([entry("n" * 256)], "too long"),
    "a path that is too long": ([entry("/".join(["p" * 200] * 21))], "more than 4095 bytes"),
    "a link that is too long": ([symlink("l", "x" * 5000)], "too long"),
    "a link to nothing": ([symlink("l", "")], "nothing that can be"),
    "directories that are too deep": ([entry("/".join(["d"] * 300))], "more than 256 deep"),
    "links that make it too deep": (
        [symlink("l", "/".join(["d"] * 200)), entry("l/" + "/".join(["e"] * 100))],
        "more than 256 deep",
    ),
    "a kind that no file system has": ([entry("v", kind=b"V")], "of a kind"),
    "a NUL in a name": ([entry("x", pax_headers={"path": "a\0b"})], "NUL"),
    "a NUL in a link": ([entry("x"), hard_link("l", "x", pax_headers={"linkpath": "a\0b"})], "NUL"),
    "a NUL in a symbolic link": ([symlink("l", "x", pax_headers={"linkpath": "a\0b"})], "nothing that can be"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_layer_is_refused(made: Made, case: str) -> None:
    entries, words = REFUSED[case]
    with pytest.raises(Refused, match=words) as refused:
        made.unpack(tar(*entries))
    assert refused.value.kind == INVALID


def test_a_layer_has_a_budget_of_steps_however_few_its_bytes_are(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """200,000 such members took hours."""
    monkeypatch.setattr(directories, "_STEPS_AT_FIRST", 1 << 16)
    link = symlink("L", "/".join(["d", ".."] * 800))
    members = [directory("d"), link, *(entry(f"L/L/{n}") for n in range(50))]
    with pytest.raises(Refused, match="behind too many directories and symbolic links") as refused:
        made.unpack(tar(*members))
    assert refused.value.kind == INVALID


def test_a_deep_tree_in_any_order_is_within_the_budget(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directories, "_STEPS_AT_FIRST", 0)
    places = ["/".join([top, *["d"] * 14]) for top in ("a", "b")]
    made.unpack(tar(symlink("l", "a"), *(entry(f"{places[n % 2]}/{n}") for n in range(900))))


def _unguarded(name: str, _member: Member) -> tuple[str, ...]:
    return tuple(name.split("/"))


def test_a_name_would_lead_out_without_its_guard(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer_tree, "_parts", _unguarded)
    with pytest.raises(AssertionError):
        made.unpack(tar(entry("../beside", b"overwritten")))
    assert made.beside.read_text() == "overwritten"


def test_a_hard_link_would_lead_out_without_its_guard(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer_tree, "_parts", _unguarded)
    with pytest.raises(AssertionError):
        made.unpack(tar(hard_link("l", "../beside")))
    assert made.beside.stat().st_nlink == 2


def test_a_file_would_be_written_through_a_link_without_its_guard(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layer_tree, "NEW_FILE", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    with pytest.raises(AssertionError):
        made.unpack(tar(symlink("l", str(made.beside)), entry("l", b"overwritten")))
    assert made.beside.read_text() == "overwritten"


def test_a_deep_link_that_is_replaced_is_gone(made: Made) -> None:
    made.unpack(tar(symlink("a", "b"), entry("a/f", b"1"), directory("a"), entry("a/f", b"2")))
    assert (made.top / "b/f").read_text() == "1"
    assert (made.top / "a/f").read_text() == "2"


def test_absolute_names_are_put_inside(made: Made) -> None:
    made.unpack(tar(entry(str(made.beside), b"inside"), directory("//x//y/."), entry("./z/./f")))
    assert (made.top / str(made.beside).lstrip("/")).read_text() == "inside"
    assert {"x/y", "z/f"} <= set(made.names)


def test_hard_links_are_one_file(made: Made) -> None:
    made.unpack(tar(entry("a", b"x", mode=0o755), hard_link("d/b", "./a"), symlink("s", "a"), hard_link("t", "s"), hard_link("a", "a")))  # fmt: skip
    assert (made.top / "a").stat().st_ino == (made.top / "d/b").stat().st_ino
    assert (made.top / "t").is_symlink()
    assert (made.top / "s").lstat().st_nlink == 2


def test_devices_are_left_out_and_counted(made: Made) -> None:
    entries = (device("dev/null"), device("dev/sda", tarfile.BLKTYPE, 8, 0), device("gone", minor=0, major=0))
    made.unpack(tar(directory("dev"), *entries))
    assert made.names == {"dev": "directory"}
    assert made.tree.skipped == 3


@pytest.mark.parametrize("end", [b"", bytes(512)])
def test_an_archive_without_its_end_is_taken(made: Made, end: bytes) -> None:
    content = tar(entry("f", b"x"))
    made.unpack(content[:1024] + end)
    assert made.names == {"f": "file"}


def test_entries_are_counted_also_those_that_are_only_implied(made: Made) -> None:
    with pytest.raises(Refused, match="more than 5 entries") as refused:
        made.unpack(tar(entry("a/b/c/d/e/f")), max_entries=5)
    assert refused.value.kind == TOO_LARGE


def test_opaque_directories_are_bounded(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer_tree, "_OPAQUE_BYTES", 20)
    with pytest.raises(Refused, match="too many opaque"):
        made.unpack(tar(*(entry(f"{n:09}/.wh..wh..opq") for n in range(3))))


@pytest.mark.parametrize(
    ("number", "kind"),
    [(errno.ENOSPC, FULL), (errno.EDQUOT, TOO_LARGE), (errno.EIO, FAILED), (errno.EPERM, FAILED)],
)
def test_the_host_is_blamed_for_its_own_errors(
    made: Made, number: int, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("layer_unpack.tree.os.mkdir", refuse)
    with pytest.raises(Refused) as refused:
        made.unpack(tar(directory("d")))
    assert refused.value.kind == kind


def test_a_descriptor_is_closed_for_each_that_is_opened(made: Made) -> None:
    before = len(os.listdir("/proc/self/fd"))
    made.unpack(
        tar(*(entry(f"a{n % 7}/b{n % 5}/f{n}", b"x") for n in range(100)), hard_link("x", "a0/b0/f0"))
    )
    assert len(os.listdir("/proc/self/fd")) == before


def test_times_of_any_size_are_taken(made: Made) -> None:
    member = Member(
        name="f", kind=FILE, mode=0o644, uid=0, gid=0, mtime_ns=-(10**9) * 10**9, size=0, link="",
        device=(0, 0), records=dict[bytes, bytes](), segments=array("q", (0, 0)),
    )  # fmt: skip
    contents = [header("old", FILE, mtime_ns=-5 * 10**9), header("late", FILE, mtime_ns=(1 << 33) * 10**9)]
    made.unpack(b"".join(contents))
    assert (made.top / "old").stat().st_mtime == -5
    top = os.open(made.top, os.O_RDONLY)
    with closing(LayerTree(top, 5)) as tree:
        tree.take(member)
    os.close(top)


def test_a_refusal_leaves_nothing_open(made: Made) -> None:
    before = len(os.listdir("/proc/self/fd"))
    deep = [entry("/".join(["d"] * count) + "/f", b"") for count in range(1, 300)]
    for _ in range(3):
        with pytest.raises(Refused):
            made.unpack(tar(*deep))
    assert len(os.listdir("/proc/self/fd")) == before
