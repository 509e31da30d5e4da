"""The guests of ports of sandboxes that clients of E2B made: everybody, unless the create said no."""

from dataclasses import dataclass

from bay.server.compat.e2b.sandbox_words import options_of
from bay.server.compat.e2b.tokens import SandboxTokens
from bay.server.web.auth import Keys
from bay.server.web.edge import RequestHeaders
from bay.store.records import SandboxRecord


@dataclass(frozen=True, slots=True)
class E2bGuests:
    """Says it of ports without a setting of their own. No stranger wakes what is paused."""

    tokens: SandboxTokens
    keys: Keys

    def are_welcome(self, record: SandboxRecord) -> bool:
        """Whether strangers may use its ports."""
        options = options_of(record.labels)
        return options.public and (record.paused_at is None or options.resume)

    def key_of(self, record: SandboxRecord, headers: RequestHeaders) -> str | None:
        """The key behind the traffic token in a request; None without a good one."""
        token = headers.one("e2b-traffic-access-token")
        caller = self.tokens.caller("traffic", record.id, token) if token else None
        if caller is None or caller.owner != record.owner or not self.keys.is_valid(caller.key_id):
            return None
        return caller.key_id
