"""Links and cookies open a port without a key. Both are sealed tokens, and Bay stores neither.

Each names one sandbox, one port and the key that made it, is sealed for its one use, and is good until it or
that key expires.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from bay.clock import Clock
from bay.server.web.sealed_tokens import SealedTokens

Kind = Literal["link", "cookie"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One port of one sandbox, until `expires_at` (whole seconds); `once` numbers a link that opens once."""

    sandbox_id: str
    port: int
    key_id: str
    expires_at: datetime
    once: str | None = None


class PortTokens(SealedTokens):
    """Seals passes into tokens and reads them; `open` it first."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def seal(self, kind: Kind, given: Pass) -> str:
        """The token of a pass."""
        seconds = int(given.expires_at.timestamp())
        return self.sealed(_use(kind), [given.sandbox_id, given.port, given.key_id, seconds, given.once])

    def read(self, kind: Kind, token: str) -> Pass | None:
        """The content of a token; None for one that was not sealed here as that kind, or has expired."""
        if (content := self.unsealed(_use(kind), token)) is None:
            return None
        sandbox_id, port, key_id, seconds, once = content
        expires_at = datetime.fromtimestamp(seconds, UTC)
        if expires_at <= self._clock():
            return None
        return Pass(sandbox_id=sandbox_id, port=port, key_id=key_id, expires_at=expires_at, once=once)


def _use(kind: Kind) -> str:
    return f"port-{kind}"
