"""The command line of runc, and the one place where its failures become Bay's errors."""

import asyncio
import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from bay.drivers.processes import has_ended
from bay.errors import DriverUnavailable

_ANSWER_S = 20.0


@dataclass(frozen=True, slots=True)
class Runc:
    """runc as `binary`, keeping its state in `root`."""

    binary: str
    root: Path

    def run(
        self, container: str, bundle: Path, *, log: Path, output: int, lock: int, timeout_s: float = _ANSWER_S
    ) -> int:
        """Start `container` from `bundle` and return the host pid of its first process.

        That process gets `output` as stdout and stderr, and `/dev/null` as stdin. Blocks, and runs in the calling
        thread's namespaces. `lock` stays open in runc and nowhere else, so that its lock outlives a Bay that is
        killed meanwhile. Raises DriverUnavailable.
        """
        pid_file = bundle / "pid"
        command = self._command(
            log, "run", "--detach", "--bundle", str(bundle), "--pid-file", str(pid_file), container
        )
        self._wait(command, log, output, lock, timeout_s)
        return int(pid_file.read_text())

    def _wait(self, command: list[str], log: Path, output: int, lock: int, timeout_s: float) -> None:
        process = self._spawn(command, output, lock)
        if not has_ended(process.pid, timeout_s):
            process.kill()
            process.wait()
            raise DriverUnavailable(f"{self.binary} did not start a container within {timeout_s:g} s")
        code = process.wait()
        if code:
            raise DriverUnavailable(f"{self.binary} could not start the container: {_last_error(log)}")

    def _spawn(self, command: list[str], output: int, lock: int) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, pass_fds=[lock], cwd="/"
            )
        except OSError as error:
            raise self._missing(error) from error

    def init_process(self, container: str) -> tuple[int, int] | None:
        """Host pid and start time of the first process of `container`, as runc noted them; None without a container."""
        try:
            state = json.loads((self.root / container / "state.json").read_text())
        except (FileNotFoundError, ValueError):
            return None
        return int(state["init_process_pid"]), int(state["init_process_start"])

    def knows(self, container: str) -> bool:
        """Whether there is a container of that name, whole or half made."""
        return (self.root / container).exists()

    async def delete(self, container: str) -> None:
        """Remove `container`, killing what runs in it."""
        await self._answer("delete", "--force", container)

    async def pause(self, container: str) -> None:
        """Freeze `container`."""
        await self._answer("pause", container)

    async def resume(self, container: str) -> None:
        """Undo `pause`."""
        await self._answer("resume", container)

    async def _answer(self, *arguments: str) -> None:
        pipe, null = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
        command = [self.binary, "--root", str(self.root), *arguments]
        try:
            process = await asyncio.create_subprocess_exec(*command, stdin=null, stdout=null, stderr=pipe)
        except OSError as error:
            raise self._missing(error) from error
        try:
            async with asyncio.timeout(_ANSWER_S):
                _, said = await process.communicate()
        except TimeoutError:
            raise DriverUnavailable(
                f"{self.binary} {arguments[0]} did not end within {_ANSWER_S:g} s"
            ) from None
        finally:
            if process.returncode is None:
                process.kill()
        if process.returncode:
            raise DriverUnavailable(
                f"{self.binary} {arguments[0]} failed: {said[-500:].decode(errors='replace').strip()}"
            )

    def _command(self, log: Path, *arguments: str) -> list[str]:
        return [self.binary, "--root", str(self.root), "--log", str(log), "--log-format", "json", *arguments]

    def _missing(self, error: OSError) -> DriverUnavailable:
        remedy = "install runc" if isinstance(error, FileNotFoundError) else "see `bay doctor`"
        return DriverUnavailable(f"{self.binary} cannot be run: {error.strerror}; {remedy}")


def runc_version(binary: str) -> tuple[int, int, int] | None:
    """The version that `binary` says it has; None when it does not run or says something else. Blocks."""
    try:
        said = subprocess.run(
            [binary, "--version"], capture_output=True, text=True, timeout=10, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"runc version (\d+)\.(\d+)\.(\d+)", said)
    return (int(found[1]), int(found[2]), int(found[3])) if found else None


def reads_mappings(version: tuple[int, int, int] | None) -> bool:
    """Whether this runc finds out the id mapping of a user namespace that it joins.

    Older ones must be told it, and newer ones refuse to be.
    """
    return version is None or version >= (1, 1, 10)


def _last_error(log: Path) -> str:
    try:
        lines = log.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return "it left no log"
    errors = [line for line in lines if '"level":"error"' in line or '"level":"fatal"' in line]
    return json.loads(errors[-1])["msg"] if errors else "its log names no error"
