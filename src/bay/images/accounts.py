"""The users and groups of an image, with those added that a sandbox needs; and whom its USER names.

The files are a stranger's. Their own lines stay as they are, also those that make no sense.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, count

from bay.drivers.base import ImageUser
from bay.drivers.etc_files import EXEC_GROUPS, exec_group_line

SHIP, SHIP_ID = "ship", 1000
"""Whom a sandbox's programs run as, unless a profile says otherwise; by the image's name, if it has one."""
WORKSPACE = "/workspace"
OF_IMAGE = "image"
"""The `user` of a profile whose commands run as the user that the image names."""

_LARGEST_ID = 65_535  # of a sandbox's user namespace
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")
_PASSWD_FIELDS, _GROUP_FIELDS = 7, 4
_LONGEST_HOME = 1024


@dataclass(frozen=True, slots=True)
class AccountFiles:
    """The contents of /etc/passwd, /etc/group and /etc/shadow."""

    passwd: str
    group: str
    shadow: str


def completed(files: AccountFiles, shell: str | None) -> AccountFiles:
    """`files` with root, uid 1000, their groups and the groups of execs where they are missing."""
    users, groups = _fields(files.passwd, _PASSWD_FIELDS), _fields(files.group, _GROUP_FIELDS)
    ship = ship_user(files)
    wanted = (("root", 0, 0, "/root"), (ship.name, ship.uid, ship.gid, WORKSPACE))
    missing_users = [
        f"{name}:x:{uid}:{gid}:{name}:{home}:{shell or '/bin/sh'}"
        for name, uid, gid, home in wanted
        if not _has(users, name, uid)
    ]
    own_groups = (("root", 0), (_free(groups, ship.name, ship.gid), ship.gid))
    missing_groups = [f"{name}:x:{gid}:" for name, gid in own_groups if not _has_id(groups, gid)]
    taken = {line[2] for line in groups} | {line[0] for line in groups}
    execs = [exec_group_line(gid) for gid in EXEC_GROUPS if not {str(gid), f"exec-{gid}"} & taken]
    passwd = _with(files.passwd, missing_users)
    return AccountFiles(
        passwd, _with(files.group, [*missing_groups, *execs]), _with_shadows(passwd, files.shadow)
    )


def ship_user(files: AccountFiles) -> ImageUser:
    """Uid 1000, by the image's name for it if it has one that can be used. HOME is the workspace."""
    users = _fields(files.passwd, _PASSWD_FIELDS)
    found = next((line for line in users if line[2] == str(SHIP_ID)), None)
    if found is None or not _NAME.fullmatch(found[0]) or found[0] == "root":
        name = _free(users, SHIP, SHIP_ID)
        return ImageUser(name=name, uid=SHIP_ID, gid=SHIP_ID, home=WORKSPACE)
    gid = _id(found[3])
    # Root's group is root's to give.
    return ImageUser(name=found[0], uid=SHIP_ID, gid=gid or SHIP_ID, home=WORKSPACE)


def image_user(user: str, files: AccountFiles) -> ImageUser | None:
    """Whom the USER of an image names, as Docker reads it; None where that is nobody a process can be."""
    who, colon, group = user.partition(":")
    found = _user(who or "0", _fields(files.passwd, _PASSWD_FIELDS))
    if found is None or not colon or not group:
        return found
    gid = _named(group, _fields(files.group, _GROUP_FIELDS))
    if gid is None:
        return None
    return ImageUser(name=found.name, uid=found.uid, gid=gid, home=found.home, groups=())


def _user(who: str, users: Sequence[Sequence[str]]) -> ImageUser | None:
    for name, _, uid_text, gid_text, _, home, _ in users:
        if who in (name, uid_text):
            uid, gid = _id(uid_text), _id(gid_text)
            if uid is None or gid is None or not _NAME.fullmatch(name):
                return None
            return ImageUser(name=name, uid=uid, gid=gid, home=_home(home))
    uid = _id(who)
    return None if uid is None else ImageUser(name=str(uid) if uid else "root", uid=uid, gid=0, home="/")


def _named(group: str, groups: Sequence[Sequence[str]]) -> int | None:
    return _id(next((line[2] for line in groups if line[0] == group), group))


def _home(text: str) -> str:
    usable = text.startswith("/") and text.isprintable() and len(text) <= _LONGEST_HOME
    return text if usable else "/"


def _fields(text: str, width: int) -> list[list[str]]:
    lines = (line.split(":") for line in text.split("\n"))
    return [fields for fields in lines if len(fields) == width and fields[0]]


def _id(text: str) -> int | None:
    """The id that `text` is, if a process may have it."""
    number = int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else -1
    return number if 0 <= number <= _LARGEST_ID and number not in EXEC_GROUPS else None


def _has(lines: Sequence[Sequence[str]], name: str, number: int) -> bool:
    first = next((line for line in lines if line[2] == str(number)), None)
    return first is not None and first[0] == name


def _has_id(lines: Sequence[Sequence[str]], number: int) -> bool:
    return any(line[2] == str(number) for line in lines)


def _free(lines: Sequence[Sequence[str]], name: str, number: int) -> str:
    """`name`, or the first like it that no other number has."""
    taken = {line[0] for line in lines if line[2] != str(number)}
    return next(free for free in chain((name,), (f"{name}{n}" for n in count(2))) if free not in taken)


def _with(text: str, missing: Iterable[str]) -> str:
    """`text` with the lines `missing`, before all where another has its name or number: the first counts."""
    own = {part for line in text.split("\n") for part in _keys(line)}
    first: list[str] = []
    last: list[str] = []
    for line in missing:
        (first if own & _keys(line) else last).append(line)
    middle = [text.removesuffix("\n")] if text.strip("\n") else []
    return "".join(f"{line}\n" for line in (*first, *middle, *last))


def _keys(line: str) -> set[str]:
    return set(line.split(":")[:3:2]) - {""}


def _with_shadows(passwd: str, shadow: str) -> str:
    """Each user with a line: without one `su` refuses to become it."""
    known = {line.partition(":")[0] for line in shadow.split("\n")}
    names = dict.fromkeys(fields[0] for fields in _fields(passwd, _PASSWD_FIELDS))
    return _with(shadow, [f"{name}:*:::::::" for name in names if name not in known])
