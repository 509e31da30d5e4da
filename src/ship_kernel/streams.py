"""The kernel's sys.stdout, sys.stderr and sys.stdin, and the cell that a piece of output belongs to."""

from __future__ import annotations

import builtins
import codecs
import contextvars
import getpass
import io
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from ship_kernel.channel import Channel

_NO_INPUT = "nobody can type here: give the value in the code instead of asking for it with input()"

# Python's audit events.
_PROGRAMS_START = frozenset(
    ("subprocess.Popen", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.system")
)


class NoInput(RuntimeError):
    """Raised by input(): a kernel has no keyboard."""


class Attribution:
    """The cell of the code that prints: that of its asyncio task, of its thread, or the running one."""

    def __init__(self) -> None:
        self._here: contextvars.ContextVar[str] = contextvars.ContextVar("cell")
        self._running = ""

    def enter(self, cell: str) -> None:
        self._running = cell
        self._here.set(cell)

    def current(self) -> str:
        found = self._here.get("") or getattr(threading.current_thread(), "_ship_cell", "")
        return found or self._running

    def follow_threads(self) -> None:
        """Have each thread inherit the cell that started it, and each work item of a pool its submitter's."""
        self._follow_starts()
        self._follow_pools()

    def _follow_pools(self) -> None:
        submit = ThreadPoolExecutor.submit

        def submit_noted(
            pool: ThreadPoolExecutor, call: Callable[..., Any], /, *args: Any, **named: Any
        ) -> Future[Any]:
            return submit(pool, self._run_for, self.current(), call, *args, **named)

        ThreadPoolExecutor.submit = submit_noted  # pyright: ignore[reportAttributeAccessIssue]

    def _run_for(self, cell: str, call: Callable[..., Any], /, *args: Any, **named: Any) -> Any:
        token = self._here.set(cell)
        try:
            return call(*args, **named)
        finally:
            self._here.reset(token)

    def _follow_starts(self) -> None:
        start = threading.Thread.start

        def start_noted(thread: threading.Thread) -> None:
            thread.__dict__["_ship_cell"] = self.current()
            start(thread)

        threading.Thread.start = start_noted  # pyright: ignore[reportAttributeAccessIssue]


class Printed(io.TextIOBase):
    """A text stream whose text goes to Ship with the cell it belongs to."""

    def __init__(self, name: str, descriptor: int, channel: Channel, attribution: Attribution) -> None:
        self._name = name
        self._descriptor = descriptor
        self._channel = channel
        self._attribution = attribution
        self.buffer = PrintedBytes(self)

    @property
    def name(self) -> str:
        return f"<{self._name}>"

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"

    @property
    def errors(self) -> str:  # type: ignore[override]
        """How undecodable bytes are handled: half a character is replaced."""
        return "replace"

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        """The pipe, for programs that are started with this stream."""
        return self._descriptor

    def write(self, text: str, /) -> int:
        if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        if text:
            clean = text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
            self._channel.write(self._name, self._attribution.current(), clean)
        return len(text)

    def flush(self) -> None:
        self._channel.flush()


class PrintedBytes(io.RawIOBase):
    """`sys.stdout.buffer`: bytes of UTF-8."""

    def __init__(self, text: Printed) -> None:
        self._text = text
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        block = bytes(data)
        self._text.write(self._decoder.decode(block))
        return len(block)

    def flush(self) -> None:
        self._text.flush()


def install(channel: Channel, attribution: Attribution) -> None:
    sys.stdout = Printed("stdout", 1, channel, attribution)
    sys.stderr = Printed("stderr", 2, channel, attribution)
    builtins.input = _refuse_input
    getpass.getpass = _refuse_input
    attribution.follow_threads()


def settle_before_programs(channel: Channel) -> None:
    """Flush before a program is started, so that its output comes after."""

    def heard(event: str, _arguments: object) -> None:
        if event in _PROGRAMS_START:
            channel.settle()

    sys.addaudithook(heard)


def _refuse_input(*_args: object, **_kwargs: object) -> str:
    __tracebackhide__ = True  # IPython leaves such frames out
    raise NoInput(_NO_INPUT)
