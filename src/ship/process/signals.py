"""Signal handlers on the event loop, safe when thousands of signals come at once.

asyncio sends each signal as a byte through a socket: in a storm of dying children the socket fills, the
interpreter warns of each byte that does not fit, and a TERM among them is lost. Here the bytes only wake the
loop; the interpreter remembers pending signals, and each is handled once, however often it came.
"""

import asyncio
import os
import signal
from collections.abc import Callable, Iterable

from ship.process import syscalls

_SI_USER = 0  # sigaction(2)


class Signals:
    """Calls back on the loop. To be made in the main thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: set[int] = set()
        # The only public way to have asyncio set the descriptor up.
        self._loop.add_signal_handler(signal.SIGTERM, lambda: None)
        signal.set_wakeup_fd(signal.set_wakeup_fd(-1), warn_on_full_buffer=False)

    def on(self, number: int, call: Callable[[], None]) -> None:
        """From now on signal `number` leads to `call`, at least once after the last of them."""

        def heard(_number: int, _frame: object) -> None:
            if number not in self._waiting:
                self._waiting.add(number)
                self._loop.call_soon_threadsafe(self._hand_on, number, call)

        signal.signal(number, heard)
        signal.siginterrupt(number, False)

    def on_outside(self, numbers: Iterable[int], call: Callable[[], None]) -> None:
        """From now on each of `numbers` leads to `call` when it comes from outside of this pid namespace, and
        to nothing from a program inside. Call before another thread starts.
        """
        signals = frozenset(numbers)
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        descriptor = syscalls.signal_descriptor(signals)
        self._loop.add_reader(descriptor, self._read_one, descriptor, call)

    def _read_one(self, descriptor: int, call: Callable[[], None]) -> None:
        code, pid = syscalls.origin_of_signal(os.read(descriptor, syscalls.SIGNAL_BYTES))
        # A sender may claim any pid with any code but that of kill(2), whose pid the kernel fills in: 0 for a
        # process that this namespace does not have (rt_sigqueueinfo(2), pid_namespaces(7)).
        if code == _SI_USER and pid == 0:
            call()

    def _hand_on(self, number: int, call: Callable[[], None]) -> None:
        self._waiting.discard(number)
        call()
