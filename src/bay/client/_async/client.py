"""The client of one Bay, the entry to its sandboxes."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, nullcontext, suppress
from typing import Self, Unpack

import httpx

from bay.client._async.admin import AsyncAdmin
from bay.client._async.audit import AsyncAudit
from bay.client._async.box import AsyncBox
from bay.client._async.cargos import AsyncCargos
from bay.client._async.events import events
from bay.client._async.http import AsyncHttp, AsyncNoun
from bay.client._async.images import AsyncImages
from bay.client._async.keys import AsyncKeys
from bay.client._async.registries import AsyncRegistries
from bay.client._async.remote import AsyncRemoteCheckpoints
from bay.client._async.secrets import AsyncSecrets
from bay.client._async.skills import AsyncSkills
from bay.client._async.templates import AsyncTemplates
from bay.client._async.webhooks import AsyncWebhooks
from bay.client._calls import Call
from bay.client._config import resolve
from bay.client._lease import LEASE_S, Leases, lease_now
from bay.client._options import (
    CreateOptions,
    create_call,
    is_fetched_by_nodes,
    known,
    named,
    refuse_exist_ok,
)
from bay.client._paths import sandbox_path
from bay.client._seam import async_cleanup
from bay.client._waits import READY_S, ready
from bay.errors import BayError, CallerError, CapabilityNotSupported, Conflict, NotFound
from bay.ids import new_id
from bay.models import ConsoleCode, Event, Profile, Sandbox, ServerCapabilities

ATTEMPTS = 3
"""How often `get_or_create` looks, while others make and delete the sandbox of that name."""


class AsyncSandboxes(AsyncNoun):
    """The sandboxes of the key's owner."""

    async def create(self, **options: Unpack[CreateOptions]) -> AsyncBox:
        """A new sandbox.

        With `wait` it answers when the sandbox is ready or has failed, or the seconds are over. Sent again by
        itself when the connection fails, under one idempotency key: one call makes one sandbox. Raises
        Conflict when the name is taken.
        """
        known("create", options, CreateOptions)
        if options.get("exist_ok"):
            return await self._get_or_create(named(options), options)
        key = options.get("idempotency_key") or new_id("key")
        return AsyncBox(self._http, await self._http.one(Sandbox, create_call(options, key)))

    async def get_or_create(self, name: str, /, **options: Unpack[CreateOptions]) -> AsyncBox:
        """The sandbox of that name, or a new one that is as the options say.

        One that was there is not changed. Of several who ask at once one makes it. With `wait` either is
        ready, or has failed, or the seconds are over. One that has expired is removed first, as Bay does a
        minute later.
        """
        known("get_or_create", options, CreateOptions)
        return await self._get_or_create(name, options)

    async def _get_or_create(self, name: str, options: CreateOptions) -> AsyncBox:
        wanted: CreateOptions = {**options, "name": name, "exist_ok": None}
        for _ in range(ATTEMPTS):
            if (box := await self._usable(name, options.get("wait"))) is not None:
                return box
            with suppress(Conflict):  # another client has made it just now
                return await self.create(**wanted)
        return await self.create(**wanted)

    async def _usable(self, name: str, wait: float | None) -> AsyncBox | None:
        try:
            box = await self.get(name)
            if box.info.status != "expired":
                if wait:
                    await box.start(wait)
                return box
            await box.delete()
        except NotFound:
            pass
        return None

    async def get(self, id_or_name: str) -> AsyncBox:
        """The sandbox of that id or name. Raises NotFound."""
        return AsyncBox(self._http, await self._http.one(Sandbox, Call.get(sandbox_path(id_or_name))))

    async def list(
        self,
        *,
        status: str | None = None,
        compute: str | None = None,
        profile: str | None = None,
        name_prefix: str | None = None,
        label: str | None = None,
        order: str | None = None,
        limit: int | None = None,
    ) -> AsyncGenerator[AsyncBox, None]:
        """All that match, oldest first; with `order` ``newest`` the newest first. `label` is ``key:value``,
        `limit` how many one request asks for.
        """
        filters = {
            "status": status,
            "compute": compute,
            "profile": profile,
            "name_prefix": name_prefix,
            "label": label,
            "order": order,
            "limit": limit,
        }
        async for info in self._http.paged(Sandbox, "/v1/sandboxes", filters):
            yield AsyncBox(self._http, info)


