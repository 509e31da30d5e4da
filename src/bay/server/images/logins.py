"""The service of logins: a user name and a password for each registry, kept encrypted, shown to nobody."""

import json
from dataclasses import dataclass

from bay.clock import Clock
from bay.drivers.base import Driver, NamedImages
from bay.errors import CapabilityNotSupported, Conflict, ImageDenied, NotFound
from bay.images import references
from bay.images.registries import Credentials
from bay.models import RegistryLogin
from bay.server.secrets.vault import Unreadable, Vault
from bay.server.web.auth import Caller
from bay.store import audit, registry_logins
from bay.store.engine import Store
from bay.store.records import ImageRecord, RegistryLoginRecord

_MAX_LOGINS = 50


@dataclass(kw_only=True, eq=False)
class RegistryLogins:
    """The service behind `/v1/registries`."""

    store: Store
    driver: Driver
    vault: Vault
    clock: Clock

    async def put(self, caller: Caller, host: str, credentials: Credentials) -> RegistryLogin:
        """Keep a login, in place of the one that the registry had. Raises InvalidArgument, Conflict, or
        CapabilityNotSupported where Bay fetches no images.
        """
        host = references.parse_host(host)
        if isinstance(self.driver.capabilities.other_images, NamedImages):
            raise CapabilityNotSupported(
                "the nodes of the cluster fetch images, and no login of an owner reaches them; the server's operator "
                "names a Secret with it in the setting pull_secrets",
                details={"capability": "registry_logins", "available": []},
            )
        audit.about(host)
        text = json.dumps([credentials.username, credentials.password])
        sealed = self.vault.seal(caller.owner, _name(host), text)
        record = RegistryLoginRecord(owner=caller.owner, host=host, sealed=sealed, updated_at=self.clock())
        async with self.store.write() as db:
            await registry_logins.put(db, record)
            if len(await registry_logins.of_owner(db, caller.owner)) > _MAX_LOGINS:
                raise Conflict(f"you have {_MAX_LOGINS} logins to registries, the limit; remove one")
        return RegistryLogin(host=host, username=credentials.username, updated_at=record.updated_at)

    async def all(self, caller: Caller) -> list[RegistryLogin]:
        """The caller's logins by host."""
        async with self.store.read() as db:
            found = await registry_logins.of_owner(db, caller.owner)
        return [
            RegistryLogin(host=one.host, username=self._opened(one).username, updated_at=one.updated_at)
            for one in found
        ]

    async def delete(self, caller: Caller, host: str) -> None:
        """Forget a login. Raises NotFound."""
        host = references.parse_host(host)
        async with self.store.write() as db:
            if not await registry_logins.remove(db, caller.owner, host):
                raise NotFound(f"there is no login to the registry {host}")
        audit.about(host)

    async def of_image(self, image: ImageRecord) -> Credentials | None:
        """The login of the image's owner to its registry. Raises ImageDenied for one that no key opens."""
        async with self.store.read() as db:
            found = await registry_logins.get(db, image.owner, references.parse(image.ref).host)
        return None if found is None else self._opened(found)

    def _opened(self, record: RegistryLoginRecord) -> Credentials:
        try:
            text = self.vault.unseal(record.owner, _name(record.host), record.sealed)
        except Unreadable:
            raise ImageDenied(
                f"the login to the registry {record.host} cannot be read: the server's key for secrets was lost; "
                f"log in again: `bay image login {record.host}`"
            ) from None
        username, password = json.loads(text)
        return Credentials(username=username, password=password)


def _name(host: str) -> str:
    """The name that a login is sealed as: no secret can have one with a slash."""
    return f"registry/{host}"
