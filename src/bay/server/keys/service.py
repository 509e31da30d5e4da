"""The services of API keys, to which only admin keys come this far, and of the audit."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from bay.clock import Clock, from_rfc3339, to_rfc3339
from bay.errors import Conflict, Forbidden, InvalidArgument, NotFound
from bay.models import AuditEntry, Key, KeyScope, Limits, NewKey, from_wire, to_wire
from bay.server.web import idempotency
from bay.server.web.auth import FORMER, GIVEN, Caller, Keys, e2b_secret, limits_of, new_key
from bay.store import audit, keys
from bay.store.connection import StoreConnection
from bay.store.deferred import DeferredWrites
from bay.store.engine import Store
from bay.store.records import ApiKey, AuditFilters, Page


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyWish:
    """The parameters of a create. The owner defaults to the caller's; without an expiry it is for ever."""

    name: str
    scope: KeyScope
    owner: str | None = None
    quotas: Limits | None = None
    expires_at: datetime | None = None
    expires_in: int | None = None
    e2b: bool = False
    """Whether its secret has the form of E2B's keys."""


class ApiKeys:
    """The service behind `/v1/keys`."""

    def __init__(self, *, store: Store, keys: Keys, clock: Clock) -> None:
        self._store = store
        self._keys = keys
        self._clock = clock

    async def create(self, caller: Caller, wish: KeyWish, idempotency_key: str | None) -> NewKey:
        """Make a key. Only this answer has its secret, so a repeated call gives the answer without it."""
        request = idempotency.request(caller, idempotency_key, "POST /v1/keys", to_wire(wish))
        secret, key = self._new(caller, wish)
        async with self._store.write() as db:
            if request and (claim := await request.earlier(db)):
                audit.about(claim.resource_id)
                return from_wire(NewKey, claim.answer)
            audit.about(key.id)
            await keys.add(db, key)
            if request:
                await request.claim(db, key.id, to_wire(_made(key, None)), self._clock())
        self._keys.learn(key)
        await self._keys.tell()
        return _made(key, secret)

    async def page(
        self, owner: str | None, *, after: str | None, limit: int
    ) -> tuple[tuple[Key, ...], str | None]:
        """Keys of every owner, or of one, oldest first, also invalid ones; and the next page's cursor."""
        async with self._store.read() as db:
            found, more = await keys.page(db, owner, after=_place(after), limit=limit)
        return tuple(map(_view, found)), _after(found[-1]) if more else None

    async def revoke(self, key_id: str) -> None:
        """Revoke the key from now on. Idempotent. Raises NotFound, and Conflict for the last admin key."""
        async with self._store.write() as db:
            key = await keys.get(db, key_id)
            if key is None:
                raise NotFound(f"there is no key {key_id}")
            audit.about(key_id)
            if key.revoked_at is None:
                await self._revoke(db, key)
        self._keys.forget(key)
        await self._keys.tell()

    async def _revoke(self, db: StoreConnection, key: ApiKey) -> None:
        now = self._clock()
        if key.scope == "admin" and not await keys.other_admin(db, key.id, now):
            raise Conflict(f"key {key.id} is the last valid admin key; create another one first")
        await keys.revoke(db, key.id, now)

    def _new(self, caller: Caller, wish: KeyWish) -> tuple[str, ApiKey]:
        if wish.name in (GIVEN, FORMER):
            raise InvalidArgument(
                f"the name {wish.name} is reserved for the key from BAY_API_KEY; choose another"
            )
        now = self._clock()
        expires_at = _expiry(wish, now)
        owner = caller.owner if wish.owner is None else wish.owner
        secret = e2b_secret() if wish.e2b else None
        return new_key(
            owner, wish.name, wish.scope, now, quotas=wish.quotas, expires_at=expires_at, secret=secret
        )


class Audits:
    """The service behind `/v1/audit`."""

    def __init__(self, *, store: Store, deferred: DeferredWrites) -> None:
        self._store = store
        self._deferred = deferred

    async def page(
        self, caller: Caller, filters: AuditFilters, *, after: int, limit: int, newest_first: bool = False
    ) -> Page[AuditEntry]:
        """Part of the audit, oldest first, or `newest_first`: an admin key sees everybody's calls, others
        their owner's.
        """
        if caller.scope != "admin":
            if filters.owner not in (None, caller.owner):
                raise Forbidden("only an admin key may read the audit of other owners; leave out owner")
            filters = replace(filters, owner=caller.owner)
        await self._deferred.settle()
        async with self._store.read() as db:
            return await audit.page(db, filters, after=after, limit=limit, newest_first=newest_first)


def _expiry(wish: KeyWish, now: datetime) -> datetime | None:
    if wish.expires_at is None:
        return None if wish.expires_in is None else now + timedelta(seconds=wish.expires_in)
    if wish.expires_in is not None:
        raise InvalidArgument("give expires_at or expires_in, not both")
    if wish.expires_at <= now:
        raise InvalidArgument(f"expires_at {to_rfc3339(wish.expires_at)} is in the past; give a later time")
    return wish.expires_at


def _view(key: ApiKey) -> Key:
    return Key(
        id=key.id, name=key.name, owner=key.owner, scope=key.scope, quotas=limits_of(key),
        created_at=key.created_at, expires_at=key.expires_at, revoked_at=key.revoked_at,
    )  # fmt: skip


def _made(key: ApiKey, secret: str | None) -> NewKey:
    return NewKey(
        id=key.id, name=key.name, owner=key.owner, scope=key.scope, quotas=limits_of(key),
        created_at=key.created_at, expires_at=key.expires_at, revoked_at=None, secret=secret,
    )  # fmt: skip


def _after(key: ApiKey) -> str:
    return f"{to_rfc3339(key.created_at)} {key.id}"


def _place(after: str | None) -> tuple[datetime, str] | None:
    if after is None:
        return None
    made_at, _, key_id = after.partition(" ")
    try:
        return from_rfc3339(made_at), key_id
    except ValueError:
        raise InvalidArgument("this cursor belongs to another list; start again without one") from None
