"""The secret service keeps the values of an owner, and never shows one."""

from dataclasses import dataclass

from bay.clock import Clock
from bay.errors import NotFound, QuotaExceeded
from bay.models import Secret
from bay.server.secrets.vault import Vault
from bay.server.sessions.quotas import Quotas
from bay.server.web.auth import Caller
from bay.store import audit, secrets
from bay.store.engine import Store
from bay.store.records import SecretRecord

MAX_SECRETS = 200


@dataclass(eq=False, kw_only=True)
class Secrets:
    """The service behind `/v1/secrets`."""

    store: Store
    vault: Vault
    quotas: Quotas
    clock: Clock

    async def put(self, caller: Caller, name: str, value: str) -> Secret:
        """Keep the value under that name, in place of the one it had. Raises QuotaExceeded."""
        audit.about(name)
        sealed = self.vault.seal(caller.owner, name, value)
        async with self.store.write() as db:
            if await secrets.put(db, caller.owner, name, sealed, self.clock()):
                present = await secrets.count(db, caller.owner)
                if present > MAX_SECRETS:
                    raise QuotaExceeded(f"you have {MAX_SECRETS} secrets, the limit; delete one")
                self.quotas.admit_secret(caller, present - 1)
            found = await secrets.get(db, caller.owner, name)
        return _view(_found(found, name))

    async def all(self, caller: Caller) -> list[Secret]:
        """The caller's secrets by name."""
        async with self.store.read() as db:
            return [_view(record) for record in await secrets.of_owner(db, caller.owner)]

    async def delete(self, caller: Caller, name: str) -> None:
        """Forget the value; sandboxes that are given it start no more. Raises NotFound."""
        async with self.store.write() as db:
            if not await secrets.remove(db, caller.owner, name):
                raise NotFound(f"there is no secret {name}")
            audit.about(name)


def _found(record: SecretRecord | None, name: str) -> SecretRecord:
    if record is None:
        raise NotFound(f"there is no secret {name}")
    return record


def _view(record: SecretRecord) -> Secret:
    return Secret(name=record.name, created_at=record.created_at, updated_at=record.updated_at)
