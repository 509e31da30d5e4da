"""The result of a finished command."""

import shlex
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, get_args

from bay.errors import BayError, InvalidArgument
from bay.models import Exec, OutputChunk, Stream

Keep = Literal["head", "tail", "both"]
"""Which part of too much output is kept: the first bytes, the last ones, or half of each."""

DEFAULT_OUTPUT_BYTES = 16 << 20
MAX_OUTPUT_BYTES = 1 << 30

TIMED_OUT = 124
"""The exit code of timeout(1)."""

_SHOWN = 200


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class RunResult:
    """How a command ended and what it printed.

    `chunks` is what it printed in the order in which it came, each with its stream and byte offset; `stdout`,
    `stderr` and `output` (both) show it as text with undecodable bytes replaced, the same names with `_bytes`
    as bytes. `omitted_bytes` is how much is not there: more than was to be kept, or lost on the way.
    `exit_code` is None when a signal ended it (`signal` then has its number) or when its sandbox stopped
    under it. `duration_s` is None while it still runs. `was_read` says that this program has read the output
    by itself, so that what this leaves out is not lost.
    """

    exec_id: str
    argv: tuple[str, ...]
    chunks: tuple[OutputChunk, ...]
    exit_code: int | None
    signal: int | None
    timed_out: bool
    omitted_bytes: int
    duration_s: float | None
    was_read: bool = False

    @property
    def stdout_bytes(self) -> bytes:
        """Its output on stdout, or on its terminal."""
        return self._of("stdout", "tty")

    @property
    def stderr_bytes(self) -> bytes:
        """Its output on stderr."""
        return self._of("stderr")

    @property
    def output_bytes(self) -> bytes:
        """Both in the order in which they came."""
        return self._of("stdout", "stderr", "tty")

    @property
    def stdout(self) -> str:
        """`stdout_bytes` as text."""
        return _text(self.stdout_bytes)

    @property
    def stderr(self) -> str:
        """`stderr_bytes` as text."""
        return _text(self.stderr_bytes)

    @property
    def output(self) -> str:
        """`output_bytes` as text."""
        return _text(self.output_bytes)

    @property
    def truncated(self) -> bool:
        """Whether output is missing."""
        return self.omitted_bytes > 0

    @property
    def ok(self) -> bool:
        """Whether it ended by itself with exit code 0, and no output was lost."""
        return self.exit_code == 0 and not self.timed_out and not self._lost_bytes

    @property
    def returncode(self) -> int | None:
        """Its exit code in a shell: 128 and the signal's number, 124 after the time limit; None when lost."""
        if self.timed_out:
            return TIMED_OUT
        return self.exit_code if self.signal is None else 128 + self.signal

    @property
    def outcome(self) -> str:
        """How it ended, in words: ``exited with 2``, ``was killed by signal 9``."""
        if self.timed_out:
            return "ran out of time"
        if self.signal is not None:
            return f"was killed by signal {self.signal}"
        if self.exit_code is None:
            return "was lost with its session"
        lost = f", and {self._lost_bytes} bytes of its output are missing" if self._lost_bytes else ""
        return f"exited with {self.exit_code}{lost}"

    def check(self) -> "RunResult":
        """This result; raises CommandFailed when it is not `ok`."""
        if not self.ok:
            raise CommandFailed(self)
        return self

    def __str__(self) -> str:
        notes = [
            f"[{self.omitted_bytes} bytes of output are missing]" if self.truncated else "",
            "" if self.ok or self.exit_code == 0 else f"[{self.outcome}]",
        ]
        parts = [self.stdout.rstrip("\n"), self.stderr.rstrip("\n"), *notes]
        return "\n".join(part for part in parts if part)

    def __repr__(self) -> str:
        shown = {"stdout": self.stdout_bytes, "stderr": self.stderr_bytes}
        texts = ", ".join(f"{name}={_text(data[:_SHOWN])!r}" for name, data in shown.items() if data)
        return f"<RunResult {self.exec_id} {self.outcome}{', ' if texts else ''}{texts}>"

    @property
    def _lost_bytes(self) -> int:
        return 0 if self.was_read else self.omitted_bytes

    def _of(self, *streams: Stream) -> bytes:
        return b"".join(chunk.data for chunk in self.chunks if chunk.stream in streams)


