"""The secrets of an owner: values that sandboxes are given by name."""

from bay.client._async.http import AsyncNoun
from bay.client._calls import Call
from bay.client._paths import noun_path
from bay.models import Secret


class AsyncSecrets(AsyncNoun):
    """The secrets of the key's owner. No call gives a value back."""

    async def set(self, name: str, value: str) -> Secret:
        """Keep `value` under `name`, in place of the one it had.

        The next command of each sandbox that is given the secret has the new value. Raises QuotaExceeded.
        """
        return await self._http.one(
            Secret, Call("PUT", noun_path("secrets", name), body={"value": value}, safe=True)
        )

    async def list(self) -> list[Secret]:
        """All of them by name, without their values."""
        return await self._http.all(Secret, Call.get("/v1/secrets"))

    async def delete(self, name: str) -> None:
        """Forget a secret. Sandboxes that are given it do not start without it. Raises NotFound."""
        await self._http.json(Call("DELETE", noun_path("secrets", name)))
