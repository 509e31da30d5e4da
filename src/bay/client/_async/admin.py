"""What an operator looks at; takes an admin key."""

from bay.client._async.http import AsyncHttp
from bay.client._wire import Call, items, model
from bay.models import PoolState


class AsyncAdmin:
    """The host behind the sandboxes."""

    def __init__(self, http: AsyncHttp) -> None:
        self._http = http

    async def pool(self) -> list[PoolState]:
        """How full the pool of each profile that has one is, and what keeps it from being full."""
        page = await self._http.json(Call(method="GET", path="/v1/admin/pool", safe=True))
        return [model(PoolState, item) for item in items(page)]
