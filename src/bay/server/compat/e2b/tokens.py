"""The two tokens of a sandbox, which open its planes without a key of Bay.

Both are sealed from the sandbox, its owner and the key that asked, so nothing of them is stored: the same
three give the same token for ever, and it ends with the key or the sandbox. The sealing key is that of the
links of ports, a file, as a backup of the database must not give access.
"""

import hashlib
import hmac
import json
from base64 import b64encode, urlsafe_b64decode, urlsafe_b64encode
from binascii import Error
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from bay.server.web.auth import Caller
from bay.server.web.sealing import Seals

TokenKind = Literal["envd", "traffic"]
_TAG_BYTES = 32
_LONGEST = 512
_KEPT = 16_384
"""Tokens that stay in memory: to find who signed a URL, all of them are tried for callers without a key."""


@dataclass(frozen=True, slots=True)
class Signed:
    """A signed URL's claim: who may do what with which path, until when."""

    signature: str
    path: str
    operation: Literal["read", "write"]
    user: str
    expiration: str | None

    def is_of(self, token: str) -> bool:
        """Whether that token signed it."""
        parts = [self.path, self.operation, self.user, token]
        if self.expiration is not None:
            parts.append(self.expiration)
        digest = hashlib.sha256(":".join(parts).encode("utf-8", "surrogateescape")).digest()
        made = "v1_" + b64encode(digest).rstrip(b"=").decode()
        return hmac.compare_digest(made.encode(), self.signature.encode("utf-8", "surrogateescape"))


class SandboxTokens:
    """Makes and reads tokens; `open` it first."""

    def __init__(self) -> None:
        self._seals = Seals(_TAG_BYTES)
        self._sealed = lru_cache(maxsize=_KEPT)(self._seal)

    def open(self, path: Path, *, given: bool = False) -> None:
        """Take the sealing key from `path`, where a new one is written (0600) if there is none and the file
        was not `given` by an operator. Raises DriverUnavailable.
        """
        self._seals.open_file(path, given=given)
        self._sealed.cache_clear()

    def token(self, kind: TokenKind, sandbox_id: str, owner: str, key_id: str) -> str:
        """The token, of characters that need no quoting in a header or a URL."""
        return self._sealed(kind, sandbox_id, owner, key_id)

    def _seal(self, kind: TokenKind, sandbox_id: str, owner: str, key_id: str) -> str:
        content = json.dumps([sandbox_id, owner, key_id], separators=(",", ":")).encode()
        return _encode(self._seals.seal(_use(kind), b"", content))

    def caller(self, kind: TokenKind, sandbox_id: str, token: str) -> Caller | None:
        """Whom a token of that sandbox speaks for; None for any other text. The key may be gone meanwhile."""
        content = self._seals.unseal(_use(kind), b"", _decode(token)) if len(token) <= _LONGEST else None
        if content is None:
            return None
        of_sandbox, owner, key_id = json.loads(content)
        return Caller(owner, "write", key_id) if of_sandbox == sandbox_id else None

    def signer(self, signed: Signed, sandbox_id: str, owner: str, keys: Iterable[str]) -> Caller | None:
        """Whose token of that sandbox signed a URL, among those of the given keys. All are tried."""
        found = None
        for key_id in keys:
            if signed.is_of(self.token("envd", sandbox_id, owner, key_id)):
                found = Caller(owner, "write", key_id)
        return found


def _use(kind: TokenKind) -> bytes:
    return f"e2b-{kind}".encode()


def _encode(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _decode(token: str) -> bytes:
    """The bytes of a token; none of text that `_encode` would not have written."""
    try:
        data = urlsafe_b64decode(token + "=" * (-len(token) % 4))
    except (Error, ValueError):
        return b""
    return data if _encode(data) == token else b""
