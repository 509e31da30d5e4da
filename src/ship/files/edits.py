"""Edits files in place: modes, directories, and replacements of text."""

import errno
import os
import stat
from collections.abc import Callable, Generator
from contextlib import suppress

from ship.errors import Conflict, InvalidArgument, PayloadTooLarge
from ship.files.info import etag_of, look
from ship.files.listing import open_below
from ship.files.moving import DEEPEST, Place, placed
from ship.files.removal import Removal
from ship.files.sandbox_paths import refuse_made_up
from ship.files.workspace import Upload
from ship.files.workspace_paths import Workspace, need_regular
from tree_tar.beneath import closing, closing_on_error

MAX_EDITED_BYTES = 16 << 20

_READ_BYTES = 1 << 20


def make_directory(space: Workspace, path: str, *, mode: int, parents: bool) -> dict[str, object]:
    """FileInfo of the directory that is there now; an old one stays as it is. Raises ShipError."""
    name = space.check(path)
    with space.translated(name):
        with suppress(FileNotFoundError):
            there = look(space, name, follow=True)
            if there["type"] != "directory":
                raise Conflict("the path exists and is not a directory", field="path")
            return there
        above = space.open_parent(space.check_name(path), make=parents)
        # Else made by another at the same time, or a link to nowhere: the look tells.
        with closing(above) as parent, suppress(FileExistsError):
            os.mkdir(os.path.basename(name), 0o700, dir_fd=parent)
            os.chmod(os.path.basename(name), mode, dir_fd=parent)
        return look(space, name, follow=True)


def change_mode(
    space: Workspace, path: str, mode: int, *, recursive: bool
) -> Generator[None, None, dict[str, object]]:
    """FileInfo of `path`'s target, its mode changed; `recursive`: all in it but links. Raises ShipError."""
    name = space.check(path)
    with space.translated(name):
        with closing(space.open(name, os.O_PATH)) as descriptor:
            if recursive and stat.S_ISDIR(os.fstat(descriptor).st_mode):
                yield from _change_all(Place(descriptor, "."), mode, 1)
            else:
                _change(descriptor, mode)
        return look(space, name, follow=True)


def delete(space: Workspace, path: str, stopped: Callable[[], bool], *, recursive: bool) -> None:
    """Remove what `path` is, a link as such. Raises Conflict for a full directory, unless `recursive`."""
    with placed(space, path, "path") as place, space.translated(path):
        found = place.look()
        if not stat.S_ISDIR(found.st_mode):
            os.unlink(place.name, dir_fd=place.directory)
            return
        _check_may_go(space, place, found)
        if recursive:
            Removal(stopped).run(place.directory, place.name)
            return
        try:
            os.rmdir(place.name, dir_fd=place.directory)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            problem = "the directory is not empty; recursive=true deletes its contents"
            raise Conflict(problem, reason="not_empty") from error


def edit(space: Workspace, path: str, old: str, new: str, *, everywhere: bool) -> int:
    """Replace `old` in a UTF-8 file atomically; how often. Raises ShipError, Conflict for a wrong count."""
    name = space.check_name(path)
    with space.translated(name):
        before, content = _read_text(space, name)
        matches = content.count(old.encode())
        if matches == 0 or (matches > 1 and not everywhere):
            raise _unlike(matches)
        if len(content) + matches * (len(new.encode()) - len(old.encode())) > MAX_EDITED_BYTES:
            raise PayloadTooLarge(f"the file would have more than {MAX_EDITED_BYTES} bytes")
        upload = Upload(space, name, make=False)
        try:
            upload.open()
            upload.write(content.replace(old.encode(), new.encode()))
            if _state_of(space, name) != before:
                raise Conflict("the file was changed by another program at the same time; read it again")
            upload.commit()
        finally:
            upload.close()
    return matches


def _unlike(matches: int) -> Conflict:
    if matches == 0:
        return Conflict("the text to replace is not in the file", field="old", matches=0)
    problem = f"the text to replace occurs {matches} times; give more of its context, or all=true"
    return Conflict(problem, field="old", matches=matches)


def _read_text(space: Workspace, path: str) -> tuple[str, bytes]:
    with closing(open_regular(space, path)) as descriptor:
        found = os.fstat(descriptor)
        content = bytearray()
        while len(content) <= MAX_EDITED_BYTES and (data := os.read(descriptor, _READ_BYTES)):
            content += data
    if len(content) > MAX_EDITED_BYTES:
        problem = f"the file has more than {MAX_EDITED_BYTES} bytes, the limit of edits; use a command"
        raise PayloadTooLarge(problem)
    try:
        content.decode()
    except UnicodeDecodeError as error:
        raise InvalidArgument("the file is not UTF-8 text", field="path") from error
    return etag_of(found), bytes(content)


def _state_of(space: Workspace, path: str) -> str:
    with closing(space.open(path, os.O_PATH)) as descriptor:
        return etag_of(os.fstat(descriptor))


def open_regular(space: Workspace, path: str) -> int:
    """A descriptor to read a plain file; others are not even opened, for the effects. Raises OSError."""
    with closing(space.open(path, os.O_PATH)) as looked_at:
        need_regular(os.fstat(looked_at).st_mode, path)
    with closing_on_error(space.open(path, os.O_RDONLY)) as descriptor:
        need_regular(os.fstat(descriptor).st_mode, path)  # it may be another thing by now
    return descriptor


def _check_may_go(space: Workspace, place: Place, found: os.stat_result) -> None:
    if os.path.samestat(found, os.stat(space.path)):
        raise InvalidArgument("the workspace itself cannot be deleted; delete its contents", field="path")
    flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    with closing(os.open(place.name, flags, dir_fd=place.directory)) as descriptor:
        refuse_made_up(descriptor)


def _change(descriptor: int, mode: int) -> None:
    # The only way to change what an O_PATH descriptor is of, on kernels without fchmodat2.
    os.chmod(f"/proc/self/fd/{descriptor}", mode)


def _change_all(place: Place, mode: int, depth: int) -> Generator[None]:
    if depth > DEEPEST:
        problem = f"directories are more than {DEEPEST} deep; change them with a command"
        raise InvalidArgument(problem, field="path")
    with closing(_opened_for_change(place, mode)) as directory:
        with os.scandir(directory) as scan:
            for entry in scan:
                yield
                with suppress(FileNotFoundError, NotADirectoryError):  # gone, or another thing, since
                    if entry.is_dir(follow_symlinks=False):
                        yield from _change_all(Place(directory, entry.name), mode, depth + 1)
                    elif not entry.is_symlink():
                        _change_one(directory, entry.name, mode)
        os.fchmod(directory, mode)


def _opened_for_change(place: Place, mode: int) -> int:
    try:
        return open_below(place.directory, place.name)
    except PermissionError:
        _change_one(place.directory, place.name, mode)  # the new mode may be what lets it be read
        return open_below(place.directory, place.name)


def _change_one(directory: int, name: str, mode: int) -> None:
    with closing(os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)) as descriptor:
        refuse_made_up(descriptor)
        if not stat.S_ISLNK(os.fstat(descriptor).st_mode):
            _change(descriptor, mode)
