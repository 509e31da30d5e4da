"""Signal handlers on the event loop, safe when thousands of signals come at once.

asyncio sends each signal as a byte through a socket: in a storm of dying children the socket fills, the
interpreter warns of each byte that does not fit, and a TERM among them is lost. Here the bytes only wake the
loop; the interpreter remembers pending signals, and each is handled once, however often it came.
"""

import asyncio
import signal
from collections.abc import Callable


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

    def _hand_on(self, number: int, call: Callable[[], None]) -> None:
        self._waiting.discard(number)
        call()
