"""Tokens that grant access, which Bay gives out and stores nowhere: JSON, sealed for one use, as text.

The sealing key is a file in the data directory, as a backup of the database must not give access. Removing
that file ends every token.
"""

import binascii
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bay.server.web.sealing import Seals

_TAG_BYTES = 32
_LONGEST = 512


class SealedTokens:
    """Seals content into tokens, and reads them; `open` it first."""

    def __init__(self) -> None:
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

    def sealed(self, use: str, content: Sequence[object]) -> str:
        """The token, of characters that need no quoting in a URL, a header or a cookie."""
        text = json.dumps(content, separators=(",", ":")).encode()
        return _encode(self._seals.seal(use.encode(), b"", text))

    def unsealed(self, use: str, token: str) -> list[Any] | None:
        """The content of a token; None for one that was not sealed here for that use."""
        text = self._seals.unseal(use.encode(), b"", _decode(token)) if len(token) <= _LONGEST else None
        return None if text is None else json.loads(text)


def _encode(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _decode(token: str) -> bytes:
    """The bytes of a token; none of text that `_encode` would not have written."""
    try:
        data = urlsafe_b64decode(token + "=" * (-len(token) % 4))
    except (binascii.Error, ValueError):
        return b""
    return data if _encode(data) == token else b""
