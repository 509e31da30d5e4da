"""Ids of events: the place in an owner's stream, sealed.

Events of all owners are numbered together, so a bare number would tell each owner how much the others do. The
number is encrypted under a key of this database with a tag over owner and number as the nonce (the idea of SIV,
RFC 5297): the same event has the same id for ever, and an id that Bay did not give this owner opens nothing.
"""

import hashlib
import hmac
import secrets

from bay.errors import InvalidArgument
from bay.store import events
from bay.store.engine import Store

START = "0"
"""The place before the oldest event."""

_TAG = 8


class EventIds:
    """Seals and opens. `open` comes first."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._key = b""

    async def open(self) -> None:
        """Read the key of this database, or make it."""
        async with self._store.write(only_execs=True) as db:
            self._key = bytes.fromhex(await events.id_key(db, secrets.token_hex(32)))

    def id_of(self, owner: str, seq: int) -> str:
        """The id, 32 hex characters, of the owner's event `seq`."""
        tag = self._tag(owner, seq)
        return (tag + _xor(seq.to_bytes(8), self._mask(tag))).hex()

    def seq_of(self, owner: str, event_id: str) -> int:
        """The event that an id names. Raises InvalidArgument for one that Bay did not give this owner."""
        if event_id == START:
            return 0
        try:
            sealed = bytes.fromhex(event_id)
        except ValueError:
            sealed = b""
        if len(sealed) == _TAG + 8:
            seq = int.from_bytes(_xor(sealed[_TAG:], self._mask(sealed[:_TAG])))
            if hmac.compare_digest(self._tag(owner, seq), sealed[:_TAG]):
                return seq
        raise InvalidArgument("Bay gave out no event id like this; leave it out, or begin with 0")

    def _tag(self, owner: str, seq: int) -> bytes:
        return self._mac(b"tag", owner.encode() + seq.to_bytes(8))

    def _mask(self, tag: bytes) -> bytes:
        return self._mac(b"mask", tag)

    def _mac(self, use: bytes, text: bytes) -> bytes:
        return hmac.new(self._key, use + b":" + text, hashlib.sha256).digest()[:8]


def _xor(one: bytes, other: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, other, strict=True))
