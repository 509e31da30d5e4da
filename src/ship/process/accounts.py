"""The users and groups that programs may run as, from the sandbox's /etc/passwd and /etc/group."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

from ship.errors import Forbidden, InvalidArgument
from ship.process.groups import NUMBERS
from ship.process.identity import Identity
from ship.process.table import read_file

_MAX_BYTES = 1 << 20
_MAX_ID = 65_535  # ids of a sandbox's user namespace
_MAX_GROUPS = 256


class User(NamedTuple):
    name: str
    uid: int
    gid: int
    home: str


class _File:
    """The fields of a file's lines, read again only when the file is another one."""

    def __init__(self, path: str, width: int) -> None:
        self._path = path
        self._width = width
        self._seen: object = None
        self._lines: list[list[str]] = []

    def lines(self) -> list[list[str]]:
        """Nothing where there is no such file."""
        try:
            found = os.stat(self._path)
        except OSError:
            return []
        seen = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
        if seen != self._seen:
            self._lines, self._seen = list(self._read()), seen
        return self._lines

    def _read(self) -> Iterator[list[str]]:
        for line in read_file(self._path, _MAX_BYTES).decode("utf-8", "replace").splitlines():
            fields = line.split(":")
            if len(fields) == self._width and _number(fields[2]) <= _MAX_ID:
                yield fields


class Accounts:
    """Finds the user that a caller names. `own` is the sandbox's user, `root` None where the profile forbids
    it. `own_groups` are the sandbox's user's; None for those that /etc/group has for its name.

    `listed`: the other users allowed where root is not; None for every user of /etc/passwd. Where root is
    allowed, all are: root can become any user.
    """

    def __init__(
        self,
        own: Identity,
        root: Identity | None,
        listed: frozenset[str] | None,
        etc: str = "/etc",
        own_groups: tuple[int, ...] | None = None,
    ) -> None:
        self.own = own if own_groups is None else replace(own, groups=own_groups)
        self._own_groups = own_groups
        self._root = root
        self._listed = listed
        self._passwd = _File(f"{etc}/passwd", 7)
        self._group = _File(f"{etc}/group", 4)
        self._grouped: list[list[str]] = []
        self._with_members: list[list[str]] = []

    def find(self, value: object) -> Identity:
        """The user of a `user` field: a name or a uid; with root's permission also `USER:GROUP` and any id.
        Raises InvalidArgument or Forbidden."""
        if value is None or value == self.own.name:
            return self.own if self._own_groups is not None else self._with_groups(self.own)
        if not isinstance(value, str):
            raise InvalidArgument("user must be text", field="user")
        if value == "root":
            return self._allowed_root()
        if not self.own.switch:
            problem = f"this sandbox has one user for its programs, {self.own.name}"
            raise InvalidArgument(problem, field="user")
        name, colon, group = value.partition(":")
        found = self._user(name)
        return self._with_group(found, group) if colon else self._checked(found)

    def name_of_user(self, uid: int) -> str:
        """The name that /etc/passwd has for a uid; the number where it has none."""
        if not self.own.switch and uid == self.own.uid:
            return self.own.name
        return _name_of(self._passwd.lines(), uid)

    def name_of_group(self, gid: int) -> str:
        """The name that /etc/group has for a gid; the number where it has none."""
        return _name_of(self._group.lines(), gid)

    def uid_of(self, user: object) -> int:
        """The uid of the user with that name or number. Raises InvalidArgument."""
        return _number_of(user, "user", self._passwd.lines(), {self.own.name: self.own.uid, "root": 0})

    def gid_of(self, group: object) -> int:
        """The gid of the group with that name or number. Raises InvalidArgument."""
        return _number_of(group, "group", self._group.lines(), {"root": 0})

    def _user(self, name: str) -> Identity:
        for fields in self._passwd.lines():
            if fields[0] == name or (fields[2] == name and fields[2] != "0"):
                return _identity(User(fields[0], int(fields[2]), _number(fields[3]), fields[5]))
        if name == "0":
            return self._allowed_root()
        if _number(name) > _MAX_ID:
            problem = f"there is no user {name[:64]!a} in the sandbox's /etc/passwd"
            raise InvalidArgument(problem, field="user")
        if self._root is None:
            problem = f"user {name} is not in /etc/passwd, and the profile does not allow root"
            raise Forbidden(problem, field="user")
        return _identity(User(name, int(name), int(name), "/"))

    def _checked(self, found: Identity) -> Identity:
        if found.uid == 0:
            self._allowed_root()
        if found.gid in NUMBERS or max(found.uid, found.gid) > _MAX_ID:
            problem = f"user {found.name} has a uid or gid that no process may have"
            raise InvalidArgument(problem, field="user")
        if self._root is None:
            self._check_listed(found)
        return self._with_groups(found)

    def _check_listed(self, found: Identity) -> None:
        if found.gid == 0:
            problem = f"user {found.name} is in root's group, and the profile does not allow root"
            raise Forbidden(problem, field="user")
        if self._listed is not None and found.name not in self._listed:
            names = ", ".join([self.own.name, *sorted(self._listed)])
            raise Forbidden(f"the profile does not allow user {found.name}; it allows {names}", field="user")

    def _with_group(self, found: Identity, group: str) -> Identity:
        """Of that group alone, as a container engine does it."""
        self._allowed_root()
        gid = next((int(fields[2]) for fields in self._group.lines() if fields[0] == group), None)
        gid = _number(group) if gid is None else gid
        if gid in NUMBERS or gid > _MAX_ID:
            raise InvalidArgument(f"there is no group {group[:64]!a} for a process to have", field="user")
        return _identity(User(found.name, found.uid, gid, found.home))

    def _with_groups(self, found: Identity) -> Identity:
        if not found.switch:
            return found
        groups = tuple(self._groups_of(found.name, found.gid))[:_MAX_GROUPS]
        return replace(found, groups=groups) if groups else found

    def _groups_of(self, name: str, gid: int) -> Iterator[int]:
        for fields in self._groups_with_members():
            number = int(fields[2])
            if number in NUMBERS or number > _MAX_ID or number == gid or (number == 0 and self._root is None):
                continue
            if name in fields[3].split(","):
                yield number

    def _groups_with_members(self) -> list[list[str]]:
        # Every exec asks, and a thousand lines are Ship's own, without any.
        lines = self._group.lines()
        if lines is not self._grouped:
            self._grouped, self._with_members = lines, [fields for fields in lines if fields[3]]
        return self._with_members

    def _allowed_root(self) -> Identity:
        if self._root is None and not self.own.switch:
            raise Forbidden(f"this sandbox has one user for its programs, {self.own.name}", field="user")
        if self._root is None:
            raise Forbidden("this sandbox's profile does not allow root", field="user")
        return self._root


def _name_of(lines: list[list[str]], number: int) -> str:
    return next((fields[0] for fields in lines if int(fields[2]) == number), str(number))


def _number_of(given: object, field: str, lines: list[list[str]], known: Mapping[str, int]) -> int:
    named = known.get(given) if isinstance(given, str) else None
    if named is None:
        named = next((int(fields[2]) for fields in lines if fields[0] == given), None)
    found = (_number(str(given)) if type(given) in (int, str) else -1) if named is None else named
    if not 0 <= found <= _MAX_ID:
        problem = f"{field} must be a name that the sandbox knows, or a number up to {_MAX_ID}"
        raise InvalidArgument(problem, field=field)
    return found


def _identity(user: User) -> Identity:
    return Identity(user.name, user.uid, user.gid, user.home or "/", switch=True)


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else _MAX_ID + 1
