"""Paths and patterns that nobody thought of: they lead where the kernel says, never out, and
never for long.
"""

import itertools
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ship.errors import ShipError
from ship.files.globs import Glob
from ship.files.sandbox_paths import Confined, Everywhere
from ship.http.conversation import _parse_query as parse_query  # pyright: ignore[reportPrivateUsage]

pytestmark = pytest.mark.pure

PARTS = st.sampled_from(
    ("", ".", "..", "a", "b", "file", "up", "out", "abs", "loop", "proc", "fd", "root", "self", "etc", "\udcff", "x\n")
)  # fmt: skip
STARTS = st.sampled_from(("", "/", "WS/", "WS/../", "/proc/self/"))


def joined(start: str, parts: list[str]) -> str:
    return start + "/".join(parts)


PATHS: st.SearchStrategy[str] = st.builds(joined, STARTS, st.lists(PARTS, max_size=7))
QUICK = settings(max_examples=400, deadline=None)


@pytest.fixture(scope="module")
def workspace() -> Iterator[Path]:
    """Directories with links to everywhere, and a secret beside them."""
    home = Path(tempfile.mkdtemp(prefix="fuzz-"))
    (home / "secret").write_text("secret")
    top = home / "ws"
    for folder in (top, top / "a", top / "a" / "b"):
        folder.mkdir()
        (folder / "file").write_text("file")
        (folder / "up").symlink_to("..")
        (folder / "out").symlink_to("../../secret")
        (folder / "abs").symlink_to(home)
        (folder / "loop").symlink_to("loop")
        (folder / "proc").symlink_to("/proc/self")
        (folder / "fd").symlink_to("/proc/self/fd")
        (folder / "root").symlink_to("/proc/self/root")
    yield top
    shutil.rmtree(home)


def reached(space: Everywhere, path: str, flags: int) -> str | None:
    """What is opened, by the name that the kernel has for it."""
    try:
        with space.translated(path):
            descriptor = space.open(space.check(path), flags)
    except ShipError:
        return None
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


@QUICK
@given(path=PATHS, follow=st.booleans())
def test_a_confined_path_never_leads_out(workspace: Path, path: str, follow: bool) -> None:
    space = Confined(str(workspace))
    try:
        path = path.replace("WS", str(workspace))
        found = reached(space, path, os.O_PATH | (0 if follow else os.O_NOFOLLOW))
        assert found is None or found == str(workspace) or found.startswith(f"{workspace}/")
        try:
            with space.translated(path):
                parent = space.open_parent(space.check_name(path))
        except ShipError:
            return
        where = os.readlink(f"/proc/self/fd/{parent}")
        os.close(parent)
        assert where == str(workspace) or where.startswith(f"{workspace}/")
    finally:
        space.close()


@QUICK
@given(path=PATHS)
def test_any_other_path_leads_where_the_kernel_says_but_never_to_what_it_makes_up(
    workspace: Path, path: str
) -> None:
    space = Everywhere(str(workspace))
    try:
        path = path.replace("WS", str(workspace))
        found = reached(space, path, os.O_PATH)
        assert found is None or not found.startswith(("/proc", "/sys"))
        if found is not None:
            said = without_end(os.path.join(workspace, path))
            assert os.path.samefile(found, said)
            assert os.path.samefile(space.absolute(path), said)
    finally:
        space.close()


def without_end(path: str) -> str:
    """Without slashes and dots at the end, which say nothing here: to the kernel `file/` is not there."""
    while path != (shorter := path.rstrip("/").removesuffix("/.")):
        path = shorter
    return path or "/"


@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=40), opener=st.sampled_from((Everywhere, Confined)))
def test_any_text_is_a_path_or_refused(workspace: Path, text: str, opener: type[Everywhere]) -> None:
    space = opener(str(workspace))
    try:
        found = reached(space, os.fsdecode(text.encode("utf-8", "replace")), os.O_PATH)
        assert found is None or os.path.isabs(found)
    finally:
        space.close()


@QUICK
@given(name=st.binary(max_size=40))
def test_the_very_bytes_of_a_name_come_through_a_query(name: bytes) -> None:
    quoted = b"".join(b"%%%02X" % byte for byte in name)
    assert os.fsencode(parse_query(b"x=1&path=" + quoted)["path"]) == name


NAMES = [
    "/".join(parts) for count in (1, 2, 3) for parts in itertools.product(("a", "ab", "b."), repeat=count)
]


def plain(pattern: str) -> re.Pattern[str]:
    """What a pattern means, in the plainest way to say it."""
    expression = ""
    for part in pattern.split("/"):
        if part == "**":
            expression += "(?:[^/]+/)*"
        else:
            expression += part.replace(".", r"\.").replace("*", "[^/]*").replace("?", "[^/]") + "/"
    return re.compile(expression)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(("*", "**", "a", "a*", "?b", "b.", "*.*", "?")), min_size=1, max_size=4))
def test_a_glob_means_what_it_says(parts: list[str]) -> None:
    pattern = "/".join(parts)
    glob, expected = Glob(pattern), plain(pattern)
    for name in NAMES:
        assert glob.matches(name) == bool(expected.fullmatch(name + "/")), (pattern, name)


@pytest.mark.timeout(20)  # one that tries every way to match takes years
@pytest.mark.parametrize(
    ("pattern", "name", "found"),
    [
        ("*a" * 500, "a" * 255, False),
        ("*a" * 200, "a" * 255, True),
        ("/".join(["**", "*a*a*a*"] * 32), "/".join(["a" * 255] * 16), False),
        ("/".join(["**", "*a*a*a*"] * 16), "/".join(["a" * 255] * 16), True),
    ],
)
def test_no_pattern_takes_long(pattern: str, name: str, found: bool) -> None:
    glob = Glob(pattern)
    assert [glob.matches(name), glob.matches(name + "/b")] == [found, False]
