"""Follows a command: its output on stdout and stderr, this stdin as its input, its end as an exit code."""

import os
import select
import sys
import threading
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from bay.cli.output import note, print_json
from bay.errors import BayError, Conflict, NotFound, OutputGone

if TYPE_CHECKING:
    from bay.client import Proc
    from bay.models import Exec, OutputChunk

TIMED_OUT = 124
"""The exit code of timeout(1)."""

INCOMPLETE = 1
"""The exit code for a command that succeeded, but whose output is incomplete."""

STOP_S = 2.0
"""How long an unfinished write may hold up the end."""

_READ_BYTES = 256 << 10
_PAUSE_MS = 50


class Passing:
    """Passes output on, each stream to its own, and counts the bytes missing from it.
    It counts from `since` on, or from where the output begins.
    """

    def __init__(self, as_json: bool, since: int | None = None) -> None:
        self._as_json = as_json
        self.next = since
        self.lost = 0

    def all_of(self, chunks: "Iterable[OutputChunk]") -> None:
        """Pass all chunks on."""
        for chunk in chunks:
            self._skip_to(chunk.offset)
            self.next = chunk.offset + len(chunk.data)
            print_json(chunk) if self._as_json else _pass_on(chunk)

    def skip(self, gone: OutputGone) -> None:
        """Go on where output is kept again. Raises `gone` when that is nowhere."""
        first = gone.details.get("first_offset")
        if not isinstance(first, int) or first <= (self.next or 0):
            raise gone
        self._skip_to(first)

    def _skip_to(self, offset: int) -> None:
        if self.next is None and offset:
            note(f"the first {offset} bytes of output are no longer kept")
        self.lost += offset - (offset if self.next is None else self.next)
        self.next = offset


def follow(proc: "Proc", as_json: bool, since: int | None = None, *, until_end: bool = True) -> int:
    """Pass output on until it ends, or without `until_end` as far as it is there; returns the lost bytes.
    The command waits for us: bytes are lost where a connection was broken for too long.
    """
    passing = Passing(as_json, since)
    while True:
        try:
            passing.all_of(proc.output(passing.next, follow=until_end, wait_for_reader=until_end or None))
            return passing.lost
        except OutputGone as gone:
            passing.skip(gone)


def unless_lost(code: int, lost: int) -> int:
    """The exit code after output was passed on: not 0 when `lost` bytes of it are missing, with a note."""
    if not lost:
        return code
    note(f"{lost} bytes of output were lost on the way")
    return code or INCOMPLETE


@contextmanager
def killed_with_us(proc: "Proc") -> Generator[None, None, None]:
    """Kill the command when a signal ends us, or when the reader of its output has left."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, OSError):
        with suppress(BayError):
            proc.kill()
        raise


@contextmanager
def pump(proc: "Proc", *, wanted: bool) -> Generator[None, None, None]:
    """Send stdin to the command, in a thread, and its end. Raises the error that kept it from that."""
    if not wanted:
        yield
        return
    pumping = _Pump(proc)
    thread = threading.Thread(target=pumping.run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        pumping.stop()
        thread.join(STOP_S)
    if pumping.failure is not None:
        raise pumping.failure


class _Pump:
    """Reads the descriptor itself, past Python's buffer, and never waits where it cannot be stopped."""

    def __init__(self, proc: "Proc") -> None:
        self._proc = proc
        # Where stdin is closed there is nothing on it.
        self._source = -1 if sys.stdin is None else sys.stdin.fileno()
        self._stop_read, self._stop_write = os.pipe2(os.O_CLOEXEC)
        self._at_end = False
        self.failure: BayError | OSError | None = None

    def run(self) -> None:
        """Pass input on, until its end or until `stop`."""
        try:
            while data := self._read():
                self._proc.feed(self._burst(data))
            if data is not None:
                self._proc.close_stdin()
        except (Conflict, NotFound):
            pass  # it has ended, or has closed its stdin
        except (BayError, OSError) as error:
            self.failure = error
            # It would wait for the rest for ever.
            with suppress(BayError):
                self._proc.kill()
        finally:
            os.close(self._stop_read)

    def stop(self) -> None:
        """Stop; unread input stays unread."""
        os.close(self._stop_write)

    def _burst(self, data: bytes) -> Iterator[bytes]:
        """`data` and what follows without a pause, in one request: proxies may hold one back to its end."""
        yield data
        while self._is_ready(_PAUSE_MS):
            data = os.read(self._source, _READ_BYTES)
            if not data:
                self._at_end = True
                return
            yield data

    def _read(self) -> bytes | None:
        """The next input; empty at its end, None after `stop`."""
        if self._source < 0 or self._at_end:
            return b""
        return os.read(self._source, _READ_BYTES) if self._is_ready(None) else None

    def _is_ready(self, timeout_ms: int | None) -> bool:
        """Whether input, or its end, is there within that time; False after `stop`."""
        poll = select.poll()
        poll.register(self._stop_read, select.POLLIN)
        poll.register(self._source, select.POLLIN)
        ready = [fd for fd, _ in poll.poll(timeout_ms)]
        return self._source in ready and self._stop_read not in ready


def _pass_on(chunk: "OutputChunk") -> None:
    stream = sys.stderr if chunk.stream == "stderr" else sys.stdout
    stream.buffer.write(chunk.data)
    stream.buffer.flush()


def say_end(info: "Exec") -> None:
    """How it ended, as one line of JSON."""
    facts = {name: getattr(info, name) for name in ("state", "exit_code", "signal", "timed_out")}
    print_json({"exec_id": info.id, **facts})


def exit_code(info: "Exec") -> int:
    """The exit code that a shell would give. Raises BayError for an unknown end."""
    if info.timed_out:
        note("the command ran out of time and was ended")
        return TIMED_OUT
    if info.signal is not None:
        return 128 + info.signal
    if info.exit_code is None:
        raise BayError(f"{info.id} was lost: its sandbox stopped before the command ended")
    return info.exit_code
