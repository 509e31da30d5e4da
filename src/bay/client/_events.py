"""Where a follower of events stands, decided without I/O; and whether a webhook's request is Bay's."""

import hashlib
import hmac
import json
import time
from collections.abc import Mapping

from bay.client._follow import Patience
from bay.client._wire import model
from bay.errors import BayError, InvalidArgument
from bay.models import Event

LAST = "sandbox.deleted"

TOLERANCE_S = 300.0
"""How far a webhook's timestamp may be from this machine's clock."""


class Place:
    """The id to go on behind, and whether nothing more will come."""

    def __init__(self, since: str | None, retry_s: float, *, one_sandbox: bool) -> None:
        self.last_id = since
        self.ended = False
        self._one_sandbox = one_sandbox
        self._patience = Patience(retry_s)

    def accept(self, block: bytes) -> Event | None:
        """The event that a block of the stream is; None for one that only tells the place, or that all is well."""
        fields = dict(_field(line) for line in block.decode("utf-8", "replace").splitlines())
        self.last_id = fields.get("id", self.last_id)
        if "data" not in fields:
            if "id" not in fields:
                self._patience.renew()
            return None
        event = _event(fields["data"].encode())
        self._patience.renew()
        self.ended = self._one_sandbox and event.type == LAST
        return event

    def pause(self, error: BayError) -> float:
        """How long to wait before connecting again; see `Patience`."""
        return self._patience.pause(error)


def verify_webhook(
    secret: str,
    headers: Mapping[str, str],
    body: bytes,
    *,
    tolerance_s: float = TOLERANCE_S,
    now: float | None = None,
) -> Event:
    """The event in a webhook's request, once it is sure that Bay signed it with `secret` not long ago.

    `body` is the raw body, before anything parses it. `now` is seconds since the epoch, for tests. Raises
    InvalidArgument when the signature is missing or wrong, or the timestamp more than `tolerance_s` away: answer
    such a request with 400. The same event may come twice; `X-Bay-Delivery` is the same then.
    """
    given = {name.lower(): value for name, value in headers.items()}
    timestamp = given.get("x-bay-timestamp", "")
    signed = hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()
    if not hmac.compare_digest(f"sha256={signed}".encode(), given.get("x-bay-signature", "").encode()):
        raise InvalidArgument("the signature of this request is invalid; is the secret this webhook's?")
    if not timestamp.isdecimal() or abs((time.time() if now is None else now) - int(timestamp)) > tolerance_s:
        raise InvalidArgument(
            f"this request was signed more than {tolerance_s:g} s ago or ahead; is the clock right?"
        )
    return _event(body)


def _field(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name, value.removeprefix(" ")


def _event(text: bytes) -> Event:
    try:
        return model(Event, json.loads(text))
    except ValueError as error:
        raise BayError(f"{text[:40]!r} is not an event of Bay") from error
