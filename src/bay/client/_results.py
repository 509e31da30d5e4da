"""What a finished command looks like to a program."""

import shlex
from dataclasses import dataclass
from typing import ClassVar

from bay.errors import BayError
from bay.models import Exec


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """How a command ended and what it printed.

    `stdout` and `stderr` are text with undecodable bytes replaced; `truncated` says that the oldest
    output no longer fitted the buffer. `exit_code` is None when a signal ended it (`signal` then has
    its number) or when its sandbox stopped under it. `duration_s` is None while it still runs.
    """

    exec_id: str
    argv: tuple[str, ...]
    stdout: str
    stderr: str
    exit_code: int | None
    signal: int | None
    timed_out: bool
    truncated: bool
    duration_s: float | None

    @property
    def ok(self) -> bool:
        """Whether it ended by itself with exit code 0."""
        return self.exit_code == 0 and not self.timed_out

    @property
    def outcome(self) -> str:
        """How it ended, in words: ``exited with 2``, ``was killed by signal 9``."""
        if self.timed_out:
            return "ran out of time"
        if self.signal is not None:
            return f"was killed by signal {self.signal}"
        return "was lost with its session" if self.exit_code is None else f"exited with {self.exit_code}"

    def check(self) -> "RunResult":
        """This result; raises CommandFailed when it is not `ok`."""
        if not self.ok:
            raise CommandFailed(self)
        return self

    def __str__(self) -> str:
        parts = [self.stdout.rstrip("\n"), self.stderr.rstrip("\n"), "" if self.ok else f"[{self.outcome}]"]
        return "\n".join(part for part in parts if part)


class CommandFailed(BayError):
    """A command that was run with `check=True` did not exit with 0; `result` has all of it."""

    code: ClassVar[str] = "command_failed"
    status = 0

    def __init__(self, result: RunResult) -> None:
        last = result.stderr.strip().rpartition("\n")[2]
        said = f": {last}" if last else ""
        super().__init__(
            f"`{shlex.join(result.argv)}` {result.outcome}{said}",
            details={"exec_id": result.exec_id, "exit_code": result.exit_code, "signal": result.signal},
        )
        self.result = result


def run_result(info: Exec) -> RunResult:
    """The result that an ended exec, asked for with `?wait=`, describes."""
    return RunResult(
        exec_id=info.id,
        argv=info.argv,
        stdout=info.stdout or "",
        stderr=info.stderr or "",
        exit_code=info.exit_code,
        signal=info.signal,
        timed_out=info.timed_out,
        truncated=info.truncated,
        duration_s=None if info.ended_at is None else (info.ended_at - info.started_at).total_seconds(),
    )
