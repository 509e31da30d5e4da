"""Cursors of lists: opaque text for the place to go on from, of use only to the owner it was given to."""

import base64
import hashlib

from bay.errors import InvalidArgument


def encode(owner: str, after: int | None) -> str | None:
    """The cursor that goes on after row `after`; None at the end."""
    if after is None:
        return None
    return base64.urlsafe_b64encode(f"{after}:{_mark(owner)}".encode()).decode("ascii").rstrip("=")


def decode(owner: str, cursor: str | None) -> int:
    """The row to go on after; 0 without a cursor. Raises InvalidArgument for one that Bay did not give this owner."""
    if not cursor:
        return 0
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        after, mark = base64.urlsafe_b64decode(padded.encode("ascii")).decode("ascii").split(":")
        if mark == _mark(owner) and after.isdecimal() and len(after) < 19:
            return int(after)
    except ValueError:
        pass
    raise InvalidArgument("this cursor was not given out by Bay; start again without one")


def _mark(owner: str) -> str:
    return hashlib.sha256(f"cursor:{owner}".encode()).hexdigest()[:8]
