"""The tool does the parts of a build's steps that are no commands: it places files, makes directories, moves
aside the files at the places of mounts, and packs files of a stage.

It runs as root in the whole file system of a build's sandbox, where an image need not have a shell. All files
that it meets are the sandbox's own, and Bay checks the tar that it writes.
"""

import errno
import json
import os
import re
import stat
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

from ship.errors import Conflict
from ship.files.content import copy_data
from ship.files.removal import Removal
from ship.tools import settle
from ship.tools.pack import Packer, Plain
from tree_tar.beneath import NEW_FILE, OPEN_DIRECTORY, OPEN_FILE, closing

ORDER = "order.json"
"""The file in a stage that says where its files go."""
NOT_THERE = 44
"""The exit status for files that are not there."""

Ids = tuple[int, int]

_MEMORY_BYTES = 512 << 20
_ETC_BYTES = 1 << 20
_MAX_ID = 65_535


class Problem(Exception):
    """A step that cannot be done, in words for its author."""


class Copier:
    """Copies trees with their modes, times and links, and with the owners that `ids_of` tells. `mode`
    replaces that of all but links.
    """

    def __init__(self, ids_of: Callable[[str, os.stat_result], Ids], mode: int | None = None) -> None:
        self._ids_of = ids_of
        self._mode = mode
        self._links: dict[tuple[int, int], str] = {}

    def copy(self, source: str, target: str) -> None:
        """Make `target` what `source` is. A directory joins one that is there; a file replaces a file."""
        entered: list[tuple[str, str, os.stat_result]] = []
        left = [(source, target)]
        while left:
            source, target = left.pop()
            facts = os.lstat(source)
            if stat.S_ISDIR(facts.st_mode):
                _make_unless_there(target)
                entered.append((source, target, facts))
                left += [(f"{source}/{name}", f"{target}/{name}") for name in os.listdir(source)]
            else:
                self._copy_other(source, target, facts)
        for source, target, facts in reversed(entered):  # its time changes with what is made in it
            if os.path.ismount(target):
                continue  # of the sandbox and not of the image, such as the place of secrets
            with closing(os.open(target, OPEN_DIRECTORY)) as made:
                self._keep(source, made, facts)

    def _copy_other(self, source: str, target: str, facts: os.stat_result) -> None:
        _clear(target)
        key = facts.st_dev, facts.st_ino
        if facts.st_nlink > 1 and (first := self._links.setdefault(key, target)) != target:
            os.link(first, target, follow_symlinks=False)
            return
        match stat.S_IFMT(facts.st_mode):
            case stat.S_IFREG:
                with (
                    closing(os.open(source, OPEN_FILE)) as given,
                    closing(os.open(target, NEW_FILE, 0o600)) as made,
                ):
                    for _ in copy_data(given, made, facts.st_size):
                        continue
                    self._keep(source, made, facts)
            case stat.S_IFLNK:
                os.symlink(os.readlink(source), target)
                os.chown(target, *self._ids_of(source, facts), follow_symlinks=False)
                os.utime(target, ns=(facts.st_atime_ns, facts.st_mtime_ns), follow_symlinks=False)
            case _:
                os.mknod(target, facts.st_mode, facts.st_rdev)
                os.chown(target, *self._ids_of(source, facts), follow_symlinks=False)
                os.chmod(target, stat.S_IMODE(facts.st_mode))

    def _keep(self, source: str, made: int, facts: os.stat_result) -> None:
        os.fchown(made, *self._ids_of(source, facts))
        os.fchmod(made, stat.S_IMODE(facts.st_mode) if self._mode is None else self._mode)
        with suppress(OSError):  # some are not for a sandbox to set, or not on that file system
            for name in os.listxattr(source, follow_symlinks=False):
                os.setxattr(made, name, os.getxattr(source, name, follow_symlinks=False))
        os.utime(made, ns=(facts.st_atime_ns, facts.st_mtime_ns))


