"""The service of managed services. Calls change rows, and return when a running session has them."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TypeVar

from bay.errors import BayError, Conflict, NotFound, OutputGone
from bay.models import OutputChunk, PortSettings, Profile, Service, ServiceSpec, to_wire
from bay.server.execs.locator import LOST
from bay.server.managed_services import rules, ship_client
from bay.server.managed_services.ship_client import ServiceClient, ServiceStatus, States
from bay.server.managed_services.syncer import ServiceSyncer
from bay.server.sessions.rows import peer_of
from bay.server.sessions.waker import Waker
from bay.server.ship.answers import OutputEnd
from bay.server.web.auth import Caller
from bay.server.web.open_connections import OpenConnections
from bay.store import sandboxes, services
from bay.store.connection import StoreConnection
from bay.store.engine import Store
from bay.store.records import SandboxRecord, SessionRecord

Output = AsyncIterator[OutputChunk | OutputEnd]
Known = list[Service]
Specs = list[ServiceSpec]
_AT_REST = "not known until the sandbox is woken"

S = TypeVar("S", Service, ServiceSpec)
Change = Callable[[Specs], Sequence[ServiceSpec]]


@dataclass(eq=False, kw_only=True)
class SandboxServices:
    """The service behind `…/services`. It starts no compute: a cold sandbox has them with its next start."""

    store: Store
    waker: Waker
    ship: ServiceClient
    syncer: ServiceSyncer
    connections: OpenConnections
    profiles: Mapping[str, Profile]

    async def list(self, caller: Caller, ref: str) -> Known:
        """All, in the order in which they were made; of a frozen sandbox as they were last seen.
        A key that may only read is shown no values of variables, which may be secrets.
        """
        record = await self.waker.find(caller, ref)
        present = await self._present(record)
        return present if caller.may("write") else [_without_values(one) for one in present]

    async def get(self, caller: Caller, ref: str, name: str) -> Service:
        """One of them. Raises NotFound."""
        return _of_name(await self.list(caller, ref), name)

    async def put(
        self, caller: Caller, ref: str, spec: ServiceSpec, *, url_port: int | None = None
    ) -> tuple[Service, bool]:
        """The service made or replaced, and whether it is new. Raises InvalidArgument and Forbidden. With
        `url_port` the sandbox's own URL leads to the service with an `http_port`, and without one to
        `url_port`; raises Conflict for the `http_port` of a second one.
        """
        known: list[str] = []

        def change(specs: Specs) -> Sequence[ServiceSpec]:
            if url_port is not None:
                _check_alone(spec, specs)
            known.extend(one.name for one in specs)
            kept = [spec if one.name == spec.name else one for one in specs]
            return kept if spec.name in known else [*kept, spec]

        record = await self._change(caller, ref, change, url_port)
        return await self._told(caller, record.id, spec.name), spec.name not in known

    async def delete(self, caller: Caller, ref: str, name: str, *, url_port: int | None = None) -> None:
        """End and forget it, with its output. Raises NotFound, Conflict while another service needs it.
        `url_port` as for `put`.
        """

        def change(specs: Specs) -> Sequence[ServiceSpec]:
            _of_name(specs, name)
            if needing := rules.needing(specs, name):
                raise Conflict(f"service {needing[0]} needs {name}; change or delete {needing[0]} first")
            return [one for one in specs if one.name != name]

        record = await self._change(caller, ref, change, url_port)
        await self.tell(caller, record.id)

    async def start(self, caller: Caller, ref: str, name: str) -> Service:
        """Have it run, now and with every session to come; also one that had ended for good. Idempotent."""
        record = await self._enable(caller, ref, name, enabled=True)
        service = await self._told(caller, record.id, name)
        if service.state in ("exited", "failed"):
            return await self._restarted(caller, record.id, name)
        return service

    async def stop(self, caller: Caller, ref: str, name: str) -> Service:
        """End it, and leave it ended until `start`. Idempotent."""
        record = await self._enable(caller, ref, name, enabled=False)
        return await self._told(caller, record.id, name)

    async def restart(self, caller: Caller, ref: str, name: str) -> Service:
        """End it, if it runs, and start it anew, thawing a frozen sandbox; turns on one that is off."""
        was_enabled = _of_name(await self._specs_of(await self.waker.find(caller, ref)), name).enabled
        record = await self._enable(caller, ref, name, enabled=True)
        return await (self._restarted if was_enabled else self._told)(caller, record.id, name)

    async def signal(self, caller: Caller, ref: str, name: str, signal: str) -> Service:
        """Send a signal to its process group, thawing a frozen sandbox. Raises Conflict unless it runs."""
        async with self.waker.holding(caller, ref) as sandbox:
            self.waker.refuse_expired(sandbox)
            spec = _of_name(await self._specs_of(sandbox), name)
            if not sandbox.has_compute:
                raise Conflict(
                    f"service {name} does not run, as its sandbox does not; start the sandbox first"
                )
            async with self.waker.reach(sandbox) as (_, peer):
                return (await self.ship.signal(peer, name, signal)).to_service(spec)

    async def tell(self, caller: Caller, ref: str) -> None:
        """Return once a session that runs has what the rows say; one that starts has it soon, and without one
        there is nothing to do. A failed sync is retried, and so nothing is raised.
        """
        async with self.waker.holding(caller, ref) as sandbox:
            session = sandbox.session
            if session is None:
                return
            if session.phase == "running":
                await self.syncer.tell(sandbox.id, session.id)
                self.waker.touch(sandbox)
            else:
                self.syncer.tell_later(session.id)

    @asynccontextmanager
    async def logs(
        self, caller: Caller, ref: str, name: str, since: int, *, follow: bool
    ) -> AsyncGenerator[Output]:
        """Its output in this session from byte `since` on. Raises OutputGone when that is no longer buffered.
        Followed, it ends once the service has ended for good or its session is over. Thaws a frozen sandbox;
        a cold one has no output.
        """
        with self.connections.place(caller.owner) if follow else nullcontext():
            async with self.waker.holding(caller, ref, follower=follow) as sandbox:
                _of_name(await self._specs_of(sandbox), name)
                session_id = sandbox.session.id if sandbox.session else ""
                async with self.waker.reach_session(sandbox, session_id, thaw=True) as peer:
                    if peer is None:
                        if since > 0:
                            raise OutputGone(
                                "the output ended with its session; read from offset 0",
                                details={"first_offset": 0},
                            )
                        yield _nothing()
                        return
                    async with self.ship.logs(peer, name, since, follow) as chunks:
                        yield (
                            self._followed(caller, sandbox.id, peer.session_id, chunks) if follow else chunks
                        )

    async def _followed(
        self, caller: Caller, sandbox_id: str, session_id: str, chunks: Output
    ) -> AsyncGenerator[OutputChunk | OutputEnd]:
        """The chunks, and that it is lost when they break off because the session is over."""
        async with (
            aclosing(self.connections.allowed(caller, chunks)) as allowed,
            aclosing(self.waker.until_over(sandbox_id, session_id, allowed, lambda: LOST)) as items,
        ):
            async for chunk in items:
                yield chunk

    async def _change(
        self, caller: Caller, ref: str, change: Change, url_port: int | None = None
    ) -> SandboxRecord:
        """Write what `change` makes of the services. Raises what it and the rules raise."""
        record = await self.waker.find(caller, ref)
        self.waker.refuse_expired(record)
        profile = self.profiles.get(record.profile)
        async with self.store.write() as db:
            before = await services.all_of(db, record.id)
            after = rules.checked(change(before), root=profile is None or profile.root)
            for spec in after:
                if spec not in before:
                    await services.put(db, record.id, spec)
            for name in {spec.name for spec in before} - {spec.name for spec in after}:
                await services.remove(db, record.id, name)
            was, serves = _http_port(before), _http_port(after)
            if url_port is not None and serves != was:
                await _lead_url(db, record.id, was, serves, url_port)
        return record

    async def _enable(self, caller: Caller, ref: str, name: str, *, enabled: bool) -> SandboxRecord:
        def change(specs: Specs) -> Sequence[ServiceSpec]:
            _of_name(specs, name)
            return [replace(one, enabled=enabled) if one.name == name else one for one in specs]

        return await self._change(caller, ref, change)

    async def _told(self, caller: Caller, sandbox_id: str, name: str) -> Service:
        await self.tell(caller, sandbox_id)
        return await self.get(caller, sandbox_id, name)

    async def _restarted(self, caller: Caller, sandbox_id: str, name: str) -> Service:
        async with self.waker.holding(caller, sandbox_id) as sandbox:
            spec = _of_name(await self._specs_of(sandbox), name)
            if not sandbox.has_compute:
                return ship_client.stopped(spec)
            async with self.waker.reach(sandbox) as (_, peer):
                await self.syncer.tell(sandbox.id, peer.session_id)
                return (await self.ship.restart(peer, name)).to_service(spec)

    async def _specs_of(self, record: SandboxRecord) -> Specs:
        async with self.store.read() as db:
            return await services.all_of(db, record.id)

    async def _present(self, record: SandboxRecord) -> Known:
        specs, session = await self._specs_of(record), record.session
        if session is None or not (record.has_compute or session.phase in ("running", "paused")):
            return [ship_client.stopped(spec) for spec in specs]
        if not specs:
            return []
        report = await self.syncer.report(record.id, session.id)
        asked = await self._asked(session)
        states = report.seen if asked is None else asked
        unknown = report.trouble or (None if session.phase == "running" else _AT_REST)
        return [_joined(spec, states.get(spec.name), report.trouble, unknown) for spec in specs]

    async def _asked(self, session: SessionRecord) -> States | None:
        """The present report of the session's Ship; None of a frozen or silent one."""
        peer = peer_of(session) if session.phase == "running" else None
        if peer is None:
            return None
        try:
            return await self.ship.list(peer)
        except BayError:
            return None


