"""What opens a port without a key: links, and the cookies that they set. Both are signed, and nothing of them is stored.

Each names one sandbox, one port and the key that made it, and is good until it expires, as long as that key is. A link is no
cookie and a cookie no link, since what is signed begins with which of the two it is. The signing key lies in the data
directory; whoever removes it ends all of them.
"""

import hashlib
import hmac
import json
import os
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from bay.clock import Clock

Kind = Literal["link", "cookie"]
_KEY_BYTES = 32
_LONGEST = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One port of one sandbox, until `expires_at` (whole seconds). `once` is the number of a link that opens once."""

    sandbox_id: str
    port: int
    key_id: str
    expires_at: datetime
    once: str | None = None


class PortTokens:
    """Signs passes and reads them; `open` it first."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._key = secrets.token_bytes(_KEY_BYTES)

    def open(self, path: Path) -> None:
        """Take the signing key from `path`, where a new one is put (0600) if there is none."""
        self._key = _read_key(path) or _new_key(path)

    def seal(self, kind: Kind, given: Pass) -> str:
        """The token, of characters that need no quoting in a URL or a cookie."""
        content = [
            given.sandbox_id,
            given.port,
            given.key_id,
            int(given.expires_at.timestamp()),
            given.once,
        ]
        text = _encode(json.dumps(content, separators=(",", ":")).encode())
        return f"{text}.{_encode(self._sign(kind, text))}"

    def read(self, kind: Kind, token: str) -> Pass | None:
        """What a token says; None for one that was not signed here as that kind, or has expired."""
        text, _, signature = token.partition(".")
        if len(token) > _LONGEST or not token.isascii():
            return None
        if not hmac.compare_digest(_encode(self._sign(kind, text)), signature):
            return None
        sandbox_id, port, key_id, seconds, once = json.loads(urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        expires_at = datetime.fromtimestamp(seconds, UTC)
        if expires_at <= self._clock():
            return None
        return Pass(sandbox_id=sandbox_id, port=port, key_id=key_id, expires_at=expires_at, once=once)

    def _sign(self, kind: Kind, text: str) -> bytes:
        return hmac.digest(self._key, f"bay-port-{kind}.{text}".encode(), hashlib.sha256)


def _encode(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _read_key(path: Path) -> bytes | None:
    """The key, None where there is none or a write of one was cut off."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        key = file.read(_KEY_BYTES + 1)
    return key if len(key) == _KEY_BYTES else None


def _new_key(path: Path) -> bytes:
    key = secrets.token_bytes(_KEY_BYTES)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(key)
    return key