def place(order: Mapping[str, Any]) -> None:
    """Put the files of a stage in their places, and remove the stage."""
    stage = order["stage"]
    with open(f"{stage}/{ORDER}", encoding="utf-8", errors="surrogateescape") as file:
        wanted = json.load(file)
    for name, target in wanted["links"]:
        os.symlink(target, f"{stage}/{name}")
    ids = _ids_of(wanted["owner"])
    others = {
        f"{stage}/{name}": _ids_of(owner) for owner, names in wanted["owners"].items() for name in names
    }
    for one in wanted["sources"]:
        copier = Copier(lambda source, _facts: others.get(source, ids), wanted["mode"])
        _place_source(copier, f"{stage}/{one['name']}", one["target"], one["only"], one["below"], ids)
    _remove(stage)


def _place_source(copier: Copier, source: str, target: str, only: str | None, below: bool, ids: Ids) -> None:
    inner = target.rstrip("/") or "/"
    if os.path.islink(inner):
        inner = os.path.realpath(inner)
    if only is None and os.path.isdir(inner):
        for name in os.listdir(source):
            copier.copy(f"{source}/{name}", os.path.join(inner, name))
    elif only is None:
        _make_directories(os.path.dirname(inner), ids)
        copier.copy(source, inner)
    elif below or os.path.isdir(inner):
        _make_directories(inner, ids)
        copier.copy(f"{source}/{only}", os.path.join(inner, only))
    else:
        _make_directories(os.path.dirname(inner), ids)
        copier.copy(f"{source}/{only}", inner)


def workdir(order: Mapping[str, Any]) -> None:
    """Make a directory, and those above it, where they are missing."""
    _make_directories(order["path"], _ids_of(order["owner"]))


def aside(order: Mapping[str, Any]) -> None:
    """Move what stands at `target` to `aside`, and make the directory above `target`."""
    for path in (order["target"], order["aside"]):
        _make_directories(os.path.dirname(path), (0, 0))
    if os.path.lexists(order["target"]):
        _move(order["target"], order["aside"])


def link(order: Mapping[str, Any]) -> None:
    """Make `target` a link to `to`, and move aside what stands there."""
    aside(order)
    os.symlink(order["to"], order["target"])


def mount(order: Mapping[str, Any]) -> None:
    """Give `target` the directory `kept`, or a new one, and move aside what stands there."""
    aside(order)
    target, kept = order["target"], order["kept"]
    if kept and _is_directory(kept):
        _move(kept, target)
    else:
        os.mkdir(target)
        os.chown(target, *_ids_of(order["owner"]))
        os.chmod(target, order["mode"])


def unmount(order: Mapping[str, Any]) -> None:
    """Undo `mount`, `link` or `aside`: `target` goes to `kept`, or away, and what stood there comes back."""
    target, kept = order["target"], order["kept"]
    if kept and _is_directory(target):
        _remove(kept)
        _move(target, kept)
    else:
        _remove(target)
    if os.path.lexists(order["aside"]):
        _move(order["aside"], target)


def remove(order: Mapping[str, Any]) -> None:
    """Remove a directory, or a file, where there is one."""
    _remove(order["path"])


def let_run(order: Mapping[str, Any]) -> None:
    """Let every user run the script of a stage."""
    for path in (order["stage"], order["script"]):
        os.chmod(path, 0o755)  # noqa: S103 - the step's user is any


def pack(order: Mapping[str, Any]) -> None:
    """Write a tar of what `top` is, or of what lies below it and matches the regular expressions `names`, one
    for each part of a path. A link is taken for its target. In the tar file number 3 is `f3/NAME`, and
    directory number 3 is `d3`.
    """
    found = _matching(order["top"], order["names"])
    if not found:
        raise FileNotFoundError(errno.ENOENT, "", order["shown"])
    packer = Packer(Plain(), keeps_holes=False)
    for number, path in enumerate(found):
        real = os.path.realpath(path, strict=True)
        facts = os.stat(real)
        if stat.S_ISDIR(facts.st_mode):
            packer.add_directory(os.open(real, OPEN_DIRECTORY), f"d{number}")
        elif stat.S_ISREG(facts.st_mode):
            with closing(os.open(real, OPEN_FILE)) as descriptor:
                packer.add_file(descriptor, f"f{number}/{os.path.basename(path)}")
        else:
            raise Problem(f"{path} is no file, directory or link to one")
    packer.end()


