"""Authenticates callers by the SHA-256 of keys, which a caller cannot steer, so look-ups leak no prefix."""

import asyncio
import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from bay.clock import Clock
from bay.errors import Forbidden, InvalidArgument, Unauthorized
from bay.ids import is_owner, new_id
from bay.models import KeyScope, Limits, from_wire, to_wire
from bay.server.replicas.bus import Bus
from bay.store import keys
from bay.store.engine import Store
from bay.store.records import ApiKey

GIVEN = "BAY_API_KEY"
"""The name of the key that the setting gives; no other key may have it."""

FORMER = f"{GIVEN}, changed"
"""The name that such a key has once the setting gives another. Kept, so that it is known for a key where it
is still sent.
"""

MIN_CHOSEN = 16
"""Characters of a key that an operator chose."""

_SECRET = re.compile(r"(bay)_[A-Za-z0-9_-]+|(e2b)_[0-9a-f]{40}")
_CHANGED = "keys"
_RANK: dict[KeyScope, int] = {"read": 0, "write": 1, "admin": 2}


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated key: whose rows it sees and what it may do to them."""

    owner: str
    scope: KeyScope
    key_id: str

    def may(self, scope: KeyScope) -> bool:
        """Whether this key has at least `scope`."""
        return _RANK[self.scope] >= _RANK[scope]

    def require(self, scope: KeyScope) -> None:
        """Raises Forbidden unless this key has at least `scope`."""
        if not self.may(scope):
            raise Forbidden(f"this key has scope {self.scope}; the call needs a key with scope {scope}")


def hash_secret(secret: str) -> str:
    """SHA-256 of a key, hex. Keys have 256 random bits, so nothing slower is called for."""
    return hashlib.sha256(secret.encode()).hexdigest()


class Keys:
    """The valid keys, held in memory and backed by the store. After a change every replica reads them anew
    before the change is answered; one that heard nothing does at its next beat, by the number of changes.
    """

    def __init__(self, store: Store, clock: Clock, bus: Bus) -> None:
        self._store = store
        self._clock = clock
        self._bus = bus
        # Held over one reading: an earlier one must not come last.
        self._reading = asyncio.Lock()
        self._changes = 0
        """The number of changes that are in memory."""
        bus.answer(_CHANGED, self._reread)
        self._by_hash: dict[str, ApiKey] = {}
        self._by_id: dict[str, ApiKey] = {}
        self._of_owner: dict[str, dict[str, ApiKey]] = {}
        """The keys of each owner by their ids."""
        self._chosen: set[str] = set()
        """Hashes of keys that operators chose, valid or not. Those that Bay makes are known by their form."""
        self.on_forget: Callable[[], None] = lambda: None
        self._limits: dict[str, Limits] = {}
        """Also of revoked keys, which still bind the things made with them."""

    async def open(self) -> None:
        """Read the keys."""
        async with self._reading:
            await self._read()

    async def _read(self) -> None:
        async with self._store.read() as db:
            changes = await keys.changes(db)
            valid = await keys.all_valid(db, self._clock())
            self._chosen = await keys.hashes_named(db, (GIVEN, FORMER))
            self._limits = {key.id: limits_of(key) or Limits() for key in await keys.with_quotas(db)}
        self._by_hash, self._by_id, self._of_owner = {}, {}, {}
        for key in valid:
            self._let_in(key)
        self._changes = changes
        self.on_forget()

    async def tell(self) -> None:
        """Return once all replicas know of a change that is committed, or are dead."""
        if self._bus.is_shared:
            await self._bus.all(_CHANGED)

    async def recheck(self) -> None:
        """Read the keys when another replica has changed them."""
        async with self._store.read() as db:
            changes = await keys.changes(db)
        if changes != self._changes:
            await self.open()

    async def _reread(self, _item: str) -> bool:
        await self.open()
        return True

    async def ensure_admin(self, given: str | None, key_file: Path) -> str | None:
        """See to it that there is an admin key: `given`, else a new one, also written to `key_file` (0600).
        Returns the secret when it was made now, to be shown once. Expired keys do not count: a restart is the
        way back in. Raises InvalidArgument when `given` was revoked, has expired, or is no admin key.
        """
        if given is not None:
            await self._take_given(given)
            return None
        async with self._store.read() as db:
            if await keys.any_admin(db, self._clock()):
                return None
        secret = _new_secret()
        # The file first: a crash between the two leaves a key that opens nothing, not a Bay without a known
        # key.
        _write_private(key_file, secret + "\n")
        return await self.add("admin", "first", "admin", secret)

    async def _take_given(self, given: str) -> None:
        async with self._store.read() as db:
            known = await keys.by_hash(db, hash_secret(given))
        if known is None or known.name == FORMER:
            await self._replace_given(given)
        elif known.hash not in self._by_hash:
            raise InvalidArgument(
                f"{GIVEN} is the key {known.id}, which was revoked or has expired; set another"
            )
        elif known.scope != "admin":
            raise InvalidArgument(
                f"{GIVEN} is the key {known.id}, which has scope {known.scope}; set an admin key"
            )

    async def _replace_given(self, given: str) -> None:
        """Another BAY_API_KEY than before: the one before was given up, perhaps because it leaked."""
        async with self._store.write() as db:
            await keys.forget_former(db, FORMER, hash_secret(given))
            await keys.retire(db, GIVEN, FORMER, self._clock())
        await self.add("admin", GIVEN, "admin", given)
        await self.open()

    async def add(self, owner: str, name: str, scope: KeyScope, secret: str | None = None) -> str:
        """Make a key for `owner` that never expires, and return its secret, which is stored nowhere."""
        made, key = new_key(owner, name, scope, self._clock(), secret=secret)
        async with self._store.write() as db:
            await keys.add(db, key)
        self.learn(key)
        await self.tell()
        return made

    def learn(self, key: ApiKey) -> None:
        """Let a key in, once it is committed."""
        self._let_in(key)
        if key.name == GIVEN:
            self._chosen.add(key.hash)
        if (limits := limits_of(key)) is not None:
            self._limits[key.id] = limits

    def valid(self, key_id: str) -> ApiKey | None:
        """The key of that id, while it opens something."""
        key = self._by_id.get(key_id)
        return key if key is not None and self._opens(key) else None

    def is_valid(self, key_id: str) -> bool:
        """Whether that key still opens something: for answers that go on after it was checked."""
        return self.valid(key_id) is not None

    def of_owner(self, owner: str) -> list[str]:
        """The ids of the owner's keys that open something, the newest first."""
        mine = [key for key in self._of_owner.get(owner, {}).values() if self._opens(key)]
        return [key.id for key in sorted(mine, key=lambda key: key.created_at, reverse=True)]

    def hide(self, path: str) -> str:
        """The path with the secrets removed that a client put into it."""
        hidden = _SECRET.sub(lambda found: f"{found[1] or found[2]}_…", path)
        if not self._chosen:
            return hidden
        return "/".join(
            "…" if len(part) >= MIN_CHOSEN and self.is_chosen(part) else part for part in hidden.split("/")
        )

    def is_chosen(self, secret: str) -> bool:
        """Whether that is a key that an operator chose, or was one."""
        return bool(self._chosen) and hash_secret(secret) in self._chosen

    def quotas(self, key_id: str) -> Limits | None:
        """The quotas of a key, valid or not; None when it has none."""
        return self._limits.get(key_id)

    def forget(self, key: ApiKey) -> None:
        """Refuse a key from now on; a call that is under way goes on to its end."""
        self._by_hash.pop(key.hash, None)
        self._by_id.pop(key.id, None)
        self._of_owner.get(key.owner, {}).pop(key.id, None)
        self.on_forget()

    def authenticate(self, authorization: str | None) -> Caller:
        """The caller that an Authorization header names. Raises Unauthorized."""
        kind, _, secret = (authorization or "").partition(" ")
        if kind.lower() != "bearer" or not secret:
            raise Unauthorized("no API key; send the header Authorization: Bearer <key>")
        digest = hash_secret(secret.strip())
        key = self._by_hash.get(digest)
        if key is None or not hmac.compare_digest(key.hash, digest) or self._is_over(key):
            raise Unauthorized("this API key is unknown, revoked or expired")
        return Caller(key.owner, key.scope, key.id)

    def _let_in(self, key: ApiKey) -> None:
        self._by_hash[key.hash] = self._by_id[key.id] = key
        self._of_owner.setdefault(key.owner, {})[key.id] = key

    def _opens(self, key: ApiKey) -> bool:
        return key.hash in self._by_hash and not self._is_over(key)

    def _is_over(self, key: ApiKey) -> bool:
        return key.expires_at is not None and key.expires_at <= self._clock()


def new_key(
    owner: str,
    name: str,
    scope: KeyScope,
    now: datetime,
    *,
    quotas: Limits | None = None,
    expires_at: datetime | None = None,
    secret: str | None = None,
) -> tuple[str, ApiKey]:
    """A new secret and its key, not stored yet. Raises InvalidArgument for a malformed owner."""
    if not is_owner(owner):
        raise InvalidArgument(
            "an owner must have 1 to 63 letters, digits and . _ @ + -, and begin with a letter or digit"
        )
    secret = secret or _new_secret()
    key = ApiKey(
        id=new_id("key"), owner=owner, name=name, hash=hash_secret(secret), scope=scope,
        quotas=to_wire(quotas) if quotas else None, created_at=now, expires_at=expires_at, revoked_at=None,
    )  # fmt: skip
    return secret, key


def limits_of(key: ApiKey) -> Limits | None:
    """The quotas in a key's row."""
    return None if key.quotas is None else from_wire(Limits, key.quotas)


def e2b_secret() -> str:
    """A secret of the form that old clients of E2B insist on, with 160 random bits."""
    return f"e2b_{secrets.token_hex(20)}"


def _new_secret() -> str:
    return f"bay_{secrets.token_urlsafe(32)}"


def _write_private(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(text)
