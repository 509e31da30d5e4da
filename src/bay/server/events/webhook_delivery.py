"""The deliverer sends events to webhooks: in order for each, at least once, for at most 24 hours.

Requests follow Standard Webhooks (https://www.standardwebhooks.com). A row holds the last event that was
answered with 2xx; if Bay ends before that is written, it is sent again under the same `webhook-id`.
"""

import asyncio
import hashlib
import json
import ssl
from collections.abc import AsyncGenerator, Set
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta
from weakref import WeakValueDictionary

import httpx
import structlog

from bay import __version__
from bay.backoff import Backoff
from bay.clock import Clock
from bay.errors import InvalidArgument
from bay.models import to_wire
from bay.server.events.follow import EventNotifier
from bay.server.events.service import event_of
from bay.server.replicas.bus import Bus
from bay.server.web.public_addresses import Addresses, checked_url
from bay.server.web.sealing import EventIds
from bay.store import events, webhooks
from bay.store.connection import StoreConnection
from bay.store.engine import Store
from bay.store.records import EventRecord, WebhookRecord
from bay.webhook_signature import webhook_signature

log = structlog.get_logger("bay.webhooks")

DEADLINE_S = 10.0
GIVE_UP = timedelta(hours=24)
BACKOFF = Backoff(1.0, 3600.0)
_MAX_AT_ONCE = 64
_MAX_AT_ONCE_FOR_OWNER = 4
_MAX_ADDRESSES = 4
_ANSWER_BYTES = 16 << 10
_LOOK_AGAIN_S = 60.0  # at a pause's end, should the wall clock be set
_RETRY_S = 1.0
_RECHECK = "webhooks"


class Poster:
    """Sends one request to a public address, and says in words what went wrong."""

    def __init__(self, addresses: Addresses, deadline_s: float = DEADLINE_S) -> None:
        self._addresses = addresses
        self._deadline_s = deadline_s
        self._tls: ssl.SSLContext | None = None

    async def post(self, url: str, headers: dict[str, str], body: bytes) -> str | None:
        """None when it was answered with 2xx in time, else why it was not delivered."""
        try:
            async with asyncio.timeout(self._deadline_s):
                status = await self._send(checked_url(url), headers, body)
        except TimeoutError:
            return f"no answer within {self._deadline_s:g} s"
        except InvalidArgument as error:
            return error.message
        except httpx.HTTPError as error:
            return f"the request failed: {type(error).__name__}"
        if 300 <= status < 400:
            return f"answered {status}; redirects are not followed"
        return None if 200 <= status < 300 else f"answered {status}"

    async def _send(self, url: httpx.URL, headers: dict[str, str], body: bytes) -> int:
        """The status of the first of the host's addresses that can be reached."""
        *others, last = (await self._addresses.public(url))[:_MAX_ADDRESSES]
        async with await self._client(self._deadline_s / (len(others) + 1)) as client:
            for address in others:
                with suppress(httpx.ConnectError, httpx.ConnectTimeout):
                    return await _send_to(client, address, url, headers, body)
            return await _send_to(client, last, url, headers, body)

    async def _client(self, connect_s: float) -> httpx.AsyncClient:
        # One for each request: connections are pooled by address, where two names may have one.
        if self._tls is None:
            self._tls = await asyncio.to_thread(httpx.create_ssl_context)
        timeout = httpx.Timeout(self._deadline_s, connect=connect_s)
        return httpx.AsyncClient(verify=self._tls, trust_env=False, follow_redirects=False, timeout=timeout)


async def _send_to(
    client: httpx.AsyncClient, address: str, url: httpx.URL, headers: dict[str, str], body: bytes
) -> int:
    """POST to exactly `address`; the Host header, the TLS server name and the certificate are the name's."""
    name = url.raw_host.decode("ascii")
    request = client.build_request(
        "POST", url.copy_with(host=address), headers={**headers, "Host": url.netloc.decode("ascii")}, content=body,
        extensions={"sni_hostname": name},
    )  # fmt: skip
    response = await client.send(request, stream=True)
    try:
        await _read_some(response)
    finally:
        await response.aclose()
    return response.status_code


