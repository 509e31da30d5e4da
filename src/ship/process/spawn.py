"""Starts a program without copying Ship: `posix_spawn`, by a thread that has the user's ids for a moment.

`subprocess` must fork to switch the user: it copies Ship's page tables, and both sides then fault on every
page they touch, which was most of the time of a short exec. A child that only borrows the memory (CLONE_VM |
CLONE_VFORK) costs a tenth of that, but must have its ids when it is made. Ids belong to threads: the C
library's wrappers change those of all, the system calls below those of the calling one. So the starting
thread becomes real and effective user 1000 and keeps 0 as its saved id alone; exec replaces the saved id by
the effective one and, for a user that is not root, drops every capability (credentials(7), capabilities(7));
then the thread takes 0 back.

A hostile program of that user can do this to the thread meanwhile, and to the child before it is a program:
- Read or trace it: no. ptrace, process_vm_readv and /proc/PID ask for all three ids to be the caller's, and
  for memory that may be dumped; the saved id is 0 and Ship's memory is hidden.
- Signal it: yes (`tgkill`; the real id is enough). KILL and STOP do not reach the first process of a pid
  namespace from inside it, nor does any signal without a handler; the thread blocks every signal, those of
  the C library too, from before it takes the ids for as long as it lives, so that handlers of others (TERM
  ends Ship) never run for it.
- Kill the child: yes, as any exec of that user; the start then succeeds and the exec ends with that signal.
- Stop the child: yes; the thread then waits in the kernel without Python's lock, so that Ship goes on, and
  kills stopped children.
- Change the thread's niceness, scheduling or processors: yes, for the worse only, and later programs inherit
  it. It could slow its own programs down anyway.

Rejected: vfork by `subprocess`, which holds Python's lock until the child is a program (a stopped one would
stop all of Ship); a fork server, which is one more process of 5 MB in every idle sandbox.
"""

import ctypes
import errno
import os
import signal
import sys
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from ctypes import byref, c_char_p, c_int, c_long, c_short, c_uint
from itertools import islice
from typing import NamedTuple

from ship.process.syscalls import SETRESGID, SETRESUID, last_error

_SETGROUPS, _SIGPROCMASK = {"x86_64": (116, 14), "aarch64": (159, 135)}[os.uname().machine]
_SIG_BLOCK, _SIG_SETMASK = 0, 2
_EVERY_SIGNAL = b"\xff" * 8

_MAX_FOLDERS = 256
_PATH_BYTES = 128 * 1024  # no program can be given a longer variable: execve(2), MAX_ARG_STRLEN

# spawn.h
_SETSIGDEF, _SETSIGMASK, _SETSID = 0x04, 0x08, 0x80
_ROOM = 1024  # more than any C library's structures take
_SIGNALS_ROOM = 128
# Python ignores the first two, and the C library its own two in its children; programs expect neither.
_RESTORED = (signal.SIGPIPE, signal.SIGXFSZ, 32, 33)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = c_long
_CAN_CLOSE_FROM = hasattr(_libc, "posix_spawn_file_actions_addclosefrom_np")  # glibc 2.34


class Ids(NamedTuple):
    """The ids of a program: real, effective and, once it runs, saved."""

    uid: int
    gid: int
    groups: tuple[int, ...]


def block_signals() -> None:
    """Call first in the thread that starts programs: no signal handler runs in it from now on."""
    # By number, since the C library's wrapper leaves out the signals that it uses itself.
    _check(_libc.syscall(c_long(_SIGPROCMASK), c_long(_SIG_BLOCK), c_char_p(_EVERY_SIGNAL), None, c_long(8)))


class Spawner:
    """Starts programs; the structures that are the same for each are made once."""

    def __init__(self) -> None:
        self._attributes = _attributes()

    def start(
        self,
        argv: Sequence[bytes],
        environment: dict[bytes, bytes],
        directory: int,
        stdio: tuple[int, int, int],
        ids: Ids | None,
        *,
        tty: bool,
    ) -> int:
        """The pid of a program in a session of its own, ruled by a stdin that is a `tty`. Raises OSError.
        Only the thread that blocks signals may call it, with ids of 0 and no supplementary groups.
        """
        actions = _actions(directory, stdio, tty=tty)
        try:
            with _being(ids):
                return self._start_first(
                    _candidates(argv[0], environment, directory), argv, environment, actions
                )
        finally:
            _libc.posix_spawn_file_actions_destroy(actions)

    def _start_first(
        self, paths: Sequence[bytes], argv: Sequence[bytes], environment: dict[bytes, bytes], actions: object
    ) -> int:
        words = _strings(argv)
        variables = _strings(b"%b=%b" % pair for pair in environment.items())
        refusal = errno.ENOENT
        for path in paths:
            pid = c_int()
            # Returns when the child has become its program, or could not; others run meanwhile.
            number: int = _libc.posix_spawn(
                byref(pid), c_char_p(path), actions, self._attributes, words, variables
            )
            if number == 0:
                return pid.value
            if number not in (errno.ENOENT, errno.ENOTDIR):
                refusal = number
                if number != errno.EACCES:
                    break  # another path would meet the same
        raise OSError(refusal, os.strerror(refusal), os.fsdecode(argv[0]))


