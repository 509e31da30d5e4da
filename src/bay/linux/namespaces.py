"""Network namespaces: runs work inside one, in a thread that enters it and ends."""

import ctypes
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")

_CLONE_NEWNET = 0x4000_0000

_libc = ctypes.CDLL(None, use_errno=True)


def inside(netns_fd: int, function: Callable[[], T]) -> T:
    """The result of `function`, called in a thread inside the namespace behind `netns_fd`. Blocks.
    Sockets and /proc/sys/net belong to the namespace of the thread that opens them. No thread comes back from
    there: one that failed to would do the next sandbox's work in the wrong place.
    """
    return _in_thread("enter a sandbox's network", lambda: _libc.setns(netns_fd, _CLONE_NEWNET), function)


def inside_new(function: Callable[[], T]) -> T:
    """The result of `function`, called in a thread with a namespace that ends with it. Blocks."""
    return _in_thread("make a network namespace", lambda: _libc.unshare(_CLONE_NEWNET), function)


def _in_thread(what: str, enter: Callable[[], int], function: Callable[[], T]) -> T:
    done: Future[T] = Future()

    def work() -> None:
        try:
            if enter() < 0:
                number = ctypes.get_errno()
                raise OSError(number, f"{what}: {os.strerror(number)}")
            done.set_result(function())
        except BaseException as error:  # noqa: BLE001 - carried to the caller, whatever it is
            done.set_exception(error)

    thread = threading.Thread(target=work, name="bay-network-inside", daemon=True)
    thread.start()
    thread.join()
    return done.result()
