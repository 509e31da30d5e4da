"""Resolves a session's row to its container, and to its Ship."""

from bay.drivers.base import Handle
from bay.server.ship.connection import Peer
from bay.store.records import SessionRecord


def peer_of(session: SessionRecord) -> Peer | None:
    """How to reach the session's Ship, None while it has none."""
    endpoint = Handle.from_json(session.handle).endpoint if session.handle else None
    return Peer(session_id=session.id, endpoint=endpoint, token=session.token) if endpoint else None


def handle_of(session: SessionRecord) -> Handle:
    """The saved handle, or the bare one that every driver understands."""
    if session.handle is not None:
        return Handle.from_json(session.handle)
    return Handle(driver=session.driver, session_id=session.id)
