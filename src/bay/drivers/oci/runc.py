"""Runs the command line of runc, which other runtimes have too, and turns its failures into Bay's errors."""

import json
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from bay.drivers.oci.rlimits import limited
from bay.drivers.oci.sealed_copy import SealedCopy
from bay.drivers.start_output import StartOutput
from bay.errors import DriverUnavailable
from bay.linux.processes import bare_environment, has_ended, kill_tree

ANSWER_S = 20.0
RUNC = "runc"
"""The name that runc says its version with; other runtimes of its command line have their own."""
_VERSION_S = 10.0
_END_S = 5.0


class RuncProcess(Protocol):
    """A runc that was started."""

    @property
    def pid(self) -> int:
        """Its number on the host."""
        ...

    def ended_within(self, timeout_s: float) -> bool:
        """Wait until it has ended; False after `timeout_s`. Blocks."""
        ...

    def exit_code(self) -> int:
        """Reap it, once it has ended."""
        ...


@dataclass(frozen=True, slots=True)
class Runc:
    """runc as `binary`, run from `copy`, keeping its state in `root`, given `timeout_s` to start a container.
    That is all it is needed for: `cgroups` freezes the container, and the driver's `destroy` removes it.
    """

    binary: str
    copy: SealedCopy
    root: Path
    timeout_s: float = ANSWER_S

    def run(
        self,
        container: str,
        bundle: Path,
        *,
        log: Path,
        output: StartOutput,
        lock: int,
        create: Callable[[list[str]], RuncProcess] | None = None,
    ) -> int:
        """Start `container` from `bundle` and return the host pid of its first process.

        With `create`, which runs the command, that process waits in the container's namespaces and never
        becomes its program.

        That process gets `output` as stdout and stderr, and `/dev/null` as stdin. Blocks, and runs in the
        calling thread's namespaces. `lock` stays open in runc and nowhere else, so that its lock outlives a
        Bay that is killed meanwhile. A runc that takes too long is killed with all it started. Raises
        DriverUnavailable.
        """
        pid_file = bundle / "pid"
        command = ["run", "--detach"] if create is None else ["create"]
        arguments = ["--root", str(self.root), "--log", str(log), "--log-format", "json", *command]
        arguments += ["--bundle", str(bundle), "--pid-file", str(pid_file), container]
        try:
            path = self.copy.path()
            process = (
                self.spawn([path, *arguments], output, lock) if create is None else create([path, *arguments])
            )
        except OSError as error:
            remedy = "install runc" if isinstance(error, FileNotFoundError) else "see `bay doctor`"
            message = f"{self.binary} cannot be run: {error.strerror}; {remedy}"
            raise DriverUnavailable(message) from error
        self._wait(process, log, output)
        try:
            return int(pid_file.read_text())
        except (FileNotFoundError, ValueError) as error:
            raise DriverUnavailable(
                f"{self.binary} reported a started container, but there is none{output.said()}"
            ) from error

    def _wait(self, process: RuncProcess, log: Path, output: StartOutput) -> None:
        if not process.ended_within(self.timeout_s):
            kill_tree(process.pid, _END_S)
            process.exit_code()
            raise DriverUnavailable(
                f"{self.binary} did not start a container within {self.timeout_s:g} s{output.said()}"
            )
        if process.exit_code():
            why = _last_error(log) or f"it logged no error{output.said()}"
            raise DriverUnavailable(f"{self.binary} could not start the container: {why}")

    def spawn(self, command: list[str], output: StartOutput, lock: int) -> RuncProcess:
        """Start a command of runc's as Bay's own child. Raises OSError."""
        null, writer, environment = subprocess.DEVNULL, output.writer, bare_environment()
        return _Child(
            limited(command),
            stdin=null,
            stdout=writer,
            stderr=writer,
            pass_fds=[lock],
            cwd="/",
            env=environment,
        )

    def state(self, container: str) -> Path:
        """The directory of runc's state of `container`."""
        return self.root / container


class _Child(subprocess.Popen[bytes]):
    """A runc that is Bay's own child."""

    def ended_within(self, timeout_s: float) -> bool:
        return has_ended(self.pid, timeout_s)

    def exit_code(self) -> int:
        return self.wait(_END_S)


class RuntimeVersion(NamedTuple):
    """Of an OCI runtime, as it says itself: `1.1.15+ds1` of `runc`, `release-20240729.0` of `runsc`."""

    name: str
    text: str

    @property
    def numbers(self) -> tuple[int, ...]:
        """The numbers that the text begins with."""
        found = re.match(r"\d+(?:\.\d+)*", self.text)
        return tuple(map(int, found[0].split("."))) if found else ()


def runtime_version(binary: str) -> RuntimeVersion | None:
    """The version that `binary` prints; None when it fails, hangs or prints none as runc does. Blocks."""
    found = re.search(r"^(\w+) version:? ((?:release-)?\d\S*)", _asked_for_version(binary), re.MULTILINE)
    return RuntimeVersion(found[1], found[2]) if found else None


def is_patched(binary: str) -> bool:
    """Whether `binary` is of a security update of Debian, which mends but keeps the version. Blocks."""
    return re.search(r"^commit: \S*\+deb\d+u\d+", _asked_for_version(binary), re.MULTILINE) is not None


def _asked_for_version(binary: str) -> str:
    try:
        command, null, pipe = [binary, "--version"], subprocess.DEVNULL, subprocess.PIPE
        with subprocess.Popen(command, stdin=null, stdout=pipe, stderr=null, errors="replace") as process:
            return _answer(process)
    except OSError:
        return ""


def _answer(process: subprocess.Popen[str]) -> str:
    try:
        return process.communicate(timeout=_VERSION_S)[0]
    except subprocess.TimeoutExpired:
        kill_tree(process.pid, _END_S)
        return ""


def reads_mappings(version: RuntimeVersion | None) -> bool:
    """Whether it reads a user namespace's id mapping: older runcs need it in the spec, newer refuse it."""
    return version is None or version.name != RUNC or version.numbers >= (1, 1, 10)


def _last_error(log: Path) -> str | None:
    """The last error in runc's log; its stderr has the same in more words."""
    try:
        lines = log.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return None
    errors = [line for line in lines if '"level":"error"' in line or '"level":"fatal"' in line]
    return json.loads(errors[-1])["msg"] if errors else None
