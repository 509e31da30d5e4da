"""Payloads are JSON values under a reference `blob:blob-…`: contents of skills, and traces of browsers.

A payload never changes. It is kept as one text, which is sent as it lies there: decoding it once more would
cost as much again, and an answer must not fail on how deep it is.
"""

import json
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

from bay.clock import Clock
from bay.errors import InvalidArgument, NotFound, QuotaExceeded
from bay.ids import is_id_of, new_id
from bay.models import SkillPayload
from bay.store import skills
from bay.store.connection import StoreConnection
from bay.store.engine import Store
from bay.units import MIB

PREFIX = "blob:"
MAX_PAYLOAD_BYTES = 8 * MIB

Payload: TypeAlias = dict[str, Any] | list[Any]


@dataclass(eq=False, kw_only=True)
class SkillPayloads:
    """Keeps payloads, within the space that each owner has for skills."""

    store: Store
    clock: Clock
    max_bytes: int
    """The size of all skills of an owner together."""

    async def put(self, owner: str, kind: str, payload: Payload) -> str:
        """Store a payload, and return its reference. Raises InvalidArgument or QuotaExceeded."""
        text = encoded(payload)
        async with self.store.write() as db:
            return await self.put_in(db, owner, kind, text)

    async def put_in(self, db: StoreConnection, owner: str, kind: str, text: str) -> str:
        """The same within a transaction, for a payload that is `encoded`. Raises QuotaExceeded."""
        await self.admit(db, owner, len(text))
        payload_id = new_id("blob")
        await skills.add_payload(db, owner, payload_id, kind, text, self.clock())
        return PREFIX + payload_id

    async def get(self, owner: str, ref: str) -> SkillPayload:
        """The owner's payload. Raises NotFound."""
        kind, text = await self.read(owner, ref)
        return SkillPayload(payload_ref=ref, kind=kind, payload=json.loads(text))

    async def read(self, owner: str, ref: str) -> tuple[str, str]:
        """Its kind, and its JSON as it lies there. Raises NotFound."""
        payload_id = id_of(ref)
        async with self.store.read() as db:
            found = await skills.payload(db, owner, payload_id) if payload_id else None
        return found or not_there(ref)

    async def admit(self, db: StoreConnection, owner: str, more: int) -> None:
        """Let a row with `more` bytes of text be added. Raises QuotaExceeded."""
        used, more = await skills.used_bytes(db, owner), more + skills.ROW_BYTES
        if used + more > self.max_bytes:
            details = {"quota": "skills_max_mb", "limit": self.max_bytes, "used": used}
            raise QuotaExceeded(
                f"owner {owner} has {used} bytes of skills, and {self.max_bytes} at most, which leaves no "
                f"room for {more} more; delete payloads or candidates, or have skills_max_mb raised",
                details=details,
            )


def encoded(payload: object) -> str:
    """A JSON value as text in ASCII, so that its length is its size. Raises InvalidArgument."""
    try:
        text = json.dumps(payload, separators=(",", ":"), allow_nan=False)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(
            "the payload is nested too deeply, or has a number that JSON lacks; change it",
            details={"field": "payload"},
        ) from error
    if len(text) > MAX_PAYLOAD_BYTES:
        raise InvalidArgument(
            f"the payload has {len(text)} bytes, and may have {MAX_PAYLOAD_BYTES}; split it",
            details={"field": "payload"},
        )
    return text


def id_of(ref: str) -> str | None:
    """The id in the reference of a payload that Bay stored; None for any other."""
    payload_id = ref.removeprefix(PREFIX)
    return payload_id if ref.startswith(PREFIX) and is_id_of("blob", payload_id) else None


def not_there(ref: str) -> NoReturn:
    """Raises NotFound."""
    raise NotFound(f"there is no payload {ref}")
