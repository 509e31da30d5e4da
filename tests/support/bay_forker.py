"""Forks a `bay` for each order: a program for `forked_bay`, not a test. It has everything imported."""

import atexit
import functools
import importlib
import inspect
import itertools
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Never

import forked_bay
import forker

import bay.drivers.oci.driver
import bay.server.app
import bay.server.main
from bay.cli.main import main
from bay.store import versions

LOADED = (bay.drivers.oci.driver, bay.server.app, bay.server.main)


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
    if (order := forker.next_order()) is None:
        return 0
    if order["dies"] is not None:
        _make_deadly(*order["dies"])
    if (migrations := os.environ.pop(forked_bay.MIGRATIONS, None)) is not None:
        versions.MIGRATIONS = Path(migrations)
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