async def _read_some(response: httpx.Response) -> None:
    """Bytes of an honest receiver's answer, so that it is not cut off; more is not read."""
    seen = 0
    async for piece in response.aiter_raw():
        seen += len(piece)
        if seen > _ANSWER_BYTES:
            return


class Deliverer:
    """A task for each webhook, so that a slow receiver delays no other's events."""

    def __init__(
        self, *, store: Store, feed: EventNotifier, ids: EventIds, poster: Poster, clock: Clock, bus: Bus
    ) -> None:
        self._bus = bus
        bus.hear(_RECHECK, lambda _: self._hear())
        self._store = store
        self._feed = feed
        self._ids = ids
        self._poster = poster
        self._clock = clock
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._pokes: dict[str, asyncio.Event] = {}
        self._owners: dict[str, str] = {}
        """The owner of each webhook that has a task."""
        self._passed: dict[str, int] = {}
        """Up to where each has been looked through in vain."""
        self._sending = asyncio.Semaphore(_MAX_AT_ONCE)
        self._sending_for: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._is_stale = True
        """Whether webhooks may have come or gone since they were read."""
        self._seen = 0
        """The last event that was handed to its owner's webhooks."""

    def recheck(self) -> None:
        """A webhook came or went, or the clock was set: let each look again."""
        self._hear()
        self._bus.tell(_RECHECK)

    def _hear(self) -> None:
        self._is_stale = True
        self._feed.wake()

    async def run(self) -> None:
        """Deliver until cancelled."""
        self._tasks, self._pokes, self._owners, self._passed = {}, {}, {}, {}  # an earlier run's have ended
        self._is_stale, self._seen = True, 0
        async with asyncio.TaskGroup() as group:
            with self._feed.listening() as woken:
                while True:
                    woken.clear()
                    try:
                        await self._look(group)
                    except Exception:
                        log.exception("webhooks.look_failed")
                        await asyncio.sleep(_RETRY_S)
                        woken.set()
                    await woken.wait()

    async def _look(self, group: asyncio.TaskGroup) -> None:
        """Start and end tasks as webhooks come and go, and tell those whose owner has new events."""
        async with self._store.read() as db:
            if self._is_stale:
                await self._reread(db, group)
            news = await events.owners_after(db, self._seen) if self._tasks else {}
        self._poke(news.keys())
        self._seen = max(self._seen, 0, *news.values())

    async def _reread(self, db: StoreConnection, group: asyncio.TaskGroup) -> None:
        self._is_stale = False  # before it is read, so that one that comes meanwhile makes it stale again
        try:
            self._seen = self._seen or await events.last(db)  # a new task looks for itself what is there
            there = dict(await webhooks.ids(db))
        except Exception:
            self._is_stale = True
            raise
        self._match(there, group)
        self._poke(set(there.values()))

    def _poke(self, owners: Set[str]) -> None:
        for webhook_id, owner in self._owners.items():
            if owner in owners:
                self._pokes[webhook_id].set()

    def _match(self, there: dict[str, str], group: asyncio.TaskGroup) -> None:
        for webhook_id in self._tasks.keys() - there.keys():
            self._tasks.pop(webhook_id).cancel()
            del self._pokes[webhook_id], self._owners[webhook_id]
            self._passed.pop(webhook_id, None)
        for webhook_id in there.keys() - self._tasks.keys():
            self._pokes[webhook_id], self._owners[webhook_id] = asyncio.Event(), there[webhook_id]
            self._tasks[webhook_id] = group.create_task(self._serve(webhook_id))

    async def _serve(self, webhook_id: str) -> None:
        poke = self._pokes[webhook_id]
        while True:
            poke.clear()
            try:
                pause_s = await self._deliver_next(webhook_id)
            except Exception:
                log.exception("webhook.failed", id=webhook_id)
                pause_s = _RETRY_S
            if pause_s != 0:
                await _poked(poke, pause_s)

    async def _deliver_next(self, webhook_id: str) -> float | None:
        """Try one event. Gives the seconds until there is something to do, None for not before new events."""
        async with self._store.read() as db:
            hook = await webhooks.get(db, webhook_id)
            event = await self._next(db, hook) if hook else None
        if hook is None or event is None:
            return None
        now = self._clock()
        if hook.next_attempt_at and hook.next_attempt_at > now:
            return min(_LOOK_AGAIN_S, (hook.next_attempt_at - now).total_seconds())
        async with self._slot(hook.owner):
            error = await self._post(hook, event)
        await self._write_down(hook, event, error)
        return 0

    async def _next(self, db: StoreConnection, hook: WebhookRecord) -> EventRecord | None:
        """The hook's next event. Events of unwanted types are not searched again."""
        newest = await events.newest(db, hook.owner)  # before the search, so that none slips in between
        place = max(hook.after_seq, self._passed.get(hook.id, 0))
        event = await events.next_of(db, hook.owner, hook.types, place)
        if event is None:
            self._passed[hook.id] = newest
        return event

    @asynccontextmanager
    async def _slot(self, owner: str) -> AsyncGenerator[None, None]:
        """The right to send: few at once for each owner, so that one with many dead receivers leaves room."""
        own = self._sending_for.setdefault(owner, asyncio.Semaphore(_MAX_AT_ONCE_FOR_OWNER))
        async with own, self._sending:
            yield

    async def _post(self, hook: WebhookRecord, event: EventRecord) -> str | None:
        told = event_of(self._ids, event)
        body = json.dumps(to_wire(told), separators=(",", ":")).encode()
        message_id = hashlib.sha256(f"{hook.id}:{told.id}".encode()).hexdigest()[:32]
        timestamp = str(int(self._clock().timestamp()))
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"bay/{__version__}",
            "webhook-id": message_id,
            "webhook-timestamp": timestamp,
            "webhook-signature": webhook_signature(hook.secret, message_id, timestamp, body),
        }
        return await self._poster.post(hook.url, headers, body)

    async def _write_down(self, hook: WebhookRecord, event: EventRecord, error: str | None) -> None:
        now = self._clock()
        async with self._store.write() as db:
            outcome = "delivered" if error is None else "failed"
            db.tally(lambda meters: meters.webhooks.labels(outcome).inc())
            if error is None:
                await webhooks.change(
                    db, hook.id, after_seq=event.seq, attempts=0, next_attempt_at=None, last_error=None
                )
                return
            attempts = hook.attempts + 1
            retry_at = now + timedelta(seconds=BACKOFF.pause(attempts))
            await webhooks.change(db, hook.id, attempts=attempts, next_attempt_at=retry_at, last_error=error)
            if event.at <= now - GIVE_UP:
                # All that is as old goes with it, or a receiver that comes back would wait an hour for each.
                old = await events.newest_before(db, hook.owner, now - GIVE_UP)
                await webhooks.change(db, hook.id, after_seq=max(old, event.seq))
        self._say(hook, event, error, attempts, now)

    def _say(self, hook: WebhookRecord, event: EventRecord, error: str, attempts: int, now: datetime) -> None:
        # The host alone: path and query of a webhook's URL are often a secret.
        kind = "webhook.gave_up" if event.at <= now - GIVE_UP else "webhook.undelivered"
        log.info(kind, id=hook.id, host=httpx.URL(hook.url).host, attempts=attempts, error=error)


async def _poked(poke: asyncio.Event, pause_s: float | None) -> None:
    """Return when it is poked, or after `pause_s`."""
    with suppress(TimeoutError):
        async with asyncio.timeout(pause_s):
            await poke.wait()
