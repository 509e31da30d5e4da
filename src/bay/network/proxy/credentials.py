"""The credentials by which the proxy knows a session, and the variables by which its programs find them."""

import hashlib
import hmac

_PURPOSE = b"bay egress proxy"
_NAMES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
_DIRECT = "localhost,127.0.0.1,::1"


def secret_of(token: str) -> str:
    """The secret of the session with that token of Ship, which it does not tell."""
    return hmac.digest(token.encode(), _PURPOSE, hashlib.sha256).hex()


def environment(address: str, session_id: str, token: str) -> dict[str, str]:
    """The variables that curl, Git, Python, Go, Node and most other programs read, in both spellings.
    `address` is HOST:PORT.
    """
    url = f"http://{session_id}:{secret_of(token)}@{address}"
    found = {**dict.fromkeys(_NAMES, url), "NO_PROXY": _DIRECT}
    return {**found, **{name.lower(): value for name, value in found.items()}}
