"""Bay seals values that it hands out and takes back: cursors, event ids, and the links and cookies of ports.

Rows of all owners are numbered together, so a bare number would tell of others. A value is encrypted with a
tag over use, owner and value as the nonce (the idea of SIV, RFC 5297): the same value has the same seal for
ever, and a seal that Bay did not make for this use and owner opens nothing.
"""

import hashlib
import hmac
import os
import secrets
from pathlib import Path

from bay.errors import InvalidArgument
from bay.server.key_files import KEY_BYTES, fingerprint, given_keys
from bay.store import events
from bay.store.engine import Store

START = "0"
"""The place before the oldest event."""

_TAG_BYTES = 8
"""Enough for a position in an owner's own list; a token that grants access has a longer tag."""
_BLOCK = hashlib.sha256().digest_size


class Seals:
    """Seals and opens values under one key: a random one, until a key is opened."""

    def __init__(self, tag_bytes: int = _TAG_BYTES) -> None:
        self._tag_bytes = tag_bytes
        self._key = secrets.token_bytes(KEY_BYTES)

    async def open(self, store: Store) -> None:
        """Use the key of this database, which is made if there is none."""
        async with store.write() as db:
            self._key = bytes.fromhex(await events.id_key(db, self._key.hex()))

    def open_file(self, path: Path, *, given: bool = False) -> None:
        """Use the key in `path`. Made (0600) if there is none or a write of one was cut off, unless an
        operator has `given` the file: then DriverUnavailable is raised for one without a key. Blocks.
        """
        self._key = given_keys(path, 1)[0] if given else _read_key(path) or _write_key(path, self._key)

    @property
    def key_name(self) -> str:
        """The fingerprint of the key."""
        return fingerprint(self._key)

    def seal(self, use: bytes, owner: bytes, place: bytes) -> bytes:
        """`place` as only this Bay can read it, for this use and owner; longer by the tag."""
        tag = self._tag(use, owner, place)
        return tag + self._masked(tag, place)

    def unseal(self, use: bytes, owner: bytes, sealed: bytes) -> bytes | None:
        """The place again; None for a seal that was not made for this use and owner."""
        tag, masked = sealed[: self._tag_bytes], sealed[self._tag_bytes :]
        place = self._masked(tag, masked)
        return place if hmac.compare_digest(self._tag(use, owner, place), tag) else None

    def _tag(self, use: bytes, owner: bytes, place: bytes) -> bytes:
        return self._mac(use, owner + place)[: self._tag_bytes]

    def _masked(self, tag: bytes, place: bytes) -> bytes:
        return bytes(a ^ b for a, b in zip(place, self._stream(tag, len(place)), strict=False))

    def _stream(self, tag: bytes, length: int) -> bytes:
        counters = [b"", *(bytes((n,)) for n in range(1, -(-length // _BLOCK)))]
        return b"".join(self._mac(b"mask", tag + counter) for counter in counters)

    def _mac(self, use: bytes, text: bytes) -> bytes:
        return hmac.new(self._key, use + b":" + text, hashlib.sha256).digest()


class EventIds:
    """Ids of events: 32 hex characters, the place in the owner's stream."""

    def __init__(self, seals: Seals) -> None:
        self._seals = seals

    def id_of(self, owner: str, seq: int) -> str:
        """The id of the owner's event `seq`."""
        return self._seals.seal(b"tag", owner.encode(), seq.to_bytes(8)).hex()

    def seq_of(self, owner: str, event_id: str) -> int:
        """The event that an id names. Raises InvalidArgument for one that Bay did not give this owner."""
        if event_id == START:
            return 0
        place = self._seals.unseal(b"tag", owner.encode(), _from_hex(event_id))
        if place is None or len(place) != 8:
            raise InvalidArgument("Bay issued no such event id; leave it out, or start from 0")
        return int.from_bytes(place)


class Cursors:
    """Cursors of lists: where the next page begins, as text. All of a kind are equally long."""

    def __init__(self, seals: Seals) -> None:
        self._seals = seals

    def of_row(self, owner: str, after: int | None) -> str | None:
        """The cursor that goes on after row `after`; None at the end."""
        return None if after is None else self._seals.seal(b"row", _context(owner), after.to_bytes(8)).hex()

    def row(self, owner: str, cursor: str | None) -> int:
        """The row to go on after; 0 without a cursor. Raises InvalidArgument for one not of this owner."""
        return int.from_bytes(self._open(b"row", owner, cursor)) if cursor else 0

    def of_id(self, owner: str, after: str | None) -> str | None:
        """The same for a place that is named by an id."""
        return None if after is None else self._seals.seal(b"id", _context(owner), after.encode()).hex()

    def id(self, owner: str, cursor: str | None) -> str | None:
        """The same for a place that is named by an id; None without a cursor."""
        return self._open(b"id", owner, cursor).decode() if cursor else None

    def _open(self, use: bytes, owner: str, cursor: str) -> bytes:
        place = self._seals.unseal(use, _context(owner), _from_hex(cursor))
        if place is None:
            raise InvalidArgument("Bay issued no such cursor; start again without one")
        return place


def _context(owner: str) -> bytes:
    return owner.encode() + b"\0"  # an owner has none, so that no place can pass for a part of it


def _from_hex(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        return b""


def _read_key(path: Path) -> bytes | None:
    """The key; None where there is no file, or a write of one was cut off."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        key = file.read(KEY_BYTES + 1)
    return key if len(key) == KEY_BYTES else None


def _write_key(path: Path, key: bytes) -> bytes:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(key)
    return key
