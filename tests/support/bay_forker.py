"""Forks a `bay` for each order: a program for `forked_bay`, not a test. It has everything imported."""

import atexit
import functools
import gc
import importlib
import inspect
import itertools
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Never

import bay.drivers.oci.driver
import bay.server.app
import bay.server.main
from bay.cli.main import main

LOADED = (bay.drivers.oci.driver, bay.server.app, bay.server.main)
MESSAGE_BYTES = 1 << 17
NUMBER_BYTES = 8
"""Of a pid or an exit code, so that two that are read late are still two."""


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


def _make_deadly(place: str, when: str, count: int) -> None:
    """Have the process killed before or after the call of that number of a function, `module:Class.name`."""
    module, _, path = place.partition(":")
    *way, name = path.split(".")
    owner = functools.reduce(getattr, way, importlib.import_module(module))
    original = getattr(owner, name)
    calls = itertools.count(1)

    def die(at: str, number: int) -> None:
        if (at, number) == (when, count):
            os.kill(os.getpid(), signal.SIGKILL)

    def call(*arguments: Any, **named: Any) -> Any:
        die("before", number := next(calls))
        result = original(*arguments, **named)
        die("after", number)
        return result

    async def call_and_wait(*arguments: Any, **named: Any) -> Any:
        die("before", number := next(calls))
        result = await original(*arguments, **named)
        die("after", number)
        return result

    deadly: Callable[..., Any] = call_and_wait if inspect.iscoroutinefunction(original) else call
    setattr(owner, name, functools.wraps(original)(deadly))


def _work() -> int:
    gc.freeze()  # as `bay` does with all that it has loaded
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that wait
    with socket.socket(fileno=os.dup(0)) as orders:
        order = _next_to_be(orders)
    if order is None:
        return 0
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ.update(order["environment"])
    if order["dies"] is not None:
        _make_deadly(*order["dies"])
    sys.argv = [str(Path(sys.executable).with_name("bay")), *order["arguments"]]
    return main()


def _end(code: int) -> Never:
    """As Python ends, but it does not take apart all that is loaded: that took most of a short command."""
    threading._shutdown()  # pyright: ignore  # waits for the threads that are no daemons
    atexit._run_exitfuncs()
    with suppress(OSError, ValueError):
        sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    try:
        _end(_work())
    except SystemExit as ended:
        _end(ended.code if isinstance(ended.code, int) else ended.code is not None)
