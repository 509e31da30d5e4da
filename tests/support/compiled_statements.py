"""All Stores of a process share the SQL that was compiled: a test has a Store of its own, and a third of the
processor time of the server's tests went into compiling the same statements again.
"""

from collections.abc import Callable
from functools import wraps
from pathlib import Path

from sqlalchemy import Engine

from bay.store import sqlite

_Make = Callable[[Path], Engine]


def share() -> None:
    """From now on Stores are made so. Readers and writers have dialects of their own, as in each Store."""
    for name in ("_reading_engine", "_writing_engine"):
        setattr(sqlite, name, _sharing(getattr(sqlite, name)))


def _sharing(make: _Make) -> _Make:
    first: Engine | None = None

    @wraps(make)
    def made(path: Path) -> Engine:
        nonlocal first
        found = make(path)
        first = first or found
        # SQL is found by its dialect and its statement.
        found.dialect = first.dialect
        found._compiled_cache = first._compiled_cache  # pyright: ignore
        return found

    return made
