"""The zygote: a process with Ship loaded, which forks the first processes of new sandboxes.

Bay starts it on the host, from Ship's closure, with an empty environment, in a mount namespace that shows the
closure and /proc alone. It serves nothing of a sandbox. For each start Bay sends one message on stdin
(SOCK_SEQPACKET): JSON, and two descriptors, a channel of the same kind and the sandbox's network namespace.
The zygote forks a process, and it and Bay speak on the channel:

    users N       its number on the host, with a descriptor of its new user namespace, which it made as the
                  sandbox's own first id
    mapped        from Bay: the ids of that namespace have their mapping
    pid N         the first process in a new pid namespace there, its number on the host, with a pidfd of it
    error TEXT    in place of `users` or `pid`

The first process has the channel from then on. Its order comes there, with descriptors of the sandbox's other
namespaces, the output that Ship says `ready` on, the seccomp filter, and JSON (the environment has no bound
that a message could keep). It enters the namespaces, ends
the process that held them, gives up every right that a sandbox lacks, and is Ship. All of this runs before
any program of the sandbox does. A channel that Bay closes ends its process.

A message may also have a command in it, with descriptors of a channel, the mount and the network namespace
to run it in, its output and its lock. That is runc: the process that it leaves behind is a child of the
process that was forked for the command, which reaps it. The host's first process may be slow to do that, or
never do it, and the sandbox's pid namespace lasts until it is done. The channel says `ready`, then Bay `go`,
then it `pid N` and `exit N`.
"""

import contextlib
import ctypes
import errno
import json
import os
import resource
import signal
import socket
from collections.abc import Iterable
from typing import Any, NoReturn

from ship import startup
from ship.app import main as run_ship
from ship.ports.sock_diag import Netlink
from ship.process import syscalls

_MESSAGE_BYTES = 128 * 1024
_MAX_DESCRIPTORS = 8

_CLONE_NEWNS = 0x2_0000
_CLONE_NEWUSER, _CLONE_NEWPID, _CLONE_NEWNET = 0x1000_0000, 0x2000_0000, 0x4000_0000

_PR_SET_DUMPABLE, _PR_SET_KEEPCAPS, _PR_CAPBSET_DROP = 4, 8, 24
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 38, 47, 4
_CAP_SYS_ADMIN = 21
_CAPABILITY_VERSION_3 = 0x2008_0522
_KEYCTL, _SECCOMP = {"x86_64": (250, 317), "aarch64": (219, 277)}[os.uname().machine]
_KEYCTL_JOIN_SESSION_KEYRING = 1
_SECCOMP_SET_MODE_FILTER = 1
_INSTRUCTION_BYTES = 8  # struct sock_filter

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def main() -> NoReturn:
    """Fork a Ship for every message, until Bay closes its end."""
    syscalls.hide_from_debuggers()
    _forget_signals()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps the processes between
    startup.settle()
    bay = socket.socket(fileno=os.dup(0))
    os.dup2(1, 0)
    bay.send(b"ready")
    while True:
        request, descriptors = _receive(bay)
        if not request:
            os._exit(0)
        try:
            child = os.fork()
        except OSError as error:  # the host has no room for a process
            _tell(descriptors[0], error)
            child = -1
        if child == 0:
            bay.close()
            _serve(json.loads(request), descriptors)
        _close(descriptors)


def _forget_signals() -> None:
    """Undo what Bay inherited and a Ship must not: a `nohup` ignores HUP, a shell's background job INT."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}:  # Python ignores these
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def _serve(request: dict[str, Any], descriptors: list[int]) -> NoReturn:
    channel = socket.socket(fileno=descriptors[0])
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for name, limit in request["rlimits"].items():
            resource.setrlimit(getattr(resource, f"RLIMIT_{name.upper()}"), (limit, limit))
        if "command" in request:
            _run(request, channel, *descriptors[1:])
        else:
            _begin(request, channel, descriptors[1])
    except Exception as error:  # noqa: BLE001 - the edge of this process: Bay hears of anything
        _tell(channel.fileno(), error)
    finally:
        os._exit(0)


def _tell(channel: int, error: Exception) -> None:
    with contextlib.suppress(OSError):  # Bay has ended
        os.write(channel, f"error {_words(error)}".encode()[:_MESSAGE_BYTES])


def _run(
    request: dict[str, Any], channel: socket.socket, mounts: int, network: int, output: int, lock: int
) -> None:
    """Run the command to its end, and reap all that it leaves behind."""
    _check("prctl", _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
    _check("setns", _libc.setns(network, _CLONE_NEWNET))
    _check("setns", _libc.setns(mounts, _CLONE_NEWNS))
    channel.send(b"ready")
    if channel.recv(_MESSAGE_BYTES) != b"go":  # Bay has given up, and asks another
        os._exit(0)
    os.set_inheritable(lock, True)
    stdio = [(os.POSIX_SPAWN_DUP2, output, number) for number in (1, 2)]
    command, empty = request["command"], (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
    pid = os.posix_spawn(
        command[0],
        command,
        request["environment"],
        file_actions=[empty, *stdio],
        setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],  # Python ignores them
    )
    _close((mounts, network, output, lock))
    with contextlib.suppress(OSError):  # Bay has ended
        socket.send_fds(channel, [b"pid %d" % pid], [os.pidfd_open(pid)])
    status = os.waitpid(pid, 0)[1]
    with contextlib.suppress(OSError):
        channel.send(b"exit %d" % os.waitstatus_to_exitcode(status))
    channel.close()
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()


def _begin(request: dict[str, Any], channel: socket.socket, network: int) -> None:
    """Become the sandbox's, and let the first process there be born."""
    _become_owner(request, network)
    _make_user_namespace(request, channel)
    _check("unshare", _libc.unshare(_CLONE_NEWPID))
    if (pid := os.fork()) == 0:
        _wait_for_order(channel)
    socket.send_fds(channel, [b"pid %d" % pid], [os.pidfd_open(pid)])


