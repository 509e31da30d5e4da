"""Renders screens of terminals in a helper process.

A program's output is hostile, and a screen of 16 MiB takes up to seconds: too long for the event loop, and a
thread would hold the interpreter's lock. Rejected: a process pool, whose stuck worker cannot be ended. The
helper gets no environment (no secrets), little memory and one task at a time; one that misses its deadline is
killed, and the next task starts another.
"""

import asyncio
import json
import resource
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from dataclasses import replace

from bay.errors import HostError, InternalError, Timeout
from bay.models import Screen, from_wire

_PROGRAM = ("-m", "bay.terminal")
_DEADLINE_S = 10.0
_MEMORY_BYTES = 1 << 30
_REPLY_BYTES = 64 << 20  # no line of an answer is longer
_MAX_WAITING = 16


class Screens:
    """Renders one screen after the other; the helper is started by the first and ended by `aclose`."""

    def __init__(
        self,
        *,
        deadline_s: float = _DEADLINE_S,
        program: tuple[str, ...] = _PROGRAM,
        most_waiting: int = _MAX_WAITING,
    ) -> None:
        self._deadline_s = deadline_s
        self._program = program
        self._most_waiting = most_waiting
        self._process: Process | None = None
        self._turn = asyncio.Lock()  # held by the one who talks with the helper
        self._waiting = 0

    @property
    def running(self) -> bool:
        """Whether the helper is there."""
        return self._process is not None and self._process.returncode is None

    async def render(
        self, data: bytes, rows: int, cols: int, scrollback: int = 0, *, offset: int = 0
    ) -> tuple[Screen, bytes]:
        """The screen after `data`, and the bytes that draw it on a fresh terminal. See `bay.terminal`.
        `offset` is put into the screen. Raises Timeout when it takes too long, or others do.
        """
        if self._waiting >= self._most_waiting:
            raise Timeout(f"{self._waiting} screens are being rendered, the limit; try again in a moment")
        self._waiting += 1
        try:
            async with self._turn:
                screen, repaint = await self._bounded(
                    data, {"rows": rows, "cols": cols, "scrollback": scrollback}
                )
        finally:
            self._waiting -= 1
        return replace(screen, offset=offset), repaint

    async def aclose(self) -> None:
        """End the helper. A later `render` would start another."""
        process, self._process = self._process, None
        if process is not None:
            if process.returncode is None:
                process.kill()
            await process.wait()

    async def _bounded(self, data: bytes, order: dict[str, int]) -> tuple[Screen, bytes]:
        done = False
        try:
            async with asyncio.timeout(self._deadline_s):
                answer = await self._ask(data, order)
            done = True
            return answer
        except TimeoutError:
            raise Timeout(
                f"rendering the screen took more than {self._deadline_s:g} s; read the output instead"
            ) from None
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            raise _broke(error) from error
        finally:
            if not done:  # also when the client disconnected: half an answer is in the pipe
                await asyncio.shield(self.aclose())

    async def _ask(self, data: bytes, order: dict[str, int]) -> tuple[Screen, bytes]:
        process = await self._helper()
        assert process.stdin is not None  # noqa: S101 - it was asked for
        assert process.stdout is not None  # noqa: S101
        process.stdin.write(json.dumps({**order, "bytes": len(data)}).encode() + b"\n")
        process.stdin.write(data)
        await process.stdin.drain()
        head = json.loads(await process.stdout.readuntil(b"\n"))
        return from_wire(Screen, head["screen"]), await process.stdout.readexactly(head["bytes"])

    async def _helper(self) -> Process:
        if self._process is None or self._process.returncode is not None:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", *self._program),
                stdin=PIPE, stdout=PIPE, stderr=DEVNULL, env={}, limit=_REPLY_BYTES,
            )  # fmt: skip
            resource.prlimit(self._process.pid, resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
        return self._process


def _broke(error: Exception) -> HostError:
    return InternalError(f"the screen renderer exited ({type(error).__name__}); try again")
