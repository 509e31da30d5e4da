"""Who calls. Keys are compared by their SHA-256, which a caller cannot steer, so look-ups leak no prefix."""

import hashlib
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from bay.clock import Clock
from bay.errors import Forbidden, Unauthorized
from bay.ids import new_id
from bay.store import keys
from bay.store.engine import Store
from bay.store.records import ApiKey, Scope

_GIVEN = "BAY_API_KEY"
_RANK: dict[Scope, int] = {"read": 0, "write": 1, "admin": 2}


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated key: whose rows it sees and what it may do to them."""

    owner: str
    scope: Scope
    key_id: str

    def require(self, scope: Scope) -> None:
        """Raises Forbidden unless this key has at least `scope`."""
        if _RANK[self.scope] < _RANK[scope]:
            raise Forbidden(f"this key may {self.scope}, and the call needs a key with scope {scope}")


def hash_secret(secret: str) -> str:
    """SHA-256 of a key, hex. Keys have 256 random bits, so nothing slower is called for."""
    return hashlib.sha256(secret.encode()).hexdigest()


class Keys:
    """The valid keys, held in memory and backed by the store; this process is the only one that makes them."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._by_hash: dict[str, ApiKey] = {}

    async def open(self) -> None:
        """Read the valid keys."""
        async with self._store.read() as db:
            self._by_hash = {key.hash: key for key in await keys.all_valid(db, self._clock())}

    async def ensure_admin(self, given: str | None, key_file: Path) -> str | None:
        """See to it that there is an admin key: `given`, else a new one, also written to `key_file` (0600).

        Returns the secret when it was made now, to be shown once.
        """
        if given is not None:
            if hash_secret(given) not in self._by_hash:
                await self._replace_given(given)
            return None
        async with self._store.read() as db:
            if await keys.any_admin(db):
                return None
        secret = _new_secret()
        # The file first: a crash between the two leaves a key that opens nothing, not a Bay without a known key.
        _write_private(key_file, secret + "\n")
        return await self.add("admin", "first", "admin", secret)

    async def _replace_given(self, given: str) -> None:
        """Another BAY_API_KEY than before: the one before was given up, perhaps because it leaked."""
        async with self._store.write() as db:
            await keys.remove_named(db, _GIVEN)
        await self.add("admin", _GIVEN, "admin", given)
        await self.open()

    async def add(self, owner: str, name: str, scope: Scope, secret: str | None = None) -> str:
        """Make a key for `owner` and return its secret, which is stored nowhere."""
        secret = secret or _new_secret()
        key = ApiKey(
            id=new_id("key"), owner=owner, name=name, hash=hash_secret(secret), scope=scope,
            created_at=self._clock(), expires_at=None, revoked_at=None,
        )  # fmt: skip
        async with self._store.write() as db:
            await keys.add(db, key)
        self._by_hash[key.hash] = key
        return secret

    def authenticate(self, authorization: str | None) -> Caller:
        """The caller that an Authorization header names. Raises Unauthorized."""
        kind, _, secret = (authorization or "").partition(" ")
        if kind.lower() != "bearer" or not secret:
            raise Unauthorized("no API key; send the header Authorization: Bearer <key>")
        key = self._by_hash.get(hash_secret(secret.strip()))
        if key is None or (key.expires_at is not None and key.expires_at <= self._clock()):
            raise Unauthorized("this API key is unknown, revoked or expired")
        return Caller(key.owner, key.scope, key.id)


def _new_secret() -> str:
    return f"bay_{secrets.token_urlsafe(32)}"


def _write_private(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(text)
