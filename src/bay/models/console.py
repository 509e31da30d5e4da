"""The sign-in of a browser, and the codes by which one begins."""

from dataclasses import dataclass, field
from datetime import datetime

from bay.models.keys import KeyScope


@dataclass(frozen=True, slots=True, kw_only=True)
class SignIn:
    """As whom a browser calls. `expires_at` is the end of its cookie or of its key, whichever comes first;
    None for a caller without a cookie whose key never expires. `version` is the server's.
    """

    owner: str
    scope: KeyScope
    key_id: str
    key_name: str
    expires_at: datetime | None
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsoleCode:
    """A code that signs one browser in, once; `url` opens the console with it."""

    code: str = field(repr=False)
    url: str = field(repr=False)
    expires_at: datetime
