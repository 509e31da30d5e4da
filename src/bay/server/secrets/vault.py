"""The vault encrypts the values of secrets with AES-256-GCM, under keys of a file beside the database.

The file has one key or more, 32 bytes each, the newest first: it alone encrypts, and any of them decrypts. A
sealed value begins with the fingerprint of its key. Owner and name are authenticated with it, so that a row
that was copied to another owner or name opens nothing.
"""

import hashlib
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from bay.errors import DriverUnavailable
from bay.server.key_files import KEY_BYTES, given_keys

MOST_KEYS = 64
_ID_BYTES = 8
_NONCE_BYTES = 12


class Unreadable(Exception):
    """No key of the vault opens the value."""


class Vault:
    """Seals and opens values under the keys of a file: random ones, until that is opened."""

    def __init__(self, keys: Sequence[bytes] = ()) -> None:
        self._use(keys or (secrets.token_bytes(KEY_BYTES),))

    def open_file(self, path: Path, *, given: bool = False) -> None:
        """Use the keys in `path`, made (0600) if there is none and the file was not `given` by an operator.
        Blocks. Raises DriverUnavailable.
        """
        keys = given_keys(path, MOST_KEYS) if given else read_keys(path)
        if not keys:
            keys = [secrets.token_bytes(KEY_BYTES)]
            write_keys(path, keys)
        self._use(keys)

    @property
    def key_names(self) -> tuple[str, ...]:
        """The fingerprints of its keys, the newest first."""
        return tuple(name.hex() for name in self._ciphers)

    def _use(self, keys: Sequence[bytes]) -> None:
        self._ciphers = {_fingerprint(key): AESGCM(key) for key in keys}
        self._newest = _fingerprint(keys[0])

    def seal(self, owner: str, name: str, value: str) -> bytes:
        """The value as the database keeps it; other bytes each time."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        sealed = self._ciphers[self._newest].encrypt(nonce, value.encode(), _context(owner, name))
        return self._newest + nonce + sealed

    def unseal(self, owner: str, name: str, sealed: bytes) -> str:
        """The value again. Raises Unreadable."""
        key_id, rest = sealed[:_ID_BYTES], sealed[_ID_BYTES:]
        cipher = self._ciphers.get(key_id)
        if cipher is None or len(rest) < _NONCE_BYTES:
            raise Unreadable
        try:
            value = cipher.decrypt(rest[:_NONCE_BYTES], rest[_NONCE_BYTES:], _context(owner, name))
        except InvalidTag as error:
            raise Unreadable from error
        return value.decode()


def read_keys(path: Path) -> list[bytes]:
    """The keys in the file, the newest first; none without a file. Raises DriverUnavailable for another's."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return []
    with os.fdopen(descriptor, "rb") as file:
        found = file.read(MOST_KEYS * KEY_BYTES + 1)
    if not found or len(found) % KEY_BYTES or len(found) > MOST_KEYS * KEY_BYTES:
        raise DriverUnavailable(
            f"{path} is not a file of keys for secrets: it has {len(found)} bytes, and each key has {KEY_BYTES}; "
            "put the right one back, or move it away to begin with a new key and no readable secrets"
        )
    return [found[at : at + KEY_BYTES] for at in range(0, len(found), KEY_BYTES)]


def write_keys(path: Path, keys: Sequence[bytes]) -> None:
    """Replace the file by one with these keys, whole or not at all. Blocks."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(beside, flags, 0o600), "wb") as file:
            file.write(b"".join(keys))
            file.flush()
            os.fsync(file.fileno())
        beside.rename(path)
    finally:
        beside.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _fingerprint(key: bytes) -> bytes:
    return hashlib.sha256(b"bay secrets key:" + key).digest()[:_ID_BYTES]


def _context(owner: str, name: str) -> bytes:
    return f"{owner}\0{name}".encode()  # neither has a NUL
