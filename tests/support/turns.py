"""Turns on the machine, among all workers of a run of the tests: of one test that starves others beside it,
or of any number of others.
"""

import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache

import shared_cache


@contextmanager
def turn(*, alone: bool) -> Generator[None]:
    """Hold the machine; with `alone` no other test begins until those that run have ended, nor meanwhile."""
    gate, machine = _locks()
    fcntl.flock(gate, fcntl.LOCK_EX)
    try:
        fcntl.flock(machine, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
    finally:
        fcntl.flock(gate, fcntl.LOCK_UN)
    try:
        yield
    finally:  # a process that was forked meanwhile has the descriptor too, so it is not enough to close it
        fcntl.flock(machine, fcntl.LOCK_UN)


@cache
def _locks() -> tuple[int, int]:
    """Descriptors of this worker's own."""
    path = shared_cache.path()
    gate, machine = (
        os.open(path / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC) for name in ("gate", "machine")
    )
    return gate, machine
