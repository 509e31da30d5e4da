"""Makes identifiers: a prefix for the kind, and 96 random bits that cannot be guessed."""

import re
import secrets
from typing import Literal

# fmt: off
Prefix = Literal[
    "sandbox", "ws", "sess", "exec", "kern", "cell", "ckpt", "key", "hook", "img", "tmpl",
    "blob", "cand", "eval", "rel", "replica",
]
# fmt: on

_ID = re.compile(
    r"(?:sandbox|ws|sess|exec|kern|cell|ckpt|key|hook|img|tmpl|blob|cand|eval|rel|replica)-[0-9a-f]{24}"
)
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_OWNER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,62}")


def new_id(prefix: Prefix) -> str:
    """A fresh id such as ``sandbox-3f…``: the prefix and 24 hex characters (96 bits)."""
    return f"{prefix}-{secrets.token_hex(12)}"


def is_id(text: str) -> bool:
    """Whether `text` has the form of an id, of whatever noun."""
    return _ID.fullmatch(text) is not None


def is_id_of(prefix: Prefix, text: str) -> bool:
    """Whether `text` has the form of an id of that noun."""
    return text.startswith(f"{prefix}-") and is_id(text)


def is_name(text: str) -> bool:
    """Whether `text` may name a sandbox: a DNS label that cannot be taken for an id."""
    return _NAME.fullmatch(text) is not None and not is_id(text)


def is_owner(text: str) -> bool:
    """Whether `text` may own keys and sandboxes: 1 to 63 of ``A-Za-z0-9._@+-``, a letter or digit first."""
    return _OWNER.fullmatch(text) is not None
