"""Cursors of lists: opaque text for the place to go on from, of use only to the owner it was given to."""

import base64
import hashlib

from bay.errors import InvalidArgument


def encode(owner: str, after: int | None) -> str | None:
    """The cursor that goes on after row `after`; None at the end."""
    return encode_text(owner, None if after is None else str(after))


def decode(owner: str, cursor: str | None) -> int:
    """The row to go on after; 0 without a cursor. Raises InvalidArgument for one that Bay did not give this owner."""
    after = decode_text(owner, cursor) or "0"
    if not (after.isdecimal() and len(after) < 19):
        raise _unknown()
    return int(after)


def encode_text(owner: str, after: str | None) -> str | None:
    """The same for a place that is named by ASCII text."""
    if after is None:
        return None
    return base64.urlsafe_b64encode(f"{after}:{_mark(owner)}".encode()).decode("ascii").rstrip("=")


def decode_text(owner: str, cursor: str | None) -> str | None:
    """The same for a place that is named by ASCII text; None without a cursor."""
    if not cursor:
        return None
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        text = base64.urlsafe_b64decode(padded.encode("ascii")).decode("ascii")
    except ValueError:
        raise _unknown() from None
    after, _, mark = text.rpartition(":")
    if mark != _mark(owner):
        raise _unknown()
    return after


def _unknown() -> InvalidArgument:
    return InvalidArgument("this cursor was not given out by Bay; start again without one")


def _mark(owner: str) -> str:
    return hashlib.sha256(f"cursor:{owner}".encode()).hexdigest()[:8]
