"""The kernel's descriptor-based mount calls, by ctypes, as older `mount` cannot id-map (glibc: since 2.36).

Mounts are made as descriptors and attached to descriptors, so no path that a tenant could have prepared is
resolved by name. Every call raises OSError with the call's name.
"""

import ctypes
import os
import struct
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path

from bay.linux.processes import closing_fd
from tree_tar.openat2 import openat2

# The same numbers on every architecture: all are newer than the common table of Linux 5.
_OPEN_TREE, _MOVE_MOUNT, _FSOPEN, _FSCONFIG, _FSMOUNT, _MOUNT_SETATTR = (428, 429, 430, 431, 432, 442)

_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}[os.uname().machine]

_AT_FDCWD = -100
_AT_EMPTY_PATH = 0x1000
_AT_RECURSIVE = 0x8000
_OPEN_TREE_CLONE = 1
_MOVE_MOUNT_F_EMPTY_PATH = 0x04
_MOVE_MOUNT_T_EMPTY_PATH = 0x40
_FSCONFIG_SET_FLAG, _FSCONFIG_SET_STRING, _FSCONFIG_CMD_CREATE = 0, 1, 6

RDONLY = 0x01
NOSUID = 0x02
NODEV = 0x04
NOEXEC = 0x08
_IDMAP = 0x0010_0000
_MS_PRIVATE = 1 << 18
_MNT_DETACH = 2
_PR_SET_NO_NEW_PRIVS = 38

CLONE_FS = 0x0200
CLONE_NEWNS = 0x0002_0000
CLONE_NEWUTS = 0x0400_0000
CLONE_NEWIPC = 0x0800_0000
CLONE_NEWNET = 0x4000_0000

_CAPABILITY_VERSION_3 = 0x2008_0522

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = (*(ctypes.c_char_p,) * 3, ctypes.c_ulong, ctypes.c_char_p)


class _CapHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapSet(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def open_tree(path: str | Path) -> int:
    """A descriptor of a detached copy of the one mount at `path`, without the mounts below it."""
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC
    return _call("open_tree", _OPEN_TREE, _AT_FDCWD, os.fsencode(path), flags)


def set_attributes(mount: int, attributes: int, *, userns: int | None = None) -> None:
    """Set MOUNT_ATTR bits on `mount`, and id-map it through `userns`; it must not be attached yet."""
    idmap = _IDMAP if userns is not None else 0
    _set_attributes(mount, b"", _AT_EMPTY_PATH, added=attributes | idmap, userns=userns or 0)


def make_read_only(path: str) -> None:
    """Turn the mount at `path`, as the calling thread sees it, read-only for everyone."""
    _set_attributes(_AT_FDCWD, os.fsencode(path), 0, added=RDONLY)


def make_writable(path: str) -> None:
    """Undo `make_read_only`."""
    _set_attributes(_AT_FDCWD, os.fsencode(path), 0, removed=RDONLY)


def make_all_private() -> None:
    """Cut every mount of the calling thread's mount namespace off from its peers."""
    _set_attributes(_AT_FDCWD, b"/", _AT_RECURSIVE, propagation=_MS_PRIVATE)


def new_mount(fstype: str, options: Iterable[tuple[str, str]], attributes: int = 0) -> int:
    """A descriptor of a new detached mount; an empty option is a flag, a value has at most 255 bytes."""
    with closing_fd(_call("fsopen", _FSOPEN, fstype.encode(), 1)) as context:
        for key, value in options:
            _configure(context, key, value)
        _call(f"fsconfig {fstype}", _FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0)
        return _call("fsmount", _FSMOUNT, context, 1, attributes)


def mount_by_text(fstype: str, directory: str, options: str) -> None:
    """Mount on `directory` with options of at most a page, the way of kernels before fsconfig."""
    result = _libc.mount(fstype.encode(), os.fsencode(directory), fstype.encode(), 0, options.encode())
    _checked(f"mount {fstype}", result)


def attach(mount: int, directory: int) -> None:
    """Mount the detached `mount` on the open `directory`."""
    flags = _MOVE_MOUNT_F_EMPTY_PATH | _MOVE_MOUNT_T_EMPTY_PATH
    _call("move_mount", _MOVE_MOUNT, mount, b"", directory, b"", flags)


def detach(path: str | Path) -> None:
    """Unmount `path` with everything below it, lazily: busy mounts end with their last user."""
    _checked("umount2", _libc.umount2(os.fsencode(path), _MNT_DETACH))


def change_root(path: str | Path) -> None:
    """Make the mount at `path` the root of the calling thread's mount namespace, and drop all others there.

    The calling thread must be alone in its mount namespace and its fs attributes.
    """
    os.chdir(path)
    _call("pivot_root", _PIVOT_ROOT, b".", b".")
    detach(".")  # the old root lies on the new one
    os.chdir("/")


def open_beneath(root: int, path: str) -> int:
    """An O_PATH descriptor of the directory `path` below `root`; a symbolic link on the way is an error."""
    try:
        return openat2(root, os.fsencode(path), os.O_PATH | os.O_DIRECTORY, links=False)
    except OSError as error:
        raise OSError(error.errno, f"openat2 {path}: {error.strerror}") from error


def open_directory(path: str | Path) -> int:
    """An O_PATH descriptor of the directory at `path`."""
    return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def unshare(flags: int) -> None:
    """Give the calling thread, and it alone, new namespaces of the kinds in `flags`."""
    _checked("unshare", _libc.unshare(flags))


def no_new_privileges() -> None:
    """Have no program that this process starts gain rights, for good."""
    _checked("prctl", _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


def setns(namespace: int, kind: int) -> None:
    """Move the calling thread, and it alone, into the namespace behind the descriptor."""
    _checked("setns", _libc.setns(namespace, kind))


@contextmanager
def acting_as(user: int, group: int) -> Generator[None]:
    """Let the calling thread, and it alone, create files as `user` and `group`, with all its capabilities."""
    _set_filesystem_ids(user, group)
    try:
        yield
    finally:
        _set_filesystem_ids(0, 0)


def _set_filesystem_ids(user: int, group: int) -> None:
    _libc.setfsgid(group)
    _libc.setfsuid(user)
    # The kernel takes the file capabilities away with the root id; the thread still holds them in reserve.
    header, sets = _CapHeader(_CAPABILITY_VERSION_3, 0), (_CapSet * 2)()
    _checked("capget", _libc.capget(ctypes.byref(header), sets))
    for one in sets:
        one.effective = one.permitted
    _checked("capset", _libc.capset(ctypes.byref(header), sets))


def _configure(context: int, key: str, value: str) -> None:
    command, text = (_FSCONFIG_SET_STRING, value.encode()) if value else (_FSCONFIG_SET_FLAG, None)
    _call(f"fsconfig {key}={value}", _FSCONFIG, context, command, key.encode(), text, 0)


def _set_attributes(
    fd: int,
    path: bytes,
    flags: int,
    *,
    added: int = 0,
    removed: int = 0,
    propagation: int = 0,
    userns: int = 0,
) -> None:
    attributes = struct.pack("=4Q", added, removed, propagation, userns)  # struct mount_attr
    _call("mount_setattr", _MOUNT_SETATTR, fd, path, flags, attributes, len(attributes))


def _call(name: str, number: int, *arguments: object) -> int:
    return _checked(name, _libc.syscall(ctypes.c_long(number), *map(_argument, arguments)))


def _argument(value: object) -> object:
    # Variadic: an int would travel as 32 bits with an undefined upper half.
    return ctypes.c_long(value) if isinstance(value, int) else value


def _checked(name: str, result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result
