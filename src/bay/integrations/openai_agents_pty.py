"""The running commands of a session of the OpenAI Agents SDK: each is an exec that stays attached.

The SDK's tools start a command, take what it printed within some seconds, and come back for more, with or
without input. Nothing is pumped meanwhile: Bay keeps the output until the next look.
"""

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from agents.sandbox.errors import ExecTransportError, PtySessionNotFoundError
from agents.sandbox.session.pty_output import collect_pty_output
from agents.sandbox.session.pty_types import (
    PTY_PROCESSES_MAX,
    PtyExecUpdate,
    allocate_pty_process_id,
    clamp_pty_yield_time_ms,
    process_id_to_prune_from_meta,
    resolve_pty_write_yield_time_ms,
)

import bay

FIRST_LOOK_S = 10.0
LOOK_S = 0.25


@dataclass(eq=False)
class _AttachedCommand:
    """A command, and what it printed that no look has given yet."""

    proc: bay.AsyncProc
    attachment: bay.AsyncAttachment
    tty: bool
    looked_at: float = field(default_factory=time.monotonic)
    chunks: deque[bytes] = field(default_factory=deque[bytes])
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def exit_code(self) -> int | None:
        """As a shell has it, once it has ended."""
        end = self.attachment.exit
        if end is None or end.signal is None:
            return None if end is None else end.exit_code
        return 128 + end.signal

    async def read(self, deadline: float) -> None:
        """The next output, if there is some before `deadline`."""
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            return
        with suppress(bay.Timeout):
            chunk = await self.attachment.read(left_s)
            if chunk is not None:
                self.chunks.append(chunk.data)

    async def look(self, yield_time_ms: int, most: int | None) -> tuple[bytes, int | None, bool]:
        """The output until its end or for that long, how many tokens it had, and whether it has ended."""
        return await collect_pty_output(
            output_chunks=self.chunks,
            output_lock=self.lock,
            output_notify=asyncio.Event(),
            is_done=lambda: self.attachment.exit is not None,
            yield_time_ms=yield_time_ms,
            max_output_tokens=most,
            poll_output=self.read,
            wait_for_output=_no_wait,
        )

    async def end(self) -> None:
        """Leave it, and end it with all it started."""
        await self.attachment.aclose()
        with suppress(bay.BayError):  # it has ended, with its sandbox or by itself
            await self.proc.kill()


class AttachedCommands:
    """The commands of one session, each under the number that the SDK's tools have for it."""

    def __init__(self, box: bay.AsyncBox) -> None:
        self._box = box
        self._running: dict[int, _AttachedCommand] = {}

    async def start(
        self,
        argv: Sequence[str],
        *,
        tty: bool,
        timeout_s: float | None,
        user: str | None,
        env: dict[str, str] | None,
        cwd: str,
        yield_time_s: float | None,
        most: int | None,
    ) -> PtyExecUpdate:
        """Start a command and look at it for the first time. When that is cancelled the command is ended."""
        try:
            proc = await self._box.spawn(
                argv, tty=tty, timeout_s=timeout_s, user=user, env=env, cwd=cwd, wait_for_reader=False
            )
            running = _AttachedCommand(proc, proc.attach(), tty)
            try:
                await running.attachment.__aenter__()
                number = await self._keep(running)
                wait_ms = _ms(FIRST_LOOK_S if yield_time_s is None else yield_time_s)
                return await self._look(number, running, clamp_pty_yield_time_ms(wait_ms), most)
            except BaseException:  # cancelled, say: nobody has heard its number
                self._running = {key: one for key, one in self._running.items() if one is not running}
                await running.end()
                raise
        except bay.BayError as error:
            raise ExecTransportError(command=argv, context={"detail": str(error)}, cause=error) from error

    async def write(
        self, number: int, chars: str, yield_time_s: float | None, most: int | None
    ) -> PtyExecUpdate:
        """Give a command input, if any, and look at it again. Raises PtySessionNotFoundError."""
        if (running := self._running.get(number)) is None:
            raise PtySessionNotFoundError(session_id=number)
        if chars and not running.tty:
            raise RuntimeError("stdin is not available for this process")  # the SDK's tool knows these words
        wait_ms = resolve_pty_write_yield_time_ms(
            yield_time_ms=_ms(LOOK_S if yield_time_s is None else yield_time_s), input_empty=not chars
        )
        try:
            if chars:
                with suppress(bay.Conflict):  # it has ended, as the look will say
                    await running.attachment.write(chars)
            return await self._look(number, running, wait_ms, most)
        except bay.BayError as error:
            argv = running.proc.info.argv
            raise ExecTransportError(command=argv, context={"detail": str(error)}, cause=error) from error

    async def end_all(self) -> None:
        """End every command."""
        ending, self._running = list(self._running.values()), {}
        for running in ending:
            await running.end()

    async def _keep(self, running: _AttachedCommand) -> int:
        """Its number; the SDK says how many there may be, and which of more is ended."""
        known = [(number, one.looked_at, one.exit_code is not None) for number, one in self._running.items()]
        number = allocate_pty_process_id(set(self._running))
        self._running[number] = running
        if len(known) >= PTY_PROCESSES_MAX and (oldest := process_id_to_prune_from_meta(known)) is not None:
            await self._running.pop(oldest).end()
        return number

    async def _look(
        self, number: int, running: _AttachedCommand, wait_ms: int, most: int | None
    ) -> PtyExecUpdate:
        output, tokens, is_over = await running.look(wait_ms, most)
        running.looked_at = time.monotonic()
        if is_over:
            self._running.pop(number, None)
            await running.attachment.aclose()
        return PtyExecUpdate(
            process_id=None if is_over else number,
            output=output,
            exit_code=running.exit_code,
            original_token_count=tokens,
        )


async def _no_wait(_: float) -> None:
    """Reading has waited already."""


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
