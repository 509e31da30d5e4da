"""The port service: listeners in a sandbox, their access, and links that open one."""

import secrets
from dataclasses import dataclass, replace
from datetime import timedelta
from urllib.parse import quote

from bay.errors import BadRequest
from bay.models import Port, PortAccess, PortLink, PortSettings, to_wire
from bay.server.ports.gate import PortHosts
from bay.server.ports.links import Pass, PortTokens
from bay.server.ports.ship_client import PortClient
from bay.server.sessions.core import Core
from bay.server.sessions.rows import peer_of
from bay.server.sessions.waker import Waker
from bay.server.web.auth import Caller
from bay.store import events, sandboxes
from bay.store.connection import StoreConnection
from bay.store.records import SandboxRecord

MAX_PORTS = 64
"""The ports of a sandbox whose access can be set."""


@dataclass(kw_only=True, eq=False)
class Ports:
    """The service behind `…/ports`. None of it starts compute."""

    core: Core
    waker: Waker
    ship: PortClient
    hosts: PortHosts
    tokens: PortTokens

    async def list(self, caller: Caller, ref: str) -> tuple[Port, ...]:
        """Where something listens now; nothing for a sandbox that does not run."""
        async with self.waker.holding(caller, ref, follower=True) as record:
            session = record.session
            peer = peer_of(session) if session is not None and session.phase == "running" else None
            listening = await self.ship.listening(peer) if peer is not None else ()
        access = {setting.port: setting.access for setting in record.ports}
        label = record.host or record.id
        return tuple(
            replace(found, access=access.get(found.port, "owner"), url=self.hosts.url(label, found.port))
            for found in listening
        )

    async def set_access(self, caller: Caller, ref: str, port: int, access: PortAccess) -> PortSettings:
        """Say who may reach a port."""
        setting = PortSettings(port=port, access=access)
        await self._change(caller, ref, port, setting)
        return setting

    async def forget(self, caller: Caller, ref: str, port: int) -> None:
        """Take back what was said of a port: it is its owner's. Idempotent."""
        await self._change(caller, ref, port, None)

    async def make_link(
        self, caller: Caller, ref: str, port: int, expires_in: int, *, once: bool
    ) -> PortLink:
        """A URL that opens the port to its bearer, as long as the key that made it is valid."""
        record = await self.waker.find(caller, ref)
        self.waker.refuse_expired(record)
        expires_at = (self.core.clock() + timedelta(seconds=expires_in)).replace(microsecond=0)
        given = Pass(
            sandbox_id=record.id,
            port=port,
            key_id=caller.key_id,
            expires_at=expires_at,
            once=secrets.token_hex(12) if once else None,
        )
        token = self.tokens.seal("link", given)
        url = f"{self.hosts.url(record.host or record.id, port)}.bay/open?token={token}&to={quote('/', safe='')}"
        return PortLink(url=url, expires_at=expires_at, once=once)

    async def _change(self, caller: Caller, ref: str, port: int, setting: PortSettings | None) -> None:
        record = await self.waker.find(caller, ref)
        self.waker.refuse_expired(record)
        async with self.core.store.write() as db:
            present = await sandboxes.get(db, record.id) or record
            others = tuple(found for found in present.ports if found.port != port)
            ports = others if setting is None else (*others, setting)
            if ports != present.ports:
                await self._write(db, present, ports)

    async def _write(
        self, db: StoreConnection, record: SandboxRecord, ports: tuple[PortSettings, ...]
    ) -> None:
        if len(ports) > MAX_PORTS:
            raise BadRequest(f"access can be set for at most {MAX_PORTS} ports")
        await sandboxes.change(db, record.id, ports=to_wire(ports))
        await events.add(db, record, "sandbox.updated", self.core.clock(), fields=["ports"])
