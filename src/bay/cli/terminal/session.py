"""Joins a terminal of a sandbox to the terminal of this machine.

Three threads, so that none of them waits for another: the main one has the keyboard and the signals, one
sends the input, one shows the output. Input that cannot be sent yet waits, up to a bound; the detach keys and
signals work all the same.
"""

import os
import queue
import select
import signal
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from bay.cli.follow import exit_code
from bay.cli.interrupt import Handler, signal_handlers
from bay.cli.output import note
from bay.cli.terminal.detach_keys import DetachKeys
from bay.cli.terminal.raw import OutputModes, RawTerminal, is_terminal, window_size, write_all
from bay.errors import BayError, Conflict, ConnectionFailed, InvalidArgument, NotFound

if TYPE_CHECKING:
    from bay.client import Attachment

STDIN, STDOUT = 0, 1
ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)
LONGEST_TYPED = 64
"""How many reads of the keyboard may wait to be sent."""

_READ_BYTES = 16 << 10
_RESIZE_PAUSE_S = 0.05
"""Between two sizes: a window that is dragged has many, and the server closes on a flood."""


def need_terminal(what: str = "-t", instead: str = "leave -t out") -> None:
    """Raises InvalidArgument when there is no terminal to give to the program."""
    if not (is_terminal(STDIN) and is_terminal(STDOUT)):
        raise InvalidArgument(f"{what} needs a terminal on stdin and stdout; {instead}")


class TerminalSession:
    """One attachment on this terminal, from its beginning to its end or to the detach keys."""

    def __init__(self, attachment: "Attachment", keys: bytes) -> None:
        self._attachment = attachment
        self._keys = DetachKeys(keys)
        self._typed: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        """Its `put` may be called in a signal handler, at any moment of the thread.

        Empty items only wake the sender.
        """
        self._modes = OutputModes()
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._resized = False
        self._over = threading.Event()
        self._failure: BaseException | None = None
        self._hung_up = False
        self.is_in_a_line = False
        """Whether something stands where the next line would be written, such as a shell's prompt."""

    def run(self) -> bool:
        """Whether it ended, rather than being detached from.
        Raises the error of a session that broke; the terminal is restored in any case.
        """
        terminal = RawTerminal(STDIN)
        with self._signals(terminal), terminal:
            try:
                self._threads()
                ended = self._keyboard()
            finally:
                self._over.set()
                self._typed.put(b"")
                with suppress(OSError):
                    write_all(STDOUT, self._modes.undo())
        if self._failure is not None:
            raise self._failure
        return ended

    def _threads(self) -> None:
        for work in (self._show, self._send):
            threading.Thread(target=self._guarded, args=(work,), daemon=True).start()

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except (BayError, OSError) as error:
            if not self._over.is_set():
                self._failure = error
        finally:
            # The session cannot go on without this thread, for any reason.
            self._over.set()
            self._wake()

    def _show(self) -> None:
        for chunk in self._attachment:
            if self._over.is_set():
                return
            self._modes.feed(chunk.data)
            write_all(STDOUT, chunk.data)
            self.is_in_a_line = not chunk.data.endswith(b"\n")

    def _send(self) -> None:
        while not self._over.is_set():
            typed = self._typed.get()
            self._wake()
            if self._resized:
                self._resized = False
                self._tell(lambda: self._attachment.resize(*window_size(STDOUT)))
                self._over.wait(_RESIZE_PAUSE_S)
            if typed:
                self._tell(partial(self._attachment.write, typed))

    def _tell(self, act: Callable[[], None]) -> None:
        """Send something. Keys that were under way when the connection broke are lost, as on any line."""
        with suppress(ConnectionFailed, Conflict):
            act()

    def _keyboard(self) -> bool:
        """Read keys until it is over; False when the detach keys were typed."""
        poll = select.poll()
        poll.register(self._wake_read, select.POLLIN)
        listening = False
        while not self._over.is_set() and self._failure is None:
            wanted = not (self._typed.qsize() >= LONGEST_TYPED or self._hung_up)
            if wanted != listening:
                poll.register(STDIN, select.POLLIN) if wanted else poll.unregister(STDIN)
                listening = wanted
            ready = [fd for fd, _ in poll.poll()]
            if self._wake_read in ready:
                self._drain()
            if STDIN in ready and self._read_keys():
                return False
        return True

    def _read_keys(self) -> bool:
        try:
            typed = os.read(STDIN, _READ_BYTES)
        except OSError:
            typed = b""
        self._hung_up = not typed
        send, detached = self._keys.feed(typed)
        if send:
            self._typed.put(send)
        return detached

    def _drain(self) -> None:
        with suppress(BlockingIOError):
            while os.read(self._wake_read, 4096):
                pass

    def _wake(self) -> None:
        with suppress(BlockingIOError):
            os.write(self._wake_write, b"!")

    def _resize(self, number: int, frame: FrameType | None) -> None:
        self._resized = True
        self._typed.put(b"")

    def _signals(self, terminal: RawTerminal) -> AbstractContextManager[None]:
        def stop(number: int, frame: FrameType | None) -> None:
            terminal.give_back()
            # To this thread, so that it stops here and not a moment later. The SIGCONT may come to another
            # thread, which does not wake this one where it waits: so it resumes from here as well.
            signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
            go_on(number, frame)

        def go_on(number: int, frame: FrameType | None) -> None:
            terminal.take()
            self._resize(number, frame)

        handlers: Mapping[signal.Signals, Handler] = dict.fromkeys(ENDING, _leave) | {
            signal.SIGWINCH: self._resize,
            signal.SIGTSTP: stop,
            signal.SIGCONT: go_on,
        }
        return signal_handlers(handlers, self._wake_write)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    """Unwind, so that the terminal is given back; a second signal does not disturb that."""
    for ending in ENDING:
        signal.signal(ending, signal.SIG_IGN)
    raise SystemExit(128 + number)


def on_terminal(name: str, attachment: "Attachment", keys: bytes) -> int:
    """Attach this terminal to a command of the sandbox `name`; its exit code, 0 after the detach keys."""
    with attachment:
        exec_id = attachment.info.id
        session = TerminalSession(attachment, keys)
        try:
            ended = session.run()
        except NotFound:
            raise
        except BayError:
            say_how_to_come_back(name, exec_id, in_a_line=session.is_in_a_line)
            raise
    if ended:
        return exit_code(attachment.info)
    say_how_to_come_back(name, exec_id, in_a_line=session.is_in_a_line)
    return 0


def say_how_to_come_back(name: str, exec_id: str, *, in_a_line: bool = False) -> None:
    """On stderr, where there still is one, and on a line of its own."""
    with suppress(OSError):
        if in_a_line:
            write_all(STDOUT, b"\n")
        note(f"{exec_id} still runs; reattach with: bay attach {name} {exec_id}")
