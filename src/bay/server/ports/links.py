"""Links and cookies open a port without a key. Both are sealed tokens, and Bay stores neither.

Each names one sandbox, one port and the key that made it, is sealed for its one use, and is good until it or
that key expires. The sealing key is a file in the data directory, as a database backup must not give access.
Removing it ends every link and cookie.
"""

import binascii
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from bay.clock import Clock
from bay.server.web.sealing import Seals

Kind = Literal["link", "cookie"]
_TAG_BYTES = 32
_LONGEST = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One port of one sandbox, until `expires_at` (whole seconds); `once` numbers a link that opens once."""

    sandbox_id: str
    port: int
    key_id: str
    expires_at: datetime
    once: str | None = None


class PortTokens:
    """Seals passes into tokens and reads them; `open` it first."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._seals = Seals(_TAG_BYTES)

    def open(self, path: Path, *, given: bool = False) -> None:
        """Take the sealing key from `path`, where a new one is written (0600) if there is none and the file
        was not `given` by an operator. Raises DriverUnavailable.
        """
        self._seals.open_file(path, given=given)

    @property
    def key_name(self) -> str:
        """The fingerprint of the sealing key."""
        return self._seals.key_name

    def seal(self, kind: Kind, given: Pass) -> str:
        """The token, of characters that need no quoting in a URL or a cookie."""
        content = [given.sandbox_id, given.port, given.key_id, int(given.expires_at.timestamp()), given.once]
        text = json.dumps(content, separators=(",", ":")).encode()
        return _encode(self._seals.seal(_use(kind), b"", text))

    def read(self, kind: Kind, token: str) -> Pass | None:
        """The content of a token; None for one that was not sealed here as that kind, or has expired."""
        text = self._seals.unseal(_use(kind), b"", _decode(token)) if len(token) <= _LONGEST else None
        if text is None:
            return None
        sandbox_id, port, key_id, seconds, once = json.loads(text)
        expires_at = datetime.fromtimestamp(seconds, UTC)
        if expires_at <= self._clock():
            return None
        return Pass(sandbox_id=sandbox_id, port=port, key_id=key_id, expires_at=expires_at, once=once)


def _use(kind: Kind) -> bytes:
    return f"port-{kind}".encode()


def _encode(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _decode(token: str) -> bytes:
    """The bytes of a token; none of text that `_encode` would not have written."""
    try:
        data = urlsafe_b64decode(token + "=" * (-len(token) % 4))
    except (binascii.Error, ValueError):
        return b""
    return data if _encode(data) == token else b""
