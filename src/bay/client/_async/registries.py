"""Logins to the registries of images."""

from bay.client._async.http import AsyncNoun
from bay.client._calls import Call
from bay.client._paths import noun_path
from bay.models import RegistryLogin


class AsyncRegistries(AsyncNoun):
    """The logins of the key's owner. No call gives a password back."""

    async def login(self, host: str, username: str, password: str) -> RegistryLogin:
        """Keep a user name and a password or token for the registry `host`, in place of what it had.

        Bay gives them to that registry alone, and to the host that it names for its tokens.
        """
        body = {"username": username, "password": password}
        call = Call("PUT", noun_path("registries", host), body=body, safe=True)
        return await self._http.one(RegistryLogin, call)

    async def list(self) -> list[RegistryLogin]:
        """All of them by host."""
        return await self._http.all(RegistryLogin, Call.get("/v1/registries"))

    async def logout(self, host: str) -> None:
        """Forget a login. Raises NotFound."""
        await self._http.json(Call("DELETE", noun_path("registries", host)))
