"""Forks a process for each order: the part that programs such as `bay_forker` share, which have loaded all
that their processes need.
"""

import gc
import json
import os
import signal
import socket
from typing import Any

MESSAGE_BYTES = 1 << 17
NUMBER_BYTES = 8
"""Of a pid or an exit code, so that two that are read late are still two."""


def next_order() -> dict[str, Any] | None:
    """The order of this process, which was forked for it and has its folder, environment and streams; None in
    the first process, at the end of the orders.
    """
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that wait
    with socket.socket(fileno=os.dup(0)) as orders:
        order = _next_to_be(orders)
    if order is not None:
        os.chdir(order["folder"])
        os.environ.clear()
        os.environ.update(order["environment"])
    return order


def _next_to_be(orders: socket.socket) -> dict[str, Any] | None:
    """Fork for each order; gives it in the process that is to be `bay`, and None at the end of the orders."""
    while True:
        message, descriptors, _, _ = socket.recv_fds(orders, MESSAGE_BYTES, 4)
        if not message:
            return None
        # Two forks: the one between waits for `bay`, and tells how it ended.
        if os.fork() == 0:
            *streams, status = descriptors
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            if (pid := os.fork()) == 0:
                orders.close()
                for standard, fd in enumerate(streams):
                    os.dup2(fd, standard)
                for fd in descriptors:
                    os.close(fd)
                return json.loads(message)
            _wait_for(pid, status)
        for fd in descriptors:
            os.close(fd)


def _wait_for(pid: int, status: int) -> None:
    """Never returns."""
    os.dup2(status, 3)
    os.closerange(4, 256)
    for standard in (0, 1, 2):
        os.close(standard)
    os.write(3, b"%*d" % (NUMBER_BYTES, pid))
    os.write(3, b"%*d" % (NUMBER_BYTES, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])))
    os._exit(0)
