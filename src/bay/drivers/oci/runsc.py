"""Runs sessions in gVisor: its command line `runsc`, the specification that it takes, and a trial.

A process of gVisor's, the sentry, is the kernel of the session's programs, in a user namespace of the
session's own ids. Another one, the gofer, opens files for it: it has the root file system that Bay assembled,
in a mount namespace of its own. Both are in the session's control group.
"""

import json
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bay.drivers.base import SessionSpec
from bay.drivers.oci.rlimits import limited
from bay.drivers.oci.seccomp import profile_in_gvisor
from bay.drivers.oci.spec import CLOSURE, OOM_SCORE_ADJ, SOCKET_DIR, RuntimePlacement, build
from bay.drivers.oci.userns import IDS
from bay.drivers.start_output import StartOutput
from bay.errors import DriverUnavailable
from bay.linux import mounts, namespaces
from bay.linux.processes import bare_environment, closing_fd, has_ended, kill_tree
from bay.network import sentry_link

RUNSC = "runsc"
"""The name that it says its version with."""
ISOLATION = "gvisor"

# Of a cargo, whose files other sandboxes and Bay may change too, the sentry keeps no copy (`shared`).
# A connection to another host would keep a sandbox from being saved (`disconnect`).
FLAGS = (
    *("--host-uds=all", "--file-access-mounts=shared", "--overlay2=none"),
    *("--oci-seccomp", "--net-disconnect-ok"),
)
_NAMESPACES = ("pid", "mount", "ipc", "uts", "user")
_SIGN_OF_HOST = "/proc/sys/net/core"
_KEPT_MOUNTS = ("/proc", "/dev", "/dev/pts", "/dev/shm", "/tmp", "/run/secrets")  # noqa: S108 - inside
_TRIAL_S = 20.0
_SIGNAL_S = 10.0
_END_S = 5.0
_SAVE_S = 120.0
_TRACE = "\ngoroutine "
_GOFER = b"runsc-gofer"


class SentryFailed(OSError):
    """runsc refused, or did not answer; the text is what it said."""


@dataclass(frozen=True, slots=True)
class Runsc:
    """runsc as `binary`, given `timeout_s` to start a sandbox."""

    binary: str
    timeout_s: float

    def version(self) -> str:
        """Its name and version, as it prints them. Blocks; raises OSError."""
        return _answer([self.binary, "--version"]).splitlines()[0]

    def run(
        self,
        session: str,
        bundle: Path,
        state: Path,
        *,
        output: StartOutput,
        lock: int,
        network: bool = False,
        image: Path | None = None,
    ) -> int:
        """Start a sandbox from `bundle`, its state in `state`, and return the host pid of its sentry. With
        `image` it goes on as `save` left it there.

        The first process inside gets `output` as stdout and stderr. Blocks, and runs in the calling thread's
        namespaces; it must be alone in its mount namespace. `lock` is held until runsc has ended, also when
        Bay is killed. With `network` the sentry takes the devices of the network namespace that `bundle`
        names. Raises DriverUnavailable.
        """
        pid_file, log = bundle / "pid", bundle / "runsc.log"
        command = [
            self.binary,
            "--root",
            str(state),
            "--log",
            str(log),
            *_flags(network=network),
            *(("run",) if image is None else ("restore", "--image-path", str(image))),
            "--detach",
        ]
        command += ["--bundle", str(bundle), "--pid-file", str(pid_file), session]
        # A shell holds the lock: the sentry would inherit it from runsc, and hold it for as long as it runs.
        # runsc gives the score to the sentry alone, and not to the processes that run the programs.
        script = f'echo {OOM_SCORE_ADJ} > /proc/self/oom_score_adj && "$@" < /dev/null'
        held = ["sh", "-c", script, "sh", *limited(command)]
        writer, environment = output.writer, bare_environment()
        with subprocess.Popen(
            held, stdin=lock, stdout=writer, stderr=writer, cwd="/", env=environment
        ) as process:
            if not has_ended(process.pid, self.timeout_s):
                kill_tree(process.pid, _END_S)
                raise DriverUnavailable(f"{self.binary} did not start a sandbox within {self.timeout_s:g} s")
        if process.returncode:
            raise DriverUnavailable(f"{self.binary} could not start the sandbox{output.said()}")
        return int(pid_file.read_text())

    def signal(self, session: str, state: Path, number: int) -> None:
        """Signal the first process inside; the sentry passes on none that it gets itself. Blocks."""
        command = [self.binary, "--root", str(state), "kill", session, str(number)]
        subprocess.run(command, check=False, capture_output=True, timeout=_SIGNAL_S)

    def rename(self, session: str, state: Path, hostname: str) -> None:
        """Give a sandbox that runs another hostname. Blocks. Raises SentryFailed, OSError."""
        told = state.with_name("rename.json")
        told.write_text(json.dumps(_renaming(hostname)))
        try:
            self._ask(state, "exec", "--process", str(told), session, timeout_s=self.timeout_s)
        finally:
            told.unlink()

    def pause(self, session: str, state: Path) -> None:
        """Have all programs stand still, and the sentry go on. Blocks. Raises SentryFailed."""
        self._ask(state, "pause", session)

    def resume(self, session: str, state: Path) -> None:
        """Undo `pause`; idempotent. Blocks. Raises SentryFailed."""
        try:
            self._ask(state, "resume", session)
        except SentryFailed:
            if json.loads(self._ask(state, "state", session))["status"] != "running":
                raise

    def save(self, session: str, state: Path, image: Path, lock: int) -> None:
        """Write the memory of programs that stand still into the directory `image`; they stay so. `lock` is
        held until runsc has ended. Blocks. Raises SentryFailed.
        """
        # Compressed, it takes three times as long.
        into = ("--leave-running", "--compression=none", "--image-path", str(image))
        self._ask(state, "checkpoint", *into, session, timeout_s=_SAVE_S, kept=(lock,))

    def _ask(self, state: Path, *words: str, timeout_s: float = _SIGNAL_S, kept: tuple[int, ...] = ()) -> str:
        return _answer([self.binary, "--root", str(state), *words], timeout_s, kept)