def _matching(top: str, names: Iterable[str]) -> list[str]:
    device, found = os.stat(top).st_dev, [top]
    for form in names:
        matches = re.compile(form).fullmatch
        inside = [(path, sorted(os.listdir(path))) for path in found if os.path.isdir(path)]
        paths = [os.path.join(path, name) for path, entries in inside for name in entries if matches(name)]
        # No directory of another file system: those of mounts are not the image's.
        found = [path for path in paths if not _is_directory(path) or os.lstat(path).st_dev == device]
    return found


def _make_directories(path: str, ids: Ids) -> None:
    path = path.rstrip("/") or "/"
    missing: list[str] = []
    while not os.path.isdir(path):
        missing.append(path)
        path = os.path.dirname(path)
    for one in reversed(missing):
        os.mkdir(one, 0o755)
        os.chown(one, *ids)


def _make_unless_there(path: str) -> None:
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        if not _is_directory(path):
            raise Problem(
                f"{path} is there, and is no directory, so no directory can be copied to it"
            ) from None


def _clear(path: str) -> None:
    if _is_directory(path):
        raise Problem(f"{path} is a directory, so no file can be copied to it")
    if os.path.lexists(path):
        os.unlink(path)


def _move(source: str, target: str) -> None:
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:  # as overlayfs says of a directory that an image has
            raise
        Copier(lambda _path, facts: (facts.st_uid, facts.st_gid)).copy(source, target)
        _remove(source)


def _remove(path: str) -> None:
    if not _is_directory(path):
        if os.path.lexists(path):
            os.unlink(path)
        return
    with closing(os.open(os.path.dirname(path), OPEN_DIRECTORY & ~os.O_NOFOLLOW)) as parent:
        Removal(lambda: False).run(parent, os.path.basename(path))


def _is_directory(path: str) -> bool:
    return os.path.isdir(path) and not os.path.islink(path)


def _ids_of(owner: str) -> Ids:
    """The ids of `user[:group]`, names or numbers. A user alone has the group of its line in /etc/passwd, or
    for a number the group of that number, as Docker does it.
    """
    user, _, group = owner.partition(":")
    uid, gid = (int(user), int(user)) if user.isdecimal() else _numbers_of("/etc/passwd", user or "root")
    if group:
        gid = int(group) if group.isdecimal() else _numbers_of("/etc/group", group)[0]
    if max(uid, gid) > _MAX_ID:
        raise Problem(f"{owner[:64]} is no owner that a sandbox has; ids go to {_MAX_ID}")
    return uid, gid


def _numbers_of(file: str, name: str) -> Ids:
    """The two fields behind a name and its password: of a user the uid and gid, of a group the gid."""
    if name == "root":
        return 0, 0
    with suppress(FileNotFoundError), open(file, encoding="utf-8", errors="replace") as opened:
        for line in opened.read(_ETC_BYTES).splitlines():
            first, _, *numbers = [*line.split(":"), "", ""]
            if first == name and numbers[0].isdecimal():
                return int(numbers[0]), int(numbers[1]) if numbers[1].isdecimal() else 0
    raise Problem(f"{file} of the image has no {name[:64]!a}; give a number, or add the name in a RUN step")


_ORDERS = {one.__name__: one for one in (place, workdir, aside, link, mount, unmount, remove, let_run, pack)}


def main() -> None:
    """Run. The order is one JSON object, whose `do` names it; a problem is told on stderr."""
    settle(_MEMORY_BYTES)
    os.umask(0)
    order = json.loads(sys.argv[1])
    try:
        _ORDERS[order["do"]](order)
    except FileNotFoundError as error:
        _end(f"there is no file {error.filename}", NOT_THERE)
    except OSError as error:
        _end(
            f"{error.filename2 or error.filename}: {error.strerror}"
            if error.filename
            else str(error.strerror),
            1,
        )
    except (Problem, Conflict) as error:
        _end(str(error), 1)


def _end(words: str, status: int) -> None:
    os.write(2, words.encode("utf-8", "backslashreplace") + b"\n")
    sys.exit(status)
