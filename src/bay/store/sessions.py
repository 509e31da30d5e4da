"""Database queries on sessions, the incarnations of a sandbox's compute."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, func, insert, select, update

from bay.store.connection import StoreConnection
from bay.store.records import SessionRecord
from bay.store.rows import values_of
from bay.store.schema import sandboxes, sessions

# Made once: to put a statement together costs about as much as to run it.
_ADD = insert(sessions)
_CHANGE = update(sessions).where(sessions.c.id == bindparam("of_id"))
_TARGET = select(sandboxes.c.target).where(sandboxes.c.id == sessions.c.sandbox_id)
_SAVE_HANDLE = _CHANGE.values(handle=bindparam("new_handle", type_=sessions.c.handle.type)).returning(
    _TARGET.scalar_subquery()
)

_AT_ONCE = 500


async def add(db: StoreConnection, session: SessionRecord) -> None:
    """Insert one session. Raises IntegrityError when its sandbox has a live one."""
    await db.execute(_ADD, values_of(sessions, session))


async def change(db: StoreConnection, session_id: str, **values: Any) -> None:
    """Set columns of one session."""
    await db.execute(_CHANGE, {"of_id": session_id, **values})


async def save_handle(db: StoreConnection, session_id: str, handle: dict[str, Any]) -> str:
    """Save the driver's handle. Returns the sandbox's present target, which may have changed meanwhile."""
    return (await db.execute(_SAVE_HANDLE, {"of_id": session_id, "new_handle": handle})).scalar_one()


async def live_ids(db: StoreConnection) -> set[str]:
    """Ids of the sessions that have not ended."""
    return set((await db.execute(select(sessions.c.id).where(sessions.c.ended_at.is_(None)))).scalars())


async def sandbox_of(db: StoreConnection, session_id: str) -> str | None:
    """The id of the sandbox that a session belongs to."""
    return (await db.execute(select(sessions.c.sandbox_id).where(sessions.c.id == session_id))).scalar()


async def token_of(db: StoreConnection, session_id: str) -> str | None:
    """The token of a session's Ship; None when there is no such session."""
    return (await db.execute(select(sessions.c.token).where(sessions.c.id == session_id))).scalar()


async def policy_versions(db: StoreConnection, session_ids: Iterable[str]) -> dict[str, int]:
    """The versions of the network policies of the sandboxes of those sessions that have not ended."""
    ids, found = list(session_ids), dict[str, int]()
    for start in range(0, len(ids), _AT_ONCE):
        query = (
            select(sessions.c.id, sandboxes.c.network_version)
            .join(sandboxes, sandboxes.c.id == sessions.c.sandbox_id)
            .where(sessions.c.id.in_(ids[start : start + _AT_ONCE]), sessions.c.ended_at.is_(None))
        )
        found |= {row.id: row.network_version for row in await db.execute(query)}
    return found


async def last_end(db: StoreConnection, sandbox_id: str) -> datetime | None:
    """When the last session of a sandbox ended, None when none has."""
    query = select(func.max(sessions.c.ended_at)).where(sessions.c.sandbox_id == sandbox_id)
    return (await db.execute(query)).scalar()
