"""Bay signs webhooks by Standard Webhooks (https://www.standardwebhooks.com), and the SDK verifies them."""

import binascii
import hashlib
import hmac
import secrets
from base64 import b64decode, b64encode

_PREFIX = "whsec_"
_VERSION = "v1"


def new_webhook_secret() -> str:
    """A fresh secret of 32 random bytes, as text."""
    return _PREFIX + b64encode(secrets.token_bytes(32)).decode("ascii")


def webhook_signature(secret: str, message_id: str, timestamp: str, body: bytes) -> str:
    """The `webhook-signature` of a request: HMAC-SHA256 (RFC 2104) over id, time and body, joined by dots.
    Raises ValueError when `secret` is not `whsec_` and base64.
    """
    signed = f"{message_id}.{timestamp}.".encode() + body
    digest = hmac.digest(_key(secret), signed, hashlib.sha256)
    return f"{_VERSION},{b64encode(digest).decode('ascii')}"


def is_signed(secret: str, message_id: str, timestamp: str, body: bytes, signatures: str) -> bool:
    """Whether one signature in `webhook-signature` is that of `secret`. Raises ValueError as above."""
    expected = webhook_signature(secret, message_id, timestamp, body).encode()
    return any(hmac.compare_digest(expected, given.encode()) for given in signatures.split(" "))


def _key(secret: str) -> bytes:
    try:
        key = b64decode(secret.removeprefix(_PREFIX), validate=True)
    except binascii.Error as error:
        raise ValueError("not base64") from error
    if not secret.startswith(_PREFIX) or not key:
        raise ValueError(f"not {_PREFIX} and base64")
    return key
