"""Fences: writes of work under a lease change nothing once another process has that lease.

The work's task carries its fence, and each transaction that the task opens begins with a look at the lease.
No other process takes it before the transaction has ended, since to take one is such a transaction too.
"""

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from sqlalchemy import func, select

from bay.store.connection import StoreConnection
from bay.store.schema import leases


@dataclass(frozen=True, slots=True)
class WriteFence:
    """A lease as a replica has it. `epoch` grows by one each time that the lease changes hands."""

    lease: str
    holder: str
    epoch: int


class LeaseLost(Exception):
    """Another process may do this work by now. No BayError: it is no caller's, and no sandbox's."""


_FENCE = ContextVar[WriteFence | None]("fence", default=None)


@contextmanager
def fenced(fence: WriteFence | None) -> Generator[None]:
    """Have the transactions of the block, and of the tasks that it makes, begin with a look at that lease."""
    token = _FENCE.set(fence)
    try:
        yield
    finally:
        _FENCE.reset(token)


def present() -> WriteFence | None:
    """The fence of the present task; None for work that needs no lease."""
    return _FENCE.get()


async def check(db: StoreConnection) -> None:
    """Raises LeaseLost where the present task's lease is over, or another's by now."""
    fence = _FENCE.get()
    if fence is None:
        return
    held = (leases.c.name == fence.lease, leases.c.holder == fence.holder, leases.c.epoch == fence.epoch)
    query = select(leases.c.name).where(*held, leases.c.until > func.clock_timestamp())
    if (await db.execute(query)).first() is None:
        raise LeaseLost(fence.lease)
