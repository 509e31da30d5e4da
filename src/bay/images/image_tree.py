"""Reads files of an image before anything of it has run. A stranger made its layers.

The kernel merges them, read-only and without devices; paths are resolved with the image as root, and only
regular files of bounded size are read. All here blocks and raises OSError.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from bay.linux import mounts, overlays
from bay.linux.overlays import LAYER_NAMES, LayerNames
from bay.linux.processes import closing_fd
from tree_tar.openat2 import openat2

T = TypeVar("T")

LARGEST = 1 << 20
"""The most bytes of a file that is read."""

_INERT = mounts.RDONLY | mounts.NOSUID | mounts.NODEV | mounts.NOEXEC
_TRIES = 50  # the kernel asks for another when anything on the host is renamed meanwhile
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EXDEV)


class ImageTree:
    """The files of an image; `root` is a descriptor of its root directory."""

    def __init__(self, root: int) -> None:
        self._root = root

    def status(self, path: str, *, follow: bool = True) -> os.stat_result | None:
        """The status of the file at `path`; None where there is none. Not `follow`: of a last link itself."""
        return self._look(path, os.O_PATH | (0 if follow else os.O_NOFOLLOW), os.fstat)

    def text(self, path: str) -> str | None:
        """The content of a regular file of at most `LARGEST` bytes; None for anything else.
        Bytes that are not UTF-8 become surrogates.
        """
        found = self.status(path)
        if found is None or not stat.S_ISREG(found.st_mode) or found.st_size > LARGEST:
            return None
        return self._look(path, os.O_RDONLY | os.O_NONBLOCK, _read)

    def program(self, paths: Iterable[str]) -> str | None:
        """The first of `paths` that is a file which may be run."""
        return next((path for path in paths if self._is_program(path)), None)

    def _is_program(self, path: str) -> bool:
        found = self.status(path)
        return found is not None and stat.S_ISREG(found.st_mode) and found.st_mode & 0o111 != 0

    def _look(self, path: str, flags: int, use: Callable[[int], T]) -> T | None:
        if "\0" in path:
            return None
        for _ in range(_TRIES):
            try:
                with closing_fd(openat2(self._root, os.fsencode(path), flags, in_root=True)) as descriptor:
                    return use(descriptor)
            except OSError as error:
                if error.errno in _NOT_THERE:
                    return None
                if error.errno != errno.EAGAIN:
                    raise
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN), path)


def read_image(layers: Sequence[Path], stage: Path, read: Callable[[ImageTree], T]) -> T:
    """The result of `read` on the image of `layers`, topmost first.
    `stage` is a directory without layers in it; a mount hides it meanwhile, from one thread alone.
    """

    def work() -> T:
        mounts.unshare(mounts.CLONE_NEWNS | mounts.CLONE_FS)
        mounts.make_all_private()
        with closing_fd(_merged(layers, stage)) as root:
            return read(ImageTree(root))

    with ThreadPoolExecutor(1, "bay-image") as thread:
        return thread.submit(work).result()


def _merged(layers: Sequence[Path], stage: Path) -> int:
    *better, last = LAYER_NAMES
    for names in better:
        try:
            return _overlay(layers, stage, names)
        except OSError as error:
            if error.errno != errno.EINVAL:  # a kernel that is too old for it
                raise
    return _overlay(layers, stage, last)


def _overlay(layers: Sequence[Path], stage: Path, names: LayerNames) -> int:
    with (
        closing_fd(mounts.new_mount("tmpfs", [("size", "64k"), ("mode", "0700")])) as scratch,
        closing_fd(mounts.open_directory(stage)) as directory,
    ):
        mounts.attach(scratch, directory)
    os.chdir(stage)
    for empty in ("empty", "none"):  # an overlay without an upper layer has two lower ones
        Path(empty).mkdir()
    with overlays.detached([*layers, Path("empty"), Path("none")], _INERT) as lower:
        options = [("redirect_dir", "nofollow")]
        return overlays.mount(overlays.OverlayLayers(lower), options, _INERT, names)


def _read(descriptor: int) -> str:
    # Nothing changes a layer; the bound holds all the same.
    return os.read(descriptor, LARGEST).decode("utf-8", "surrogateescape")
