"""Makes the account and the home of the sandbox's user, where the root file system lacks them.

As root of the sandbox, before any program runs: nothing can put a link into a path meanwhile. The files may
be those of an earlier session, so they are read and replaced as a stranger's, and a failure stops no start.
"""

import contextlib
import os
import stat
from collections.abc import Callable

from ship import log
from ship.process.identity import Identity, find_shell
from ship.process.table import read_file

_MAX_BYTES = 1 << 20
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def settle(user: Identity, etc: str = "/etc") -> None:
    """Have `user` be the first of its name and its number in /etc/passwd and /etc/group, and own its home."""
    try:
        _mend(f"{etc}/passwd", 0o644, lambda lines: with_first(lines, _passwd_line(user)))
        _mend(f"{etc}/group", 0o644, lambda lines: with_first(lines, f"{user.name}:x:{user.gid}:"))
        _mend(f"{etc}/shadow", 0o640, lambda lines: _with_shadow(lines, user.name))
        _own_home(user)
    except OSError as error:
        log.note(f"account.unmade {error.strerror}")


def with_first(lines: list[str], wanted: str) -> list[str]:
    """`lines` of /etc/passwd or /etc/group, of which `wanted` is the first with its name or its number."""
    name, _, number = wanted.split(":")[:3]
    first = next((line for line in lines if name in _keys(line) or number in _keys(line)), None)
    if first is not None and _facts(first) == _facts(wanted):
        return lines
    return [wanted, *(line for line in lines if line.partition(":")[0] != name)]


def _passwd_line(user: Identity) -> str:
    shell = find_shell() or "/bin/sh"
    return f"{user.name}:x:{user.uid}:{user.gid}:{user.name}:{user.home}:{shell}"


def _with_shadow(lines: list[str], name: str) -> list[str]:
    """With a line of the user: without one `su` refuses to become it."""
    known = any(line.partition(":")[0] == name for line in lines)
    return lines if known else [f"{name}:*:::::::", *lines]


def _keys(line: str) -> list[str]:
    return line.split(":")[:3:2]


def _facts(line: str) -> list[str]:
    """Name, ids and home of a user, name and id of a group; its members and a user's shell are its own."""
    fields = line.split(":")
    return [*fields[:1], *fields[2:4], *fields[5:6]] if len(fields) == 7 else fields[:1] + fields[2:3]


def _mend(path: str, mode: int, mended: Callable[[list[str]], list[str]]) -> None:
    found = _status(path)
    if found is not None and (not stat.S_ISREG(found.st_mode) or found.st_size >= _MAX_BYTES):
        return
    text = read_file(path, _MAX_BYTES).decode("utf-8", "surrogateescape")
    before = text.removesuffix("\n").split("\n") if text else []
    if (lines := mended(before)) != before:
        data = "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape")
        _replace(path, data, mode, found)


def _status(path: str) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except FileNotFoundError:
        return None


def _replace(path: str, data: bytes, mode: int, like: os.stat_result | None) -> None:
    """Whole or not at all: the file may outlive this session."""
    beside = f"{path}.ship"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(beside)
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(data)
        if like is not None:
            os.fchown(descriptor, like.st_uid, like.st_gid)
        os.fchmod(descriptor, mode if like is None else stat.S_IMODE(like.st_mode))
    os.rename(beside, path)


def _own_home(user: Identity) -> None:
    os.makedirs(user.home, mode=0o755, exist_ok=True)
    descriptor = os.open(user.home, _OPEN)
    try:
        if os.fstat(descriptor).st_uid != user.uid:
            os.fchown(descriptor, user.uid, user.gid)
    finally:
        os.close(descriptor)
