"""Keys that an operator gives in files, such as a mounted Secret: Bay reads them, and never writes there.

Replicas without a common data directory take their keys from such files. Two with other keys could not read
one another's secrets, links and cookies, so the database knows the fingerprints of the keys in use.
"""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from bay.errors import DriverUnavailable
from bay.store import metadata
from bay.store.engine import Store

KEY_BYTES = 32

FACT = "keys"
"""The fact `{"secrets": …, "ports": …}`: the fingerprints of the keys that the replicas use."""

_LONGEST = 64 << 10
_TEXT = re.compile(rb"\s*(?:[0-9a-fA-F]{64}\s+)*[0-9a-fA-F]{64}\s*")


def given_keys(path: Path, most: int) -> list[bytes]:
    """The keys in a file that a setting names: 32 bytes each, or 64 hex digits each with white space between.
    Blocks. Raises DriverUnavailable for a file that cannot be read, or holds anything else.
    """
    try:
        with open(path, "rb") as file:
            found = file.read(_LONGEST + 1)
    except OSError as error:
        raise DriverUnavailable(f"cannot read the file of keys {path}: {error.strerror}") from error
    text = found.decode("ascii") if _TEXT.fullmatch(found) else None
    keys = _split(found) if text is None else [bytes.fromhex(word) for word in text.split()]
    if not 1 <= len(keys) <= most:
        wanted = "one key" if most == 1 else f"1 to {most} keys"
        raise DriverUnavailable(
            f"{path} has {len(found)} bytes, and not {wanted} of {KEY_BYTES} bytes or {2 * KEY_BYTES} hex "
            "digits; make one with: openssl rand -hex 32"
        )
    return keys


def _split(found: bytes) -> list[bytes]:
    if len(found) % KEY_BYTES:
        return []
    return [found[at : at + KEY_BYTES] for at in range(0, len(found), KEY_BYTES)]


def fingerprint(key: bytes) -> str:
    """16 hex digits that name a key and do not tell it."""
    return hashlib.sha256(b"bay key:" + key).hexdigest()[:16]


async def check_same(store: Store, secrets: Sequence[str], ports: str, *, others: bool) -> None:
    """Note the fingerprints of this replica's keys, the newest of `secrets` first. Raises DriverUnavailable
    where `others` live that use keys which this one does not have.
    """
    async with store.write() as db:
        fact = await metadata.get(db, FACT)
        if others and fact is not None:
            wrong = [
                name
                for name, is_known in (
                    ("secrets_key_file", fact["secrets"] in secrets),
                    ("ports_key_file", fact["ports"] == ports),
                )
                if not is_known
            ]
            if wrong:
                raise DriverUnavailable(
                    f"setting {wrong[0]}: the other replicas use a key that this one does not have; give all of them "
                    "the same file, or one data directory"
                )
        await metadata.set(db, FACT, {"secrets": secrets[0], "ports": ports})
