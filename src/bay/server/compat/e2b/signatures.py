"""Finds the sandbox of a signed URL that names none, among all that clients of E2B made.

The caller is not known before that, so the work is bounded: one search at a time, in a thread, over the
newest sandboxes, and a few requests that wait for their turn.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field

from bay.errors import QuotaExceeded
from bay.server.compat.e2b.planes import MOST_KEYS
from bay.server.compat.e2b.sandbox_words import OPTIONS
from bay.server.compat.e2b.tokens import SandboxTokens, Signed
from bay.server.web.auth import Keys
from bay.store import sandboxes
from bay.store.engine import Store

MOST_WAITING = 16
MOST_CANDIDATES = 2000

Candidate = tuple[str, str]
"""The id of a sandbox, and its owner."""


@dataclass(kw_only=True, eq=False)
class SignatureSearch:
    """Searches one at a time."""

    store: Store
    keys: Keys
    tokens: SandboxTokens
    _turn: asyncio.Lock = field(init=False, default_factory=asyncio.Lock)
    _waiting: int = field(init=False, default=0)

    async def sandbox_of(self, signed: Signed) -> str | None:
        """The id of the sandbox whose token signed that. Raises QuotaExceeded when too many are asking."""
        if self._waiting >= MOST_WAITING:
            raise QuotaExceeded("too many signed URLs are looked for; try again, or name the sandbox")
        self._waiting += 1
        try:
            async with self._turn:
                return await self._search(signed)
        finally:
            self._waiting -= 1

    async def _search(self, signed: Signed) -> str | None:
        async with self.store.read() as db:
            candidates = await sandboxes.newest_with_label(db, OPTIONS, MOST_CANDIDATES)
        keys = {owner: self.keys.of_owner(owner)[:MOST_KEYS] for owner in {owner for _, owner in candidates}}
        return await asyncio.to_thread(self._signer, signed, candidates, keys)

    def _signer(
        self, signed: Signed, candidates: Iterable[Candidate], keys: dict[str, list[str]]
    ) -> str | None:
        """All are tried, so that the time says nothing of which it was."""
        signer = None
        for sandbox_id, owner in candidates:
            if self.tokens.signer(signed, sandbox_id, owner, keys[owner]) is not None:
                signer = sandbox_id
        return signer