def _words(error: BaseException) -> str:
    # Owners read it: an OSError of Python's own would name paths of the host.
    return error.strerror or type(error).__name__ if isinstance(error, OSError) else str(error)


def _become_owner(request: dict[str, Any], network: int) -> None:
    _write("/proc/self/oom_score_adj", request["oom_score_adj"])
    _check("setns", _libc.setns(network, _CLONE_NEWNET))
    os.close(network)
    owner: int = request["owner"]
    os.setgroups([])
    os.setresgid(owner, owner, owner)
    # Some hosts let only CAP_SYS_ADMIN make user namespaces.
    _check("prctl", _libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0))
    os.setresuid(owner, owner, owner)
    _set_capabilities(1 << _CAP_SYS_ADMIN)


def _make_user_namespace(request: dict[str, Any], channel: socket.socket) -> None:
    """The process has every capability there, and is its root once the ids are mapped."""
    _check("unshare", _libc.unshare(_CLONE_NEWUSER))
    namespace = os.open("/proc/self/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    socket.send_fds(channel, [b"users %d" % os.getpid()], [namespace])
    os.close(namespace)
    if channel.recv(_MESSAGE_BYTES) != b"mapped":
        os._exit(0)
    for name, limit in request["user_limits"].items():
        if os.path.exists(f"/proc/sys/user/{name}"):  # the kernel has this kind
            _write(f"/proc/sys/user/{name}", limit)


def _wait_for_order(channel: socket.socket) -> NoReturn:
    # A process that hides from debuggers does not own its files in /proc.
    _check("prctl", _libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0))
    score = os.open("/proc/self/oom_score_adj", os.O_RDWR | os.O_CLOEXEC)
    syscalls.hide_from_debuggers()
    netlink = None
    with contextlib.suppress(OSError):  # a kernel without sock_diag
        netlink = Netlink()  # now: the filter forbids it
    message, descriptors = _receive(channel)
    if not message:
        os._exit(0)
    channel.close()
    _be_ship(descriptors, score, netlink)


def _be_ship(descriptors: list[int], score: int, netlink: Netlink | None) -> NoReturn:
    *namespaces, output, filters, text = descriptors
    os.dup2(output, 1)
    os.dup2(output, 2)
    try:
        _enter(namespaces)
        order, program = json.loads(_content(text)), _content(filters)
        _close(descriptors)
        _give_up_rights(order["capabilities"], program)
        os.environ.clear()
        os.environ.update(order["environment"])
        run_ship(score, netlink)
    except BaseException as error:  # noqa: BLE001 - the edge of this process: Bay reads its output
        os.write(2, f"ship: {_words(error)}\n".encode())
    os._exit(1)


def _enter(namespaces: Iterable[int]) -> None:
    for namespace in namespaces:
        _check("setns", _libc.setns(namespace, 0))
    if os.getpid() != 1:
        raise RuntimeError("this is not the first process of a pid namespace")
    os.kill(-1, signal.SIGKILL)  # every other process here: the one that runc made and never started
    os.chdir("/")
    os.umask(0o022)
    os.setsid()
    empty = os.open(os.devnull, os.O_RDWR)
    os.dup2(empty, 0)
    os.close(empty)


def _give_up_rights(capabilities: int, program: bytes) -> None:
    """Keep `capabilities` (a set of bits) alone, and install the seccomp filter."""
    joined = _libc.syscall(ctypes.c_long(_KEYCTL), ctypes.c_long(_KEYCTL_JOIN_SESSION_KEYRING), None)
    if joined >= 0 or ctypes.get_errno() != errno.ENOSYS:  # a kernel without keyrings has none to share
        _check("keyctl", joined)
    for number in range(_last_capability() + 1):
        if not capabilities >> number & 1:
            _check("prctl", _libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0))
    _check("prctl", _libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0))
    _set_capabilities(capabilities)
    _check("prctl", _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    filters = _Program(len(program) // _INSTRUCTION_BYTES, program)
    arguments = (ctypes.c_long(_SECCOMP_SET_MODE_FILTER), ctypes.c_long(0), ctypes.byref(filters))
    _check("seccomp", _libc.syscall(ctypes.c_long(_SECCOMP), *arguments))


def _last_capability() -> int:
    with open("/proc/sys/kernel/cap_last_cap") as file:
        return int(file.read())


def _write(path: str, value: int) -> None:
    with open(path, "w") as file:
        file.write(str(value))


def _set_capabilities(capabilities: int) -> None:
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable: the low bits, then the high ones
    for half in (0, 1):
        sets[3 * half] = sets[3 * half + 1] = capabilities >> (32 * half) & 0xFFFF_FFFF
    _check("capset", _libc.capset(header, sets))


def _content(file: int) -> bytes:
    return os.pread(file, os.fstat(file).st_size, 0)


def _receive(source: socket.socket) -> tuple[bytes, list[int]]:
    message, descriptors, flags, _address = socket.recv_fds(source, _MESSAGE_BYTES, _MAX_DESCRIPTORS)
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        raise ValueError("the message is too long")
    return message, descriptors


def _close(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _check(name: str, result: int) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


if __name__ == "__main__":
    main()
