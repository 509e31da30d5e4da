"""Reads the output of a container's first process while it starts: one line, `ready`, or an error."""

import asyncio
import os

from bay.errors import SandboxNotReady
from bay.linux.readiness import wait_readable

_READY = b"ready\n"
_KEPT = 8192


class StartOutput:
    """A pipe for the first process's stdout and stderr, which Bay reads while it starts.
    `writer` goes to the process; the reading end stays with Bay, so the end of the process is seen at once.
    """

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self.reader, False)

    def close_writer(self) -> None:
        """Close Bay's copy of the writing end; to be called once the process has its own."""
        if self.writer >= 0:
            os.close(self.writer)
            self.writer = -1

    def said(self) -> str:
        """The output so far, in words to end a message with; empty when there is none."""
        try:
            return _quoted(os.read(self.reader, _KEPT))
        except BlockingIOError:
            return ""

    async def wait_ready(self, session_id: str, timeout_s: float) -> None:
        """Return once the line has come. Raises SandboxNotReady with the other output instead."""
        said = b""
        try:
            async with asyncio.timeout(timeout_s):
                while not said.endswith(_READY):
                    await wait_readable(self.reader)
                    if not (more := os.read(self.reader, _KEPT)):
                        raise SandboxNotReady(f"Ship ended while session {session_id} started{_quoted(said)}")
                    said = (said + more)[-_KEPT:]
        except TimeoutError:
            late = f"Ship was not ready within {timeout_s:g} s in session {session_id}{_quoted(said)}"
            raise SandboxNotReady(late) from None

    def __enter__(self) -> "StartOutput":
        return self

    def __exit__(self, *_error: object) -> None:
        self.close_writer()
        os.close(self.reader)


def _quoted(said: bytes) -> str:
    text = said.decode(errors="replace").strip()
    return f"; it said: {text[-1000:]}" if text else ""
