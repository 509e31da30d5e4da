"""The two tokens of a sandbox, which open its planes without a key of Bay.

Both are sealed from the sandbox, its owner and the key that asked, so nothing of them is stored: the same
three give the same token for ever, and it ends with the key or the sandbox. The sealing key is that of the
links of ports, a file, as a backup of the database must not give access.
"""

import hashlib
import hmac
from base64 import b64encode
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from bay.server.web.auth import Caller
from bay.server.web.sealed_tokens import SealedTokens

TokenKind = Literal["envd", "traffic"]
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


class SandboxTokens(SealedTokens):
    """Makes and reads tokens; `open` it first."""

    def __init__(self) -> None:
        super().__init__()
        self._kept = lru_cache(maxsize=_KEPT)(self._seal)

    def open(self, path: Path, *, given: bool = False) -> None:
        """Take the sealing key as every kind of token does, and forget what was sealed under another."""
        super().open(path, given=given)
        self._kept.cache_clear()

    def token(self, kind: TokenKind, sandbox_id: str, owner: str, key_id: str) -> str:
        """The token, of characters that need no quoting in a header or a URL."""
        return self._kept(kind, sandbox_id, owner, key_id)

    def _seal(self, kind: TokenKind, sandbox_id: str, owner: str, key_id: str) -> str:
        return self.sealed(_use(kind), [sandbox_id, owner, key_id])

    def caller(self, kind: TokenKind, sandbox_id: str, token: str) -> Caller | None:
        """Whom a token of that sandbox speaks for; None for any other text. The key may be gone meanwhile."""
        if (content := self.unsealed(_use(kind), token)) is None:
            return None
        of_sandbox, owner, key_id = content
        return Caller(owner, "write", key_id) if of_sandbox == sandbox_id else None

    def signer(self, signed: Signed, sandbox_id: str, owner: str, keys: Iterable[str]) -> Caller | None:
        """Whose token of that sandbox signed a URL, among those of the given keys. All are tried."""
        found = None
        for key_id in keys:
            if signed.is_of(self.token("envd", sandbox_id, owner, key_id)):
                found = Caller(owner, "write", key_id)
        return found


def _use(kind: TokenKind) -> str:
    return f"e2b-{kind}"
