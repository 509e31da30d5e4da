"""The guests of ports of sandboxes that clients of E2B made: everybody, unless the create said no.

They are refused in the words of E2B. An id that is no sandbox's gets the answer of one that ended, since
nothing else is known of that; an id cannot be guessed, as a name can, so only ids get these answers.
"""

from dataclasses import dataclass

from bay.clock import Clock
from bay.errors import BayError, NotFound, PortClosed, SandboxExpired, Unauthorized
from bay.ids import is_id_of
from bay.server.compat.e2b.sandbox_service import E2bSandboxes
from bay.server.compat.e2b.sandbox_words import OPTIONS, options_of, resumed_for
from bay.server.compat.e2b.tokens import SandboxTokens
from bay.server.ports.error_pages import GuestRefusal
from bay.server.ports.gate import PortHost
from bay.server.web.auth import Caller, Keys
from bay.server.web.edge import RequestHeaders
from bay.store.records import SandboxRecord

GONE = "The sandbox was not found"
NOT_OPEN = "The sandbox is running but port is not open"
_PRIVATE = "the ports of this sandbox need its token in the header e2b-traffic-access-token"


@dataclass(frozen=True, slots=True)
class E2bGuests:
    """Says it of ports without a setting of their own. No stranger wakes what is paused."""

    tokens: SandboxTokens
    keys: Keys
    clock: Clock
    e2b: E2bSandboxes

    def are_welcome(self, record: SandboxRecord) -> bool:
        """Whether strangers may use its ports."""
        return options_of(record.labels).public and not self._is_away(record)

    def key_of(self, record: SandboxRecord, headers: RequestHeaders) -> str | None:
        """The key behind the traffic token in a request; None without a good one."""
        token = headers.one("e2b-traffic-access-token")
        caller = self.tokens.caller("traffic", record.id, token) if token else None
        if caller is None or caller.owner != record.owner or not self.keys.is_valid(caller.key_id):
            return None
        return None if self._is_away(record) else caller.key_id

    async def wake(self, record: SandboxRecord) -> None:
        """Give one that rests its time-out again: by a mere call it would run without an end."""
        if OPTIONS in record.labels and self._rests(record):
            owner = Caller(record.owner, "write", "")
            await self.e2b.connect(owner, record.id, resumed_for(options_of(record.labels)))

    def refusal(self, place: PortHost, record: SandboxRecord | None, error: BayError) -> GuestRefusal | None:
        """E2B's word for an error at the port of an id."""
        is_of_id = place.port is not None and is_id_of("sandbox", place.sandbox)
        if not is_of_id or (record is not None and OPTIONS not in record.labels):
            return None
        body = {"sandboxId": place.sandbox}
        if record is None or self._is_away(record) or isinstance(error, NotFound | SandboxExpired):
            return GuestRefusal(GONE, 502, body)
        if isinstance(error, PortClosed):
            return GuestRefusal(NOT_OPEN, 502, body | {"port": place.port})
        return GuestRefusal(_PRIVATE, 403, body) if isinstance(error, Unauthorized) else None

    def _is_away(self, record: SandboxRecord) -> bool:
        """Whether it is over, or paused until a `connect`."""
        is_expired = record.is_expired(self.clock())
        return is_expired or (self._rests(record) and not options_of(record.labels).resume)

    def _rests(self, record: SandboxRecord) -> bool:
        return record.paused_at is not None or record.is_over(self.clock())
