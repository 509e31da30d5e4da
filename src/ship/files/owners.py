"""Gives files to another user or group, which the kernel allows root of the sandbox alone."""

import os
import stat
from collections.abc import Generator
from contextlib import suppress
from dataclasses import dataclass

from ship.errors import Forbidden, InvalidArgument
from ship.files.info import look
from ship.files.listing import open_below
from ship.files.moving import DEEPEST, Place, Steps
from ship.files.sandbox_paths import refuse_made_up
from ship.files.workspace_paths import Workspace
from ship.process.accounts import Accounts
from tree_tar.beneath import closing

_UNCHANGED = -1  # chown(2)


@dataclass(frozen=True, slots=True)
class Owners:
    """The uid and the gid that files are to have; -1 leaves theirs."""

    uid: int
    gid: int


def read_owners(user: object, group: object, accounts: Accounts) -> Owners:
    """The owners that a caller names or numbers; None leaves the old one. Raises InvalidArgument, and
    Forbidden for others than the own ones where the sandbox has one user, as in a pod.
    """
    if user is None and group is None:
        raise InvalidArgument("name a user, a group or both", field="user")
    uid = _UNCHANGED if user is None else accounts.uid_of(user)
    gid = _UNCHANGED if group is None else accounts.gid_of(group)
    own = accounts.own
    if not own.switch and not (uid in (_UNCHANGED, own.uid) and gid in (_UNCHANGED, own.gid)):
        problem = f"this sandbox has one user: its files belong to {own.name} and cannot be given away"
        raise Forbidden(problem, field="user")
    return Owners(uid, gid)


def change_owners(space: Workspace, path: str, owners: Owners, *, recursive: bool) -> Steps:
    """FileInfo of `path`'s target with its new owners, and how many files were `changed`; `recursive`: all
    in it, links as such. Raises ShipError.
    """
    name = space.check(path)
    with space.translated(name):
        with closing(space.open(name, os.O_PATH)) as descriptor:
            changed = 1
            if recursive and stat.S_ISDIR(os.fstat(descriptor).st_mode):
                changed = yield from _change_all(Place(descriptor, "."), owners, 1)
            else:
                _change(descriptor, owners)
        return look(space, name, follow=True) | {"changed": changed}


def _change_all(place: Place, owners: Owners, depth: int) -> Generator[None, None, int]:
    if depth > DEEPEST:
        problem = f"directories are more than {DEEPEST} deep; change them with a command"
        raise InvalidArgument(problem, field="path")
    changed = 1
    with closing(open_below(place.directory, place.name)) as directory:
        with os.scandir(directory) as scan:
            for entry in scan:
                yield
                with suppress(FileNotFoundError, NotADirectoryError):  # gone, or another thing, since
                    if entry.is_dir(follow_symlinks=False):
                        changed += yield from _change_all(Place(directory, entry.name), owners, depth + 1)
                    else:
                        _change_one(directory, entry.name, owners)
                        changed += 1
        os.fchown(directory, owners.uid, owners.gid)
    return changed


def _change_one(directory: int, name: str, owners: Owners) -> None:
    with closing(os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)) as descriptor:
        refuse_made_up(descriptor)
        _change(descriptor, owners)


def _change(descriptor: int, owners: Owners) -> None:
    # As for modes: an O_PATH descriptor takes no fchown. Of a link, this changes the link and nothing behind.
    os.chown(f"/proc/self/fd/{descriptor}", owners.uid, owners.gid)
