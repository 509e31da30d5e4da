"""Temporary names: of files that Ship makes beside their place, and of those it is to remove."""

import os
import re

_KINDS = ("upload", "upload-over", "copy", "archive", "removed")
_NAME = re.compile(rf"\.ship-({'|'.join(_KINDS)})-[0-9a-f]{{16}}")


def temporary(kind: str) -> str:
    """A name that nothing has."""
    return f".ship-{kind}-{os.urandom(8).hex()}"


def kind_of(name: str) -> str | None:
    """The kind of a temporary name; None for another."""
    found = _NAME.fullmatch(name)
    return found[1] if found else None


def is_temporary(name: str) -> bool:
    return _NAME.fullmatch(name) is not None
