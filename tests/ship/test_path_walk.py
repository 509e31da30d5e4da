"""The walk that stands in for openat2: the same files and the same errors, and out of reach of a race."""

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ship.files.path_walk import walk
from tree_tar.beneath import closing
from tree_tar.openat2 import openat2

pytestmark = pytest.mark.host

READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY
FLAGS = (
    READ, os.O_PATH, os.O_PATH | os.O_NOFOLLOW, READ | os.O_NOFOLLOW, READ | os.O_DIRECTORY, os.O_PATH | os.O_DIRECTORY,
    os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, os.O_WRONLY | os.O_NONBLOCK,
)  # fmt: skip
NAMES = (
    ".", "..", "", "d", "e", "f", "file", "none", "fifo", "to-d", "to-file", "up", "out", "abs", "loop", "to-none",
    "slash", "far", "up-up", "shut", "x" * 256,
)  # fmt: skip


@pytest.fixture(scope="module")
def top(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree with files and links of each kind, and a file beside it."""
    beside = tmp_path_factory.mktemp("walk")
    (beside / "secret").write_text("secret")
    made = beside / "top"
    (made / "d/e/f").mkdir(parents=True)
    (made / "shut").mkdir(mode=0o600)
    for name in ("file", "d/file", "d/e/file"):
        (made / name).write_text(name)
    os.mkfifo(made / "d/fifo")
    links = {
        "to-d": "d", "d/to-d": "../d/e", "to-file": "d/file", "d/up": "..", "d/e/up-up": "../..", "out": "../secret",
        "d/out": "../../secret", "abs": str(made), "d/abs": "/", "loop": "loop", "d/loop": "../d/loop/e", "to-none": "none",
        "d/slash": "e/", "slash": "file/", "far": "d/to-d/../to-d/f/../..", "d/e/to-file": "../to-d/../../to-file",
        "proc": "/proc/self/root", "me": "/proc/self",
    }  # fmt: skip
    for name, target in links.items():
        (made / name).symlink_to(target)
    chain = [made / f"chain{number}" for number in range(42)]
    for number, link in enumerate(chain):
        link.symlink_to(f"chain{number - 1}" if number else "file")
    return made


def found(descriptor: int) -> tuple[int, int]:
    with closing(descriptor):
        facts = os.fstat(descriptor)
    return facts.st_dev, facts.st_ino


def both(top: Path, path: str, flags: int, *, beneath: bool) -> tuple[object, object]:
    """The kernel's answer, and the walk's: a file or an error."""
    root = os.open(top, os.O_PATH | os.O_DIRECTORY)
    answers: list[object] = []
    with closing(root):
        for how in (openat2, walk):
            try:
                answers.append(found(how(root, os.fsencode(path), flags, beneath=beneath)))
            except OSError as error:
                answers.append(errno.errorcode[error.errno or 0])
    return answers[0], answers[1]


@settings(max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    parts=st.lists(st.sampled_from(NAMES), min_size=1, max_size=7),
    flags=st.sampled_from(FLAGS),
    beneath=st.booleans(),
)
def test_a_walk_finds_what_openat2_finds(top: Path, parts: list[str], flags: int, beneath: bool) -> None:
    path = "/".join(parts)
    kernels, ours = both(top, path, flags, beneath=beneath)
    assert ours == kernels, path


@pytest.mark.parametrize("path", ["chain39", "chain40", "chain41", "/", "//", "d//e/./f/", "x/" * 2100, ""])
@pytest.mark.parametrize("beneath", [True, False])
def test_a_walk_has_the_kernels_bounds(top: Path, path: str, beneath: bool) -> None:
    for flags in FLAGS:
        kernels, ours = both(top, path, flags, beneath=beneath)
        assert ours == kernels


@pytest.mark.parametrize(
    "path",
    [
        "/proc/self/root/etc/passwd", "/proc/self/cwd", "/proc/self/exe", "/proc/self/fd/0", "/proc/self/ns/net",
        "/proc/self/status", "/proc/thread-self/root", "/proc/mounts", "/proc/net/dev", "proc/etc/passwd", "me/environ", "/",
        "/proc/../proc/self/../self/stat", "/proc/1/root/", "/proc/self/fd/0/x", "/dev/null", "/etc/passwd/", "/etc/../etc/passwd",
    ],
)  # fmt: skip
def test_a_walk_refuses_magic_links_and_follows_the_others(top: Path, path: str) -> None:
    for flags in (READ, os.O_PATH, os.O_PATH | os.O_NOFOLLOW):
        kernels, ours = both(top, path, flags, beneath=False)
        if path.startswith(("/proc/self", "/proc/thread-self", "me")) and isinstance(kernels, tuple):
            assert isinstance(ours, tuple)  # each look makes another inode
        else:
            assert ours == kernels


def test_the_end_of_a_path_is_no_link_of_another_in_a_directory_for_all(top: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make another's link")
    shared = top.parent / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    for name, owner in (("theirs", 1000), ("ours", 0)):
        (shared / name).symlink_to("../secret")
        os.chown(shared / name, owner, owner, follow_symlinks=False)
    (shared / "way").symlink_to("../top")
    os.chown(shared / "way", 1000, 1000, follow_symlinks=False)
    with closing(os.open(shared, os.O_PATH)) as root:
        with pytest.raises(PermissionError):
            walk(root, b"theirs", os.O_RDONLY, beneath=False)
        for path in (b"ours", b"way/file"):
            os.close(walk(root, path, os.O_RDONLY, beneath=False))


SWAPPER = """
import os, sys, time
os.chdir(sys.argv[1])
end = time.monotonic() + 30
print('up', flush=True)
while time.monotonic() < end:
    os.rename('a/b', '../b'); os.symlink('../..', 'a/b')
    os.unlink('a/b'); os.rename('../b', 'a/b')
    os.rename('a/file', 'a/kept'); os.symlink('../../secret', 'a/file')
    os.unlink('a/file'); os.rename('a/kept', 'a/file')
"""


def test_no_rename_and_no_link_leads_a_walk_out(tmp_path: Path) -> None:
    (tmp_path / "top/a/b/c").mkdir(parents=True)
    (tmp_path / "top/a/file").write_text("inside")
    (tmp_path / "file").write_text("secret")
    (tmp_path / "secret").write_text("secret")
    root = os.open(tmp_path / "top", os.O_PATH | os.O_DIRECTORY)
    seen: dict[object, int] = {}
    command = [sys.executable, "-c", SWAPPER, str(tmp_path / "top")]
    with closing(root), subprocess.Popen(command, stdout=subprocess.PIPE) as swapper:
        try:
            assert swapper.stdout
            assert swapper.stdout.readline() == b"up\n"
            for number in range(4000):
                path = (b"a/file", b"a/b/c/../../file", b"a/b/../file", b"a/b/c/../../../a/b/../../a/file")[
                    number % 4
                ]
                try:
                    with open(walk(root, path, os.O_RDONLY)) as file:
                        answer: object = file.read()
                except OSError as error:
                    answer = errno.errorcode[error.errno or 0]
                seen[answer] = seen.get(answer, 0) + 1
        finally:
            swapper.kill()
    assert "secret" not in seen
    assert seen["inside"] > 0
    assert seen.keys() & {"EAGAIN", "EXDEV", "ELOOP", "ENOENT"}  # there was a race to lose
    assert seen.keys() <= {"inside", "EAGAIN", "EXDEV", "ELOOP", "ENOENT"}


def test_a_walk_keeps_no_descriptor(top: Path) -> None:
    root = os.open(top, os.O_PATH | os.O_DIRECTORY)
    with closing(root):
        before = len(os.listdir("/proc/self/fd"))
        for path in ("d/e/f", "d/../out", "loop", "d/e/../../abs", "to-none", "file/x", "d/up/d/up"):
            for flags in FLAGS:
                for beneath in (True, False):
                    try:
                        os.close(walk(root, os.fsencode(path), flags, beneath=beneath))
                    except OSError:
                        continue
        assert len(os.listdir("/proc/self/fd")) == before


def test_a_walk_is_closed_for_programs(top: Path) -> None:
    root = os.open(top, os.O_PATH | os.O_DIRECTORY)
    with closing(root):
        for path, flags in (
            (b".", os.O_PATH),
            (b"file", os.O_PATH),
            (b"file", os.O_RDONLY),
            (b"d/..", os.O_RDONLY),
        ):
            with closing(walk(root, path, flags)) as descriptor:
                assert not os.get_inheritable(descriptor)
                assert stat.S_IFMT(os.fstat(descriptor).st_mode) in (stat.S_IFDIR, stat.S_IFREG)
