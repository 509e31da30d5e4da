"""Ship's log for people: a line on stderr, dropped when it does not fit: the other end may not be read."""

import os
import select

_ATOMIC = 4096  # PIPE_BUF: a writable pipe takes this much without blocking


def note(event: str) -> None:
    line = f"ship: {event}\n".encode("utf-8", "replace")[:_ATOMIC]
    poll = select.poll()
    try:
        poll.register(2, select.POLLOUT)
        if any(ready & select.POLLOUT for _fd, ready in poll.poll(0)):
            os.write(2, line)
    except OSError:
        return


def describe(error: BaseException) -> str:
    """Where `error` was raised and its type; not its text, which may have a caller's data."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f" at {trace.tb_frame.f_code.co_qualname}:{trace.tb_lineno}" if trace else ""
    return f"{type(error).__name__}{where}"
