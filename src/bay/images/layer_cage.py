"""The cage in which a layer is unpacked: a process that can write to one directory, and reach nothing else.

It is the first process of a pid namespace, root of a user namespace with ids of its own, without network, and
its file system has Ship's interpreter closure, the unpacker and the directory, which is id-mapped. The mounts
are of the thread that starts it and vanish with it. Seccomp, resource limits and the loss of all other rights
are the unpacker's first acts, before it reads a byte (see `layer_unpack`). Its answers are not believed
without bounds: a stranger's layer may have broken into it.
"""

import fcntl
import json
import os
import platform
import resource
import select
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

import structlog
import zstandard

import layer_unpack
import tree_tar
from bay.drivers.oci import closure
from bay.drivers.oci.idrange import IdRanges
from bay.drivers.oci.userns import user_namespace
from bay.errors import BayError, DriverUnavailable, ImageInvalid, ImageTooLarge, StorageFull
from bay.linux import mounts
from bay.linux.libseccomp import compile_profile
from bay.linux.processes import closing_fd

log = structlog.get_logger("bay.images")

_CLOSURE, _CODE, _LAYER = "/.ship", "/.unpack", "/layer"
_PROGRAM = f"import sys; sys.path[:0] = [{_CODE!r}]; from layer_unpack.__main__ import main; main()"
_STALL_S = 300.0
_LONGEST_LINE = 32 << 20
_LONGEST_MESSAGE = 1000
_LONGEST_WORDS = 500
_MOST_STRANGE = 100  # lines of it, as of a traceback, that reach Bay's log
_TELL_S = 0.1
_LARGEST = 1 << 53
_ERRORS: dict[str, type[BayError]] = {
    "invalid": ImageInvalid,
    "too_large": ImageTooLarge,
    "full": StorageFull,
}
_CLONE_NEWPID, _CLONE_NEWIPC = 0x2000_0000, 0x0800_0000
_RLIMITS = {
    "as": 640 << 20,  # of each of its two processes; a zstd window has 128 MiB
    "core": 1,  # at 0 the kernel still starts a core_pattern program, as root of the host: see core(5)
    "cpu": 15 * 60,  # 10 GiB take two minutes
    "memlock": 0,
    "msgqueue": 0,
    "nofile": 1024,
    "sigpending": 256,
}
_MEMORY_CALLS = """
    brk close exit exit_group futex getpid gettid madvise mmap mprotect mremap munmap read readv rt_sigaction
    rt_sigprocmask rt_sigreturn sched_yield tgkill write
"""
_FILE_CALLS = """
    clock_gettime dup fchmod fchmodat fchmodat2 fchown fchownat fcntl fgetxattr fsetxattr fstat ftruncate
    getdents64 getrandom gettimeofday linkat lseek mkdirat mknodat newfstatat openat pread64 pwrite64 readlinkat
    symlinkat unlinkat utimensat wait4
"""
_ARCHITECTURES = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}
_LOADERS = {"x86_64": "ld-linux-x86-64.so.2", "aarch64": "ld-linux-aarch64.so.1"}
_ALL_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_READ_ONLY = mounts.RDONLY | mounts.NOSUID | mounts.NODEV
_NO_PROGRAMS = mounts.NOSUID | mounts.NODEV | mounts.NOEXEC


class UnpackerBroken(DriverUnavailable, retryable=False):
    """The unpacker does not start on this host. `bay doctor` says so too; another attempt cannot pass."""


@dataclass(frozen=True, slots=True)
class CageParts:
    """The parts of the host that cages are made of: an empty directory, where Ship's interpreter closures are
    built, and the id ranges of this host.
    """

    stage: Path
    closures: Path
    ids: IdRanges


@dataclass(frozen=True, slots=True)
class UnpackOrder:
    """One layer: the compressed `blob`, and the empty directory `layer`; None asks for the digest alone.
    `holder` is the existing directory whose ids the cage has.
    """

    blob: Path
    codec: str | None
    layer: Path | None
    holder: Path
    max_bytes: int
    max_entries: int


@dataclass(frozen=True, slots=True)
class UnpackerReport:
    """The unpacker's own account. `opaque` are places of directories that hide those of lower layers."""

    digest: str
    bytes: int
    entries: int
    skipped: int
    opaque: list[str]


