"""Runs skopeo in a cage, bounded in time, in output and in what it writes."""

import contextlib
import os
import select
import signal
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, cast

from bay.errors import DriverUnavailable
from bay.images.config import LONGEST
from bay.images.fetch_cage import FetchCage, command
from bay.images.spool_watch import TICK_S, SpoolLimits, SpoolUse, SpoolWatch

_MOST_SAID = 64 << 10
_END_S = 10.0


@dataclass(frozen=True, slots=True)
class SkopeoEnd:
    """How a run ended: with its `code`, or because a limit was `passed`, by the name that SpoolWatch has."""

    code: int
    out: bytes
    said: bytes
    passed: str | None = None


@dataclass
class SkopeoRun:
    """One run in a cage, in a pid namespace of its own."""

    cage: FetchCage
    arguments: Sequence[str]
    spool: Path | None
    limits: SpoolLimits
    on_change: Callable[[SpoolUse], None]
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _is_stopped: bool = field(default=False, init=False)

    def run(self) -> SkopeoEnd:
        """Blocks; the calling thread is in the cage afterwards and must end. Raises DriverUnavailable.

        The thread does nothing there but follow the run: the time zone, say, would be read from the cage.
        """
        program = command(self.cage.user, self.limits.max_bytes, self.arguments)
        with contextlib.ExitStack() as closed:
            try:
                spool = None
                if self.spool is not None:
                    spool = os.open(self.spool, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                    closed.callback(os.close, spool)
                self.cage.enter()
                pipe = subprocess.PIPE  # also as stdin: in the cage is no /dev/null
                process = subprocess.Popen(program, env={}, stdin=pipe, stdout=pipe, stderr=pipe)
            except OSError as error:
                why = error.strerror or error
                raise DriverUnavailable(f"this host cannot run skopeo: {why}; see `bay doctor`") from error
            self._process = process
            return self._followed(process, SpoolWatch(spool, self.limits, self.on_change))

    def stop(self) -> None:
        """Kill it, and all in its pid namespace with it, from any thread."""
        self._is_stopped = True
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)

    def _followed(self, process: subprocess.Popen[bytes], watch: SpoolWatch) -> SkopeoEnd:
        out = _Pipe(cast("IO[bytes]", process.stdout), LONGEST + 1)
        said = _Pipe(cast("IO[bytes]", process.stderr), _MOST_SAID)
        with process:
            try:
                cast("IO[bytes]", process.stdin).close()
                while _read((out, said), TICK_S):
                    passed = watch.look()
                    if passed or self._is_stopped:
                        return SkopeoEnd(-signal.SIGKILL, b"", said.got, passed)
                code = process.wait(_END_S)
            except subprocess.TimeoutExpired:  # it closed its output, and goes on
                code = -signal.SIGKILL
            finally:
                process.kill()
        return SkopeoEnd(code, out.got, said.got, watch.look(now=True))


@dataclass
class _Pipe:
    """An output of a process: the first `most` bytes are kept, and the rest is read and dropped."""

    file: IO[bytes]
    most: int
    got: bytes = b""
    is_open: bool = True

    def read(self) -> None:
        data = os.read(self.file.fileno(), 1 << 16)
        self.is_open = bool(data)
        self.got += data[: self.most - len(self.got)]


def _read(pipes: Sequence[_Pipe], timeout_s: float) -> bool:
    """Read what comes in that time; False once every pipe has ended."""
    poll = select.poll()
    by_number = {pipe.file.fileno(): pipe for pipe in pipes if pipe.is_open}
    for number in by_number:
        poll.register(number, select.POLLIN)
    for number, _ in poll.poll(timeout_s * 1000):
        by_number[number].read()
    return any(pipe.is_open for pipe in pipes)
