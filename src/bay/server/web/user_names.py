"""Checks the user a program is to run as, as far as Bay can without the sandbox. Ship checks the rest."""

import re

from bay.errors import BadRequest, Forbidden

MAX_USER = 65
_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}"
_USER = re.compile(rf"{_NAME}(?::{_NAME})?")


def check_user(user: str | None) -> None:
    """Raises BadRequest for what names no user."""
    if user is not None and _USER.fullmatch(user) is None:
        raise BadRequest(
            "user must be a name or a uid of the sandbox's /etc/passwd, or USER:GROUP",
            details={"field": "user"},
        )


def check_allowed(user: str | None, *, root: bool) -> None:
    """Raises Forbidden for root, and for a chosen group, where the profile does not allow `root`."""
    if user is not None and not root and (user in ("root", "0") or ":" in user):
        raise Forbidden(
            f"the sandbox's profile does not allow root, which user {user} needs", details={"field": "user"}
        )