class Cage:
    """One run of the unpacker. `run` blocks, and its thread must end with it; others may `kill` it."""

    def __init__(self, parts: CageParts, order: UnpackOrder, tell: Callable[[int], None]) -> None:
        self._parts = parts
        self._order = order
        self._tell = tell
        self._lock = threading.Lock()
        # Guarded by the lock: a process is not killed after its number may be another's.
        self._process: subprocess.Popen[bytes] | None = None
        self._is_killed = False

    def run(self) -> UnpackerReport:
        """Unpack, and call `tell` with the number of the blob's bytes that were read. No process of it runs
        afterwards. The calling thread has another root then and must end; another one calls `release`.
        Raises ImageInvalid, ImageTooLarge, StorageFull, DriverUnavailable or OSError.
        """
        built = closure.build(self._parts.closures)
        base = self._parts.ids.claim(self._order.holder)
        with user_namespace(base) as users, self._started(built, users) as said:
            return self._listen(said)

    def release(self) -> None:
        """Free its ids, in a thread that sees the host's files."""
        self._parts.ids.release(self._order.holder)

    def kill(self) -> None:
        """End it, also one that has not begun."""
        with self._lock:
            self._is_killed = True
            if self._process is not None:
                self._process.kill()

    @contextmanager
    def _started(self, built: Path, users: int) -> Generator[int]:
        """The unpacker runs; gives the descriptor of what it says."""
        with ExitStack() as held:
            blob = held.enter_context(closing_fd(_opened_blob(self._order.blob)))
            filters = [held.enter_context(closing_fd(_memory(program))) for program in _filters()]
            said, its = os.pipe2(os.O_CLOEXEC)
            held.callback(os.close, said)
            with closing_fd(its), closing_fd(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)) as null:
                self._enter(built, users)
                process = self._spawn(users, blob, filters, its, null)
            try:
                yield said
            finally:
                self.kill()
                with self._lock:
                    self._process = None
                process.wait()

    def _enter(self, built: Path, users: int) -> None:
        """Give the calling thread the cage's file system and namespaces."""
        mounts.unshare(
            mounts.CLONE_NEWNS
            | mounts.CLONE_NEWNET
            | mounts.CLONE_NEWUTS
            | mounts.CLONE_FS
            | _CLONE_NEWPID
            | _CLONE_NEWIPC
        )
        mounts.make_all_private()
        stage = self._parts.stage
        with closing_fd(mounts.new_mount("tmpfs", [("size", "64k"), ("mode", "0755")])) as root:
            _attach(root, stage)
        _show(built, stage, _CLOSURE, _READ_ONLY)
        for package in (layer_unpack, tree_tar, zstandard):
            _show(
                Path(cast("str", package.__file__)).parent, stage, f"{_CODE}/{package.__name__}", _READ_ONLY
            )
        if self._order.layer is not None:
            _show(self._order.layer, stage, _LAYER, _NO_PROGRAMS, users)
        mounts.make_read_only(str(stage))
        mounts.change_root(stage)

    def _spawn(
        self, users: int, blob: int, filters: list[int], said: int, null: int
    ) -> subprocess.Popen[bytes]:
        order = {
            "layer": None if self._order.layer is None else _LAYER,
            "blob": blob,
            "codec": self._order.codec,
            "users": users,
            "filters": filters,
            "bytes": self._order.max_bytes,
            "entries": self._order.max_entries,
            "rlimits": _limits(),
        }
        with self._lock:
            if self._is_killed:
                raise DriverUnavailable("the unpacking of a layer was given up")
            self._process = subprocess.Popen(
                [*_interpreter(), "-c", _PROGRAM, json.dumps(order)],
                stdin=null,
                stdout=said,
                stderr=said,
                pass_fds=(users, blob, *filters),
                cwd="/",
                env={"LANG": "C.UTF-8"},
                start_new_session=True,  # Ctrl-C ends Bay, which ends this
            )
            return self._process

    def _listen(self, said: int) -> UnpackerReport:
        progress, strange, is_ready, last = _UnpackMeter(self._tell), 0, False, ""
        for line in _lines(said):
            match _parsed(line):
                case {"ready": True}:
                    is_ready = True
                case {"at": int(at)} if 0 <= at < _LARGEST:
                    progress.note(at)
                case {"error": str(kind), "message": str(message)}:
                    raise _ERRORS.get(kind, DriverUnavailable)(message[:_LONGEST_MESSAGE])
                case {"done": dict()} as words:
                    progress.end()
                    return _report(words["done"])
                case _ if strange < _MOST_STRANGE:
                    strange += 1
                    last = line[-_LONGEST_WORDS:].decode(errors="replace")
                    log.warning("layer.unpacker_said", text=last)
                case _:
                    break
        if not is_ready:  # nothing of the layer has been read: these are the host's own words
            raise UnpackerBroken(
                f"layers cannot be unpacked on this host: {last or 'the unpacker says nothing'}"
            )
        raise DriverUnavailable("the unpacker of a layer ended without a result; see Bay's log")


