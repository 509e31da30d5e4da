"""Idempotency keys: the transaction of the intent writes the claim, so one key makes one thing."""

import hashlib
import json
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bay.errors import Conflict
from bay.server.web.auth import Caller
from bay.store import claims
from bay.store.connection import StoreConnection
from bay.store.records import Claim

_KEY = re.compile(r"[A-Za-z0-9_-]{1,128}")


@dataclass(frozen=True, slots=True)
class Request:
    """A call that came with an idempotency key, reduced to what makes it the same call again."""

    caller: Caller
    key: str
    fingerprint: str

    async def earlier(self, db: StoreConnection) -> Claim | None:
        """The claim of an earlier call with this key. Raises Conflict when that was another call."""
        claim = await claims.find(db, self.caller.owner, self.key)
        if claim is not None and claim.request_hash != self.fingerprint:
            raise Conflict(f"idempotency key {self.key} was used for another request; choose a new key")
        return claim

    @property
    def hash(self) -> str:
        """The key and the call in one, for the row of a thing whose id the call chose."""
        return hashlib.sha256(f"{self.key} {self.fingerprint}".encode()).hexdigest()

    async def withdraw(self, db: StoreConnection) -> None:
        """The call came to nothing: let it be made again."""
        await claims.forget_key(db, self.caller.owner, self.key, self.fingerprint)

    async def claim(
        self, db: StoreConnection, resource_id: str, answer: dict[str, Any] | None, now: datetime
    ) -> None:
        """Write down what this call makes and answers."""
        record = Claim(
            owner=self.caller.owner, key=self.key, request_hash=self.fingerprint,
            resource_id=resource_id, answer=answer, created_at=now,
        )  # fmt: skip
        await claims.add(db, record)


def request(caller: Caller, key: str | None, call: str, body: object) -> Request | None:
    """The call under its idempotency key, None without one. Raises Conflict on a key of the wrong form."""
    if key is None:
        return None
    if _KEY.fullmatch(key) is None:
        raise Conflict("an Idempotency-Key must have 1 to 128 characters of A-Z, a-z, 0-9, _ and -")
    text = json.dumps([call, body], sort_keys=True, default=str)
    return Request(caller, key, hashlib.sha256(text.encode()).hexdigest())
