"""Network namespaces: runs work inside one, in a thread that enters it and ends."""

import ctypes
import os
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_CLONE_NEWNET = 0x4000_0000

_libc = ctypes.CDLL(None, use_errno=True)


def inside(netns_fd: int, function: Callable[[], T]) -> T:
    """The result of `function`, called in a thread inside the namespace behind `netns_fd`. Blocks.

    Sockets and /proc/sys/net belong to the namespace of the thread that opens them. No thread comes back from
    there: one that failed to would do the next sandbox's work in the wrong place.
    """

    def work() -> T:
        if _libc.setns(netns_fd, _CLONE_NEWNET) < 0:
            number = ctypes.get_errno()
            raise OSError(number, f"enter a sandbox's network: {os.strerror(number)}")
        return function()

    return _in_thread(work)


def inside_new(function: Callable[[], T]) -> T:
    """The result of `function`, called in a thread with a namespace of its own, which ends with it.

    Blocks.
    """

    def work() -> T:
        if _libc.unshare(_CLONE_NEWNET) < 0:
            number = ctypes.get_errno()
            raise OSError(number, f"make a network namespace: {os.strerror(number)}")
        return function()

    return _in_thread(work)


def _in_thread(work: Callable[[], T]) -> T:
    results: list[T] = []
    errors: list[BaseException] = []

    def carried() -> None:
        try:
            results.append(work())
        except BaseException as error:  # noqa: BLE001 - carried to the caller, whatever it is
            errors.append(error)

    thread = threading.Thread(target=carried, name="bay-network-inside", daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