def _flags(*, network: bool) -> list[str]:
    """The flags of a run, made ready for in the calling thread's mount namespace."""
    if not network:
        return ["--network=none", *FLAGS]
    # runsc 20240729 knows the host's own namespace, whose devices it does not take, by a file in there. Linux
    # 6.18 shows that in every namespace.
    with (
        closing_fd(mounts.new_mount("tmpfs", [("mode", "0555"), ("size", "4k")], mounts.RDONLY)) as empty,
        closing_fd(mounts.open_directory(_SIGN_OF_HOST)) as directory,
    ):
        mounts.attach(empty, directory)
    return ["--network=sandbox", *FLAGS]


def trial(binary: str, id_base: int) -> str:
    """Start one sandbox and run a program in it; the version of runsc. Blocks for about half a second.
    Raises OSError with the reason when it does not work.
    """
    return _trial(binary, id_base, None)


def trial_with_network(binary: str, id_base: int) -> str:
    """The same with a device that leads nowhere."""

    def run() -> str:
        mounts.unshare(mounts.CLONE_NEWNS | mounts.CLONE_FS)
        mounts.make_all_private()
        try:
            sentry_link.offer(ipv6=False)
        except DriverUnavailable as error:
            raise OSError(error.message) from error
        with closing_fd(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)) as namespace:
            return _trial(binary, id_base, f"/proc/{os.getpid()}/fd/{namespace}")

    return namespaces.inside_new(run)


def _trial(binary: str, id_base: int, network: str | None) -> str:
    if shutil.which(binary) is None:
        raise FileNotFoundError(f"there is no {binary}")
    top = Path(tempfile.mkdtemp(prefix="bay-runsc-"))
    try:
        (top / "config.json").write_text(json.dumps(_trial_spec(id_base, network)))
        command = [binary, "--root", str(top / "state"), *_flags(network=network is not None)]
        seen = _answer([*command, "--ignore-cgroups", "run", "--bundle", str(top), top.name])
        if network is not None and f"{sentry_link.DEVICE}:" not in seen:
            raise OSError(f"it has not taken the device {sentry_link.DEVICE}")
        return _answer([binary, "--version"]).splitlines()[0]
    finally:
        shutil.rmtree(top, ignore_errors=True)


def _answer(command: list[str], timeout_s: float = _TRIAL_S, kept: tuple[int, ...] = ()) -> str:
    """The output of a command of runsc, which inherits the files `kept`. Raises SentryFailed, OSError."""
    null, pipe = subprocess.DEVNULL, subprocess.PIPE
    with subprocess.Popen(
        command,
        stdin=null,
        stdout=pipe,
        stderr=pipe,
        text=True,
        errors="replace",
        pass_fds=kept,
        env=bare_environment(),
    ) as process:
        try:
            said, failed = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired as error:
            kill_tree(process.pid, _END_S)
            raise SentryFailed(f"it did not end within {timeout_s:g} s") from error
    if process.returncode:
        told = failed.partition(_TRACE)[0].strip().splitlines() or ["it failed and said nothing"]
        raise SentryFailed(told[-1][:300])
    return said