def _joined(
    spec: ServiceSpec, status: ServiceStatus | None, trouble: str | None, unknown: str | None
) -> Service:
    if status is None:
        return ship_client.waiting(spec, unknown)
    service = status.to_service(spec)
    return service if trouble is None else replace(service, message=trouble)


def _check_alone(spec: ServiceSpec, specs: Specs) -> None:
    others = (one.name for one in specs if one.http_port is not None and one.name != spec.name)
    if spec.http_port is not None and (other := next(others, None)) is not None:
        raise Conflict(
            f"service {other} has an http_port already; delete it or take its http_port away first"
        )


def _http_port(specs: Sequence[ServiceSpec]) -> int | None:
    return next((one.http_port for one in specs if one.http_port is not None), None)


async def _lead_url(
    db: StoreConnection, sandbox_id: str, before: int | None, now: int | None, url_port: int
) -> None:
    """Have the URL lead from the port of one service to that of another."""
    sandbox = await sandboxes.get(db, sandbox_id)
    url = sandbox and sandbox.url
    if url is None or now is not None or url.port == before:  # else it leads where its owner wanted
        led = PortSettings(port=now or url_port, access=url.access if url else "owner")
        await sandboxes.change(db, sandbox_id, url=to_wire(led))


def _of_name(found: Sequence[S], name: str) -> S:
    for one in found:
        if one.name == name:
            return one
    raise NotFound(f"there is no service {name}")


async def _nothing() -> AsyncGenerator[OutputChunk | OutputEnd]:
    """The output of a service whose sandbox has no session."""
    yield LOST


def _without_values(service: Service) -> Service:
    return replace(service, env=dict.fromkeys(service.env, "***"))