class CommandFailed(BayError, code="command_failed", status=0):
    """A command with `check=True` did not exit with 0, or its output has a gap. `result` has all of it."""

    def __init__(self, result: RunResult) -> None:
        last = result.stderr.strip().rpartition("\n")[2]
        said = f": {last}" if last else ""
        super().__init__(
            f"`{shlex.join(result.argv)}` {result.outcome}{said}",
            details={"exec_id": result.exec_id, "exit_code": result.exit_code, "signal": result.signal},
        )
        self.result = result


class Collected:
    """Keeps a command's output as it comes: `limit` bytes, and of more the part that `keep` names."""

    def __init__(self, limit: int = DEFAULT_OUTPUT_BYTES, keep: Keep = "tail") -> None:
        if not 0 < limit <= MAX_OUTPUT_BYTES:
            raise InvalidArgument(f"max_output_bytes must be between 1 and {MAX_OUTPUT_BYTES}, not {limit}")
        if keep not in get_args(Keep):
            raise InvalidArgument(f"keep must be one of {', '.join(get_args(Keep))}, not {keep!r}")
        self._head_left = {"head": limit, "tail": 0, "both": limit - limit // 2}[keep]
        self._tail_limit = limit - self._head_left
        self._head: list[OutputChunk] = []
        self._tail: deque[OutputChunk] = deque()
        self._tail_bytes = 0
        self.next_offset = 0
        """Of the byte that comes next."""

    def add(self, chunks: Iterable[OutputChunk]) -> None:
        """More of it, in order."""
        for chunk in chunks:
            self.next_offset = chunk.offset + len(chunk.data)
            first, rest = _split(chunk, self._head_left)
            self._head_left -= len(first.data)
            if first.data:
                self._head.append(first)
            if rest.data and self._tail_limit:
                self._tail.append(rest)
                self._tail_bytes += len(rest.data)
                self._cut()

    def result(self, info: Exec, *, was_read: bool = False) -> RunResult:
        """The result of the command that `info` describes the end of."""
        chunks = (*self._head, *self._tail)
        kept = sum(len(chunk.data) for chunk in chunks)
        return RunResult(
            exec_id=info.id,
            argv=info.argv,
            chunks=chunks,
            exit_code=info.exit_code,
            signal=info.signal,
            timed_out=info.timed_out,
            omitted_bytes=max(self.next_offset, info.output_bytes) - kept,
            duration_s=None if info.ended_at is None else (info.ended_at - info.started_at).total_seconds(),
            was_read=was_read,
        )

    def _cut(self) -> None:
        while (excess := self._tail_bytes - self._tail_limit) > 0:
            first, rest = _split(self._tail.popleft(), excess)
            self._tail_bytes -= len(first.data)
            if rest.data:
                self._tail.appendleft(rest)


def chunks_of(info: Exec) -> tuple[OutputChunk, ...]:
    """The output in the answer to an exec with `?wait=`."""
    if info.output is not None:
        return info.output
    stdout, stderr = (info.stdout or "").encode(), (info.stderr or "").encode()
    at, end = info.first_offset, info.first_offset + len(stdout)
    return (
        OutputChunk(offset=at, stream="tty" if info.tty else "stdout", data=stdout, t=info.started_at),
        OutputChunk(offset=end, stream="stderr", data=stderr, t=info.started_at),
    )


def _split(chunk: OutputChunk, size: int) -> tuple[OutputChunk, OutputChunk]:
    """The first `size` bytes of it, and the rest; either may be empty."""
    return (
        replace(chunk, data=chunk.data[:size]),
        replace(chunk, offset=chunk.offset + min(size, len(chunk.data)), data=chunk.data[size:]),
    )


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")
