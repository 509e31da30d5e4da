"""Cheap startup, in time and in memory; imported before everything else.

asyncio and hashlib load OpenSSL when they find it (about 7 ms and 3 MB). Ship needs no more than SHA-256, and
TLS only where it listens on TCP; both work without it. Collecting garbage while modules load finds none.
"""

import gc
import os
import sys
from typing import cast

_SHA256 = frozenset(("_sha256", "_sha2"))  # the interpreter's own, by version


def _forbid(name: str) -> None:
    cast("dict[str, object]", sys.modules).setdefault(name, None)


def _has_own_sha256() -> bool:
    # An interpreter built without it would leave hashlib with nothing.
    if _SHA256 & set(sys.builtin_module_names):
        return True
    return any(_importable(name) for name in sorted(_SHA256))


def _importable(name: str) -> bool:
    try:
        __import__(name)
    except ImportError:
        return False
    return True


def settle() -> None:
    """Call once everything is loaded: the garbage collector skips the present objects from now on."""
    gc.freeze()
    gc.enable()


gc.disable()
if "SHIP_LISTEN" not in os.environ:
    _forbid("ssl")
if _has_own_sha256():
    _forbid("_hashlib")