def _trial_spec(id_base: int, network: str | None) -> dict[str, Any]:
    return {
        "ociVersion": "1.0.2",
        "root": {"path": "/", "readonly": True},
        "process": {"user": {"uid": 0, "gid": 0}, "args": ["/bin/cat", "/proc/net/dev"], "cwd": "/"},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "linux": _linux(id_base, network),
    }


def _linux(id_base: int, network: str | None) -> dict[str, Any]:
    joined = {} if network is None else {"path": network}
    mapping = [{"containerID": 0, "hostID": id_base, "size": IDS}]
    return {
        "namespaces": [*({"type": kind} for kind in _NAMESPACES), {"type": "network", **joined}],
        "uidMappings": mapping,
        "gidMappings": mapping,
    }


def _renaming(hostname: str) -> dict[str, Any]:
    """A process inside that the sentry lets do so: Ship's Python, and no program of the sandbox's."""
    sets = f"import socket; socket.sethostname({hostname!r})"
    return {
        "user": {"uid": 0, "gid": 0},
        "args": [f"{CLOSURE}/bin/python3", "-I", "-S", "-c", sets],
        "env": [],
        "cwd": "/",
        "capabilities": {kind: ["CAP_SYS_ADMIN"] for kind in ("bounding", "effective", "permitted")},
        "noNewPrivileges": True,
    }


def build_spec(
    spec: SessionSpec, place: RuntimePlacement, id_base: int, network: str | None
) -> dict[str, Any]:
    """The contents of `config.json`: as for runc, without what the sentry does itself or does not know.
    `network` is the namespace whose devices the sentry takes; without one it has loopback alone.
    """
    made = build(spec, place)
    inside = [mount for mount in made["mounts"] if mount["destination"] in _KEPT_MOUNTS]
    resources = {
        name: limit for name, limit in made["linux"]["resources"].items() if name in ("cpu", "memory", "pids")
    }
    return {
        **made,
        "mounts": [*inside, *(_bound(place.rootfs, target) for target in _targets(spec))],
        "linux": {
            **_linux(id_base, network),
            "cgroupsPath": place.cgroup,
            "resources": resources,
            "seccomp": profile_in_gvisor(place.machine),
        },
    }


def _targets(spec: SessionSpec) -> list[str]:
    """The mounts that Bay made in the root file system, each of which the gofer serves by itself."""
    usr = [] if spec.root is not None else ["/usr"]
    return [*usr, "/workspace", CLOSURE, SOCKET_DIR, *(volume.path for volume in spec.volumes)]


def _bound(rootfs: Path, target: str) -> dict[str, Any]:
    # Read-only ones are so on the host: runsc truncates files of those that its specification alone calls so.
    return {"destination": target, "type": "bind", "source": f"{rootfs}{target}", "options": ["bind"]}


def _name_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def gofer_of(pids: list[int]) -> int | None:
    """The gofer among the processes of a session, which is the peer of who connects to Ship's socket."""
    return next((pid for pid in pids if _name_of(pid).startswith(_GOFER)), None)


def seal_socket_dir(gofer: int) -> None:
    """Make the directory of Ship's socket read-only for the gofer, and so for the sentry, which has its
    descriptors. Blocks; the calling thread is in other namespaces afterwards and must end. Raises OSError.
    """
    for path in _entered(gofer):
        mounts.make_read_only(path)


def unseal_socket_dir(gofer: int) -> None:
    """Undo `seal_socket_dir`; as that does."""
    for path in _entered(gofer):
        mounts.make_writable(path)


def _entered(gofer: int) -> list[str]:
    """The directory's paths in the gofer's mount namespace, which the calling thread is in from now on."""
    found = _mounts_of(gofer)
    if not found:
        raise FileNotFoundError("gVisor's gofer has no directory for Ship's socket")
    with (
        open(f"/proc/{gofer}/ns/mnt", "rb") as namespace,
        closing_fd(mounts.open_directory(f"/proc/{gofer}/root")) as root,
    ):
        mounts.unshare(mounts.CLONE_FS)
        mounts.setns(namespace.fileno(), mounts.CLONE_NEWNS)
        os.fchdir(root)
    return [path.lstrip("/") for path in found]


def _mounts_of(pid: int) -> list[str]:
    lines = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
    targets = (line.split(" ")[4] for line in lines)
    return [target for target in targets if target.endswith(SOCKET_DIR)]
