"""The delivery gives sandboxes their secrets: as environment with each call, as files before it. Among them
are the credentials of the egress proxy.

Nothing of it is stored. A file is written into memory inside the sandbox when a session starts, and again
before the next call once its secret has another value.
"""

import asyncio
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from bay.errors import DriverUnavailable, Forbidden, SecretMissing
from bay.models import SandboxSecret
from bay.network.proxy import credentials
from bay.server.files.ship_client import FileClient
from bay.server.secrets import trust
from bay.server.secrets.vault import Unreadable, Vault
from bay.server.sessions.core import Core
from bay.server.sessions.effective_policy import is_brokered
from bay.server.sessions.rows import proxy_of
from bay.server.ship.connection import Peer
from bay.store import sandboxes, secrets
from bay.store.records import SandboxRecord, SecretRecord

_READ_ONLY, _WRITABLE = "0400", "0600"
_MAX_SESSIONS = 20_000


@dataclass(slots=True, eq=False)
class _Brought:
    """The files of a session: for each the sealed value that it has. The lock is held while they change."""

    trust: bool = False
    """Whether it has the certificates of its broker."""
    sealed: dict[str, bytes] = field(default_factory=dict[str, bytes])
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class SecretDelivery:
    """Reads the values that sandboxes are given. Raises SecretMissing for one that is no more."""

    def __init__(self, core: Core, vault: Vault, files: FileClient) -> None:
        self._core = core
        self._vault = vault
        self._files = files
        self._brought: dict[str, _Brought] = {}
        """By session."""

    async def check(self, sandbox: SandboxRecord) -> None:
        """Raises SecretMissing unless everything that it is given is there, and can be read."""
        if sandbox.secrets:
            self._values(sandbox, await self._records(sandbox))

    async def bring(self, sandbox: SandboxRecord, peer: Peer) -> dict[str, str]:
        """The variables that hold secrets, and those that name the certificates of a broker and the egress
        proxy, once the files of that session are as they should be.
        """
        if self._is_brokered(sandbox):
            await self._bring_trust(sandbox, peer)
        about_network = {**self._trust_env(sandbox), **self._proxy_env(sandbox, peer)}
        if not sandbox.secrets:
            return about_network
        records = await self._records(sandbox)
        values = self._values(sandbox, records)
        await self._write(sandbox, peer, records, values)
        return {**about_network, **_env(sandbox, values)}

    async def of_session(self, session_id: str, names: Collection[str]) -> Mapping[str, str]:
        """The values of those secrets of a session's owner that are there and can be read: for the broker."""
        async with self._core.store.read() as db:
            sandbox = await sandboxes.of_session(db, session_id)
            records = await secrets.named(db, sandbox.owner, names) if sandbox else {}
        found: dict[str, str] = {}
        for record in records.values():
            with suppress(Unreadable):
                found[record.name] = self._vault.unseal(record.owner, record.name, record.sealed)
        return found

    def _is_brokered(self, sandbox: SandboxRecord) -> bool:
        return is_brokered(sandbox, self._core.profiles.get(sandbox.profile))

    def _trust_env(self, sandbox: SandboxRecord) -> dict[str, str]:
        """Not those that the sandbox or its profile names otherwise: they have their reasons."""
        brought = self._brought.get(sandbox.session.id) if sandbox.session else None
        if brought is None or not brought.trust or not self._is_brokered(sandbox):
            return {}
        return self._unless_own(sandbox, trust.ENV)

    def _proxy_env(self, sandbox: SandboxRecord, peer: Peer) -> dict[str, str]:
        if (address := proxy_of(sandbox)) is None:
            return {}
        return self._unless_own(sandbox, credentials.environment(address, peer.session_id, peer.token))

    def _unless_own(self, sandbox: SandboxRecord, env: Mapping[str, str]) -> dict[str, str]:
        profile = self._core.profiles.get(sandbox.profile)
        own = {*sandbox.env, *(profile.env if profile else ())}
        return {name: value for name, value in env.items() if name not in own}

    async def _bring_trust(self, sandbox: SandboxRecord, peer: Peer) -> None:
        brought = self._brought_to(peer.session_id)
        async with brought.lock:
            if not brought.trust and sandbox.session is not None:
                brought.trust = await trust.bring(self._core.driver, sandbox.session, peer, self._files)

    async def _write(
        self, sandbox: SandboxRecord, peer: Peer, records: dict[str, SecretRecord], values: dict[str, str]
    ) -> None:
        wanted = {one.file: one.name for one in sandbox.secrets if one.file is not None}
        if not wanted:
            return
        brought = self._brought_to(peer.session_id)
        async with brought.lock:
            for path, name in wanted.items():
                if brought.sealed.get(path) != records[name].sealed:
                    await self._put(peer, path, values[name])
                    brought.sealed[path] = records[name].sealed

    async def _put(self, peer: Peer, path: str, value: str) -> None:
        """Put the file in place, whole. Ship acts as the sandbox's user, who may not write to an old one."""
        try:
            await self._files.upload(peer, path, value.encode(), mode=_READ_ONLY, mkdir=False)
        except Forbidden:
            await self._files.change_mode(peer, path, _WRITABLE, recursive=False)
            await self._files.upload(peer, path, value.encode(), mode=_READ_ONLY, mkdir=False)

    def _brought_to(self, session_id: str) -> "_Brought":
        if len(self._brought) >= _MAX_SESSIONS:
            self._brought.clear()  # those that live are written once more
        return self._brought.setdefault(session_id, _Brought())

    async def _records(self, sandbox: SandboxRecord) -> dict[str, SecretRecord]:
        async with self._core.store.read() as db:
            return await secrets.named(db, sandbox.owner, {one.name for one in sandbox.secrets})

    def _values(self, sandbox: SandboxRecord, records: dict[str, SecretRecord]) -> dict[str, str]:
        return {one.name: self._value(sandbox, one, records.get(one.name)) for one in sandbox.secrets}

    def _value(self, sandbox: SandboxRecord, given: SandboxSecret, record: SecretRecord | None) -> str:
        if record is None:
            raise SecretMissing(
                f"the secret {given.name} of sandbox {sandbox.id} was deleted; set it again, or create a "
                "sandbox without it"
            )
        try:
            return self._vault.unseal(record.owner, record.name, record.sealed)
        except Unreadable as error:
            raise DriverUnavailable(
                f"the secret {given.name} cannot be read: its key is not in this server's secrets.key; set "
                "the secret again, or put the key back"
            ) from error


def _env(sandbox: SandboxRecord, values: dict[str, str]) -> dict[str, str]:
    return {one.env: values[one.name] for one in sandbox.secrets if one.env is not None}