class _UnpackMeter:
    """Hands on how far the unpacker is: at times, however often it says so, and at the end."""

    def __init__(self, tell: Callable[[int], None]) -> None:
        self._tell = tell
        self._last: int | None = None
        self._told = 0.0

    def note(self, at: int) -> None:
        self._last = at
        if time.monotonic() - self._told >= _TELL_S:
            self._told = time.monotonic()
            self._tell(at)

    def end(self) -> None:
        if self._last is not None:
            self._tell(self._last)


def _lines(said: int) -> Generator[bytes]:
    poll = select.poll()
    poll.register(said, select.POLLIN)
    rest = bytearray()
    heard = time.monotonic()
    while True:
        if not poll.poll(max(0.0, heard + _STALL_S - time.monotonic()) * 1000):
            raise DriverUnavailable(f"the unpacker of a layer made no progress for {_STALL_S:g} s")
        if not (piece := os.read(said, 1 << 16)):
            return
        heard = time.monotonic()
        *whole, last = piece.split(b"\n")
        for end in whole:
            yield bytes(rest + end)
            rest.clear()
        rest += last
        if len(rest) > _LONGEST_LINE:
            raise DriverUnavailable("the unpacker of a layer says more than it should")


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _report(done: Mapping[str, Any]) -> UnpackerReport:
    numbers = [done.get(name, 0) for name in ("bytes", "entries", "skipped")]
    opaque = done.get("opaque", [])
    if not (
        all(isinstance(number, int) and 0 <= number < _LARGEST for number in numbers)
        and isinstance(opaque, list)
        and all(isinstance(place, str) and "\0" not in place for place in cast("list[object]", opaque))
    ):
        raise DriverUnavailable("the unpacker of a layer gave an answer that it cannot give")
    return UnpackerReport(str(done.get("digest")), *numbers, opaque=cast("list[str]", opaque))


def _opened_blob(blob: Path) -> int:
    """Another program wrote the directory that it is in."""
    fd = os.open(blob, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    raise ImageInvalid("the image has a layer that is no regular file")


def _interpreter() -> list[str]:
    lib = f"{_CLOSURE}/lib"
    loader = f"{lib}/{_LOADERS[platform.machine()]}"
    return [loader, "--library-path", lib, f"{_CLOSURE}/bin/python3", "-I", "-S", "-B"]


def _limits() -> dict[str, int]:
    hard = {name: resource.getrlimit(getattr(resource, f"RLIMIT_{name.upper()}"))[1] for name in _RLIMITS}
    return {
        name: wanted if hard[name] == resource.RLIM_INFINITY else min(wanted, hard[name])
        for name, wanted in _RLIMITS.items()
    }


@cache
def _filters() -> tuple[bytes, bytes]:
    """The seccomp programs of the unpacker, and of its process that decompresses."""
    memory = _MEMORY_CALLS.split()
    return _compiled([*memory, *_FILE_CALLS.split()]), _compiled(memory)


def _compiled(names: Iterable[str]) -> bytes:
    profile: Mapping[str, Any] = {
        "defaultErrnoRet": 1,
        "architectures": [_ARCHITECTURES[platform.machine()]],
        "syscalls": [{"names": sorted(names), "action": "SCMP_ACT_ALLOW"}],
    }
    return compile_profile(profile)


def _memory(content: bytes) -> int:
    """A descriptor of `content`, which nobody can change."""
    file = os.memfd_create("bay-seccomp", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(file, content)
    fcntl.fcntl(file, fcntl.F_ADD_SEALS, _ALL_SEALS)
    return file


def _show(source: Path, stage: Path, at: str, attributes: int, users: int | None = None) -> None:
    place = stage / at.lstrip("/")
    place.mkdir(parents=True)
    with closing_fd(mounts.open_tree(source)) as mount:
        mounts.set_attributes(mount, attributes, userns=users)
        _attach(mount, place)


def _attach(mount: int, path: Path) -> None:
    with closing_fd(mounts.open_directory(path)) as directory:
        mounts.attach(mount, directory)