class AsyncClient:
    """A client of one Bay, with its own pool of connections; close it, or use it as a context manager.

    `base_url` and `api_key` default to `BAY_URL` (else http://127.0.0.1:8700) and `BAY_API_KEY`.
    `timeout_s` bounds each silence of the server; `retry_s` bounds the waiting between attempts of
    a call that is safe to repeat. `transport` is an httpx transport, for tests and for a Bay in the
    same process; proxies of the environment do not apply then. Raises InvalidArgument for a URL that is
    none.
    """

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        timeout_s: float = 60.0,
        retry_s: float = 10.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        config = resolve(base_url, api_key, timeout_s, retry_s, proxied=transport is None)
        self._http = AsyncHttp(config, transport)
        self._leases = Leases(config) if transport is None else None
        self.sandboxes = AsyncSandboxes(self._http)
        self.cargos = AsyncCargos(self._http)
        self.remote_checkpoints = AsyncRemoteCheckpoints(self._http)
        self.secrets = AsyncSecrets(self._http)
        self.images = AsyncImages(self._http)
        self.templates = AsyncTemplates(self._http)
        self.skills = AsyncSkills(self._http)
        self.registries = AsyncRegistries(self._http)
        self.webhooks = AsyncWebhooks(self._http)
        self.keys = AsyncKeys(self._http)
        self.audit = AsyncAudit(self._http)
        self.admin = AsyncAdmin(self._http)

    @property
    def base_url(self) -> str:
        """Where it sends its calls."""
        return self._http.config.url

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections. Sandboxes and commands go on."""
        await self._http.aclose()

    async def health(self) -> dict[str, str]:
        """``{"status": "ok", "version": …}``; needs no key."""
        answer = await self._http.json(Call.get("/health"))
        return {name: str(value) for name, value in answer.items()}

    async def profiles(self) -> list[Profile]:
        """The kinds of sandbox there are; needs no key."""
        return await self._http.all(Profile, Call.get("/v1/profiles"))

    async def capabilities(self) -> ServerCapabilities:
        """The abilities of the server, by its driver and its storage."""
        return await self._http.one(ServerCapabilities, Call.get("/v1/capabilities"))

    async def console_code(self) -> ConsoleCode:
        """A code that signs one browser in to the console as you, once and within 60 seconds; its `url` opens
        the console with it.
        """
        return await self._http.one(ConsoleCode, Call("POST", "/v1/console/codes", safe=True))

    def events(
        self, since: str | None = None, *, sandbox: str | None = None, follow: bool = True
    ) -> AsyncGenerator[Event, None]:
        """The events of all the owner's sandboxes, in order, without end; or of one, until it is deleted.

        It begins with what happens after the first event is asked for, or behind the event whose id is
        `since` (``"0"``: with the oldest still kept). A dropped connection is taken up again where it broke,
        for as long as the client's `retry_s`. An event of type ``events.gap`` stands where older ones are no
        longer kept. With `follow=False` it gives what is kept now, and ends. A deleted `sandbox` is known by
        its id.
        """
        path = sandbox_path(sandbox, "events") if sandbox else "/v1/events"
        return events(self._http, path, since, follow=follow, one_sandbox=sandbox is not None)

    @asynccontextmanager
    async def sandbox(self, **options: Unpack[CreateOptions]) -> AsyncGenerator[AsyncBox, None]:
        """A sandbox for the length of a `with` block: ready at its start, deleted at its end in any case.

        Takes what `sandboxes.create` takes but `exist_ok`; `wait` is 60 seconds unless named, once its image
        is here. Raises
        SandboxNotReady or DriverUnavailable when it does not get ready, and leaves nothing behind then
        either. Unless a `ttl` is named it lives for ten minutes that are renewed while the block lasts (not
        with a `transport` of your own), so that a program that is killed leaves nothing for longer.
        """
        known("sandbox", options, CreateOptions)
        refuse_exist_ok(options)
        wait_s = options.get("wait") or READY_S
        options = await self._with_image(options)
        leases = self._leases if options.get("ttl") is None else None
        wanted: CreateOptions = {**options, "wait": wait_s}
        if leases is not None:
            wanted["ttl"] = LEASE_S
        begun = lease_now()
        box = await self._create_or_nothing(wanted)
        try:
            ready(box.info, wait_s)
            with nullcontext() if leases is None else leases.holding(box.id, begun):
                yield box
        finally:
            with async_cleanup():
                await box.delete()

    async def _with_image(self, options: CreateOptions) -> CreateOptions:
        """The same options with the image here: a pull may take longer than any start. As they are where the
        server's nodes fetch images themselves.
        """
        wanted = options.get("image")
        if wanted in (None, "host"):
            return options
        try:
            image = await self.images.pull(wanted, pull=options.get("pull") or "missing")
        except CapabilityNotSupported as error:
            if is_fetched_by_nodes(error):
                return options
            raise
        return {**options, "image": image.id, "pull": "missing"}

    async def _create_or_nothing(self, options: CreateOptions) -> AsyncBox:
        """A create that, when it is cut short, takes back what the server may have made by then."""
        keyed: CreateOptions = {**options, "idempotency_key": options.get("idempotency_key") or new_id("key")}
        try:
            return await self.sandboxes.create(**keyed)
        except CallerError:
            raise
        except BaseException:
            with async_cleanup():
                await self._take_back({**keyed, "wait": None})
            raise

    async def _take_back(self, options: CreateOptions) -> None:
        # The same key gives the same sandbox, which is how its id is learnt.
        with suppress(BayError):
            box = await self.sandboxes.create(**options)
            await box.delete()
