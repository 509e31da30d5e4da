"""The position of a follower of events, decided without I/O; and the check of a webhook's signature."""

import json
import time
from collections.abc import Mapping

import httpx

from bay.client._answers import model
from bay.client._calls import Call, list_params
from bay.client._config import Config
from bay.client._follow import Followed, Patience
from bay.client._lines import Lines
from bay.errors import BayError, InvalidArgument
from bay.models import Event
from bay.webhook_signature import is_signed

LAST = "sandbox.deleted"

TOLERANCE_S = 300.0
"""How far a webhook's timestamp may be from this machine's clock."""


class EventPlace(Followed[Event]):
    """The id to go on behind, and whether nothing more will come, in the events at `path` of the API."""

    def __init__(self, path: str, since: str | None, config: Config, *, one_sandbox: bool) -> None:
        self.early = f"the events of {config.url} ended early"
        self.last_id = since
        self.ended = False
        self._one_sandbox = one_sandbox
        self._path = path
        self._patience = Patience(config.retry_s)

    def call(self) -> Call:
        return Call.get(self._path, list_params({"follow": "true", "since": self.last_id}, None))

    def lines(self) -> Lines:
        return Lines(b"\n\n", "an event")

    def opened(self, response: httpx.Response) -> None:
        self.ended = response.status_code == 204  # the sandbox was deleted, and all its events were read

    def accept(self, line: bytes) -> Event | None:
        """The event of a block of the stream; None for one with only a position, or a sign of life."""
        fields = dict(_field(text) for text in line.decode("utf-8", "replace").splitlines())
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
        return self._patience.pause(error)


def verify_webhook(
    secret: str,
    headers: Mapping[str, str],
    body: bytes,
    *,
    tolerance_s: float = TOLERANCE_S,
    now: float | None = None,
) -> Event:
    """The event of a webhook request, signed with `secret` (`whsec_…`) at most `tolerance_s` seconds ago.

    `body` is the raw body, before anything parses it. `now` is seconds since the epoch, for tests. Raises
    InvalidArgument when the signature is missing or wrong, or the timestamp more than `tolerance_s` away:
    answer such a request with 400. An event may be delivered twice, with the same `webhook-id`.
    """
    given = {name.lower(): value for name, value in headers.items()}
    timestamp = given.get("webhook-timestamp", "")
    if not _is_signed(secret, given, timestamp, body):
        raise InvalidArgument("the signature of this request is invalid; is the secret this webhook's?")
    if not timestamp.isdecimal() or abs((time.time() if now is None else now) - int(timestamp)) > tolerance_s:
        raise InvalidArgument(
            f"this request was signed more than {tolerance_s:g} s ago or ahead; is the clock right?"
        )
    return _event(body)


def _is_signed(secret: str, headers: Mapping[str, str], timestamp: str, body: bytes) -> bool:
    signatures = headers.get("webhook-signature", "")
    try:
        return is_signed(secret, headers.get("webhook-id", ""), timestamp, body, signatures)
    except ValueError as error:
        raise InvalidArgument(
            "the webhook's secret is not whsec_ and base64; use the one that Bay showed"
        ) from error


def _field(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name, value.removeprefix(" ")


def _event(text: bytes) -> Event:
    try:
        return model(Event, json.loads(text))
    except ValueError as error:
        raise BayError(f"{text[:40]!r} is not an event of Bay") from error
