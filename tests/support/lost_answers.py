"""A database whose answer to one transaction is lost, as when its connection breaks at the commit."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from bay.errors import DatabaseUnavailable
from bay.store.connection import StoreConnection
from bay.store.engine import Store


def lose_answer(
    monkeypatch: pytest.MonkeyPatch, store: Store, of: Any, name: str, *, committed: bool, then_away: int = 0
) -> list[bool]:
    """Lose the answer to the first transaction that calls `of.name`; `then_away` more are refused. The list
    is empty once all that has happened.
    """
    write, call = store.write, getattr(of, name)
    left = [False] * (1 + then_away)

    async def called(*args: Any, **options: Any) -> Any:
        if len(left) == 1 + then_away:
            left[-1] = True
        return await call(*args, **options)

    @asynccontextmanager
    async def lost() -> AsyncGenerator[StoreConnection]:
        if left and len(left) <= then_away:
            left.pop()
            raise DatabaseUnavailable("Bay's database cannot be used just now")
        async with write() as db:
            yield db
            if left and left[-1] and not committed:
                left.pop()
                raise DatabaseUnavailable("Bay's database cannot be used just now")
        if left and left[-1]:
            left.pop()
            raise DatabaseUnavailable("Bay's database cannot be used just now")

    monkeypatch.setattr(of, name, called)
    monkeypatch.setattr(store, "write", lost)
    return left