@contextmanager
def _being(ids: Ids | None) -> Generator[None]:
    """Within, the calling thread has these ids, and 0 in reserve."""
    if ids is None:
        yield
        return
    try:
        if ids.groups:  # else there is nothing to do, and a user namespace may forbid to do it
            _set_groups(ids.groups)
        _set_ids(SETRESGID, ids.gid)
        _set_ids(SETRESUID, ids.uid)  # last, since it takes the capabilities that the others need
        yield
    finally:
        _set_ids(SETRESUID, 0)
        _set_ids(SETRESGID, 0)
        if ids.groups:
            _set_groups(())


def _set_ids(call: int, number: int) -> None:
    _check(_libc.syscall(c_long(call), c_long(number), c_long(number), c_long(0)))


def _set_groups(groups: Sequence[int]) -> None:
    _check(_libc.syscall(c_long(_SETGROUPS), c_long(len(groups)), (c_uint * len(groups))(*groups)))


def _candidates(name: bytes, environment: dict[bytes, bytes], directory: int) -> Sequence[bytes]:
    """The paths to try, as execvp(3) does: `name`, or it in the first folders of the program's PATH."""
    if b"/" in name:
        return (name,)
    # No other program starts during the search: a folder counts once, and their number is bounded.
    folders = dict.fromkeys(environment.get(b"PATH", os.defpath.encode())[:_PATH_BYTES].split(b":"))
    paths = [os.path.join(folder, name) for folder in islice(folders, _MAX_FOLDERS)]
    # A try costs a child. Where none may be run, one is tried to learn why.
    runnable = [path for path in paths if os.access(path, os.X_OK, dir_fd=directory)]
    there = (path for path in paths if os.access(path, os.F_OK, dir_fd=directory))
    return runnable or [next(there, paths[0])]


def _attributes() -> object:
    attributes = ctypes.create_string_buffer(_ROOM)
    none = ctypes.create_string_buffer(_SIGNALS_ROOM)
    bits = sum(1 << (number - 1) for number in _RESTORED)
    restored = ctypes.create_string_buffer(bits.to_bytes(8, sys.byteorder), _SIGNALS_ROOM)
    _check_number(_libc.posix_spawnattr_init(attributes))
    _check_number(_libc.posix_spawnattr_setflags(attributes, c_short(_SETSIGDEF | _SETSIGMASK | _SETSID)))
    _check_number(_libc.posix_spawnattr_setsigmask(attributes, none))
    _check_number(_libc.posix_spawnattr_setsigdefault(attributes, restored))
    return attributes


def _actions(directory: int, stdio: tuple[int, int, int], *, tty: bool) -> object:
    actions = ctypes.create_string_buffer(_ROOM)
    _check_number(_libc.posix_spawn_file_actions_init(actions))
    for target, source in enumerate(stdio):
        _check_number(_libc.posix_spawn_file_actions_adddup2(actions, c_int(source), c_int(target)))
    if tty:
        # The first terminal that the leader of a session opens is the one that rules it (tty_ioctl(4)).
        # Not "/proc/self/fd/0", which is closed before the path is looked at.
        same = c_char_p(b"/proc/self/fd/%d" % stdio[0])
        _check_number(
            _libc.posix_spawn_file_actions_addopen(actions, c_int(0), same, c_int(os.O_RDWR), c_int(0))
        )
    _check_number(_libc.posix_spawn_file_actions_addfchdir_np(actions, c_int(directory)))
    if _CAN_CLOSE_FROM:  # Ship opens nothing that a program inherits; Ship's parent may have
        _check_number(_libc.posix_spawn_file_actions_addclosefrom_np(actions, c_int(3)))
    return actions


def _strings(words: Iterable[bytes]) -> object:
    listed = list(words)
    return (c_char_p * (len(listed) + 1))(*listed, None)


def _check(result: int) -> None:
    if result < 0:
        raise last_error()


def _check_number(number: int) -> None:
    if number:
        raise OSError(number, os.strerror(number))
