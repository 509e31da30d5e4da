"""Whether a transaction took effect whose answer was lost: with its connection, or since its caller was gone.

A row may name files then, so they stay. The collections of garbage, or the next start, remove those that no
row names.
"""

import asyncio
from collections.abc import Awaitable, Callable

from bay.errors import BayError, DatabaseUnavailable
from bay.store.connection import StoreConnection
from bay.store.engine import Store


async def may_be_there(
    store: Store, error: BaseException, find: Callable[[StoreConnection], Awaitable[object]]
) -> bool:
    """Whether the row that `find` reads (None: there is none) may be there, although its transaction ended
    with `error`. Also while the database cannot say.
    """
    if not isinstance(error, DatabaseUnavailable | asyncio.CancelledError):
        return False
    try:
        # Not a reader: PostgreSQL takes a new writer only when the former one's commit is over.
        async with store.write() as db:
            return await find(db) is not None
    except BayError:
        return True
