"""Foreign wire formats: how requests below a prefix name their caller, and how their errors are worded.

A format changes nothing else. The edge bounds, audits and logs its requests as Bay's own, the scopes of keys
hold for them, and its routes call the same services.
"""

import re
from collections.abc import Callable, Iterable, MutableMapping
from dataclasses import dataclass
from typing import Any, Protocol

from starlette.responses import Response

from bay.errors import BayError
from bay.server.web.auth import Caller, Keys

Scope = MutableMapping[str, Any]

IN_STATE = "wire_format"
"""The name of the request's format in the scope's state; absent for Bay's own."""


class Headers(Protocol):
    """The headers of a request."""

    def one(self, name: str) -> str | None:
        """The header's value by its lower-case name. Raises BadRequest for one that came twice."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class WireFormat:
    """One foreign format. Its routes lie below `prefix`; patterns match the whole path."""

    prefix: str
    authenticate: Callable[[Keys, Scope, Headers], Caller | None]
    """The caller, or None for a route that needs none. Raises Unauthorized."""
    error: Callable[[BayError, str, Scope], Response]
    """The answer for an error, given the request's id."""
    uploads: re.Pattern[str] | None = None
    """Paths whose bodies may be as large as an upload."""
    streams: re.Pattern[str] | None = None
    """Paths whose bodies are passed on as they come, and kept nowhere: no limit holds for them."""
    readers: re.Pattern[str] | None = None
    """Paths that only read although their method or WebSocket could do more; a key of scope `read` opens
    them, and the audit leaves them out.
    """

    def has(self, path: str) -> bool:
        """Whether a path belongs to this format."""
        return path == self.prefix or path.startswith(f"{self.prefix}/")

    def only_reads(self, path: str) -> bool:
        """Whether a call of that path changes nothing, whatever its method."""
        return self.readers is not None and self.readers.fullmatch(path) is not None


def format_of(formats: Iterable[WireFormat], path: str) -> WireFormat | None:
    """The foreign format of a path; None for Bay's own."""
    return next((wire for wire in formats if wire.has(path)), None)


def in_scope(scope: Scope) -> WireFormat | None:
    """The foreign format of a request that the edge has seen; None for Bay's own."""
    return scope.get("state", {}).get(IN_STATE)
