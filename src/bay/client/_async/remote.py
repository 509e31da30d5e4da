"""Checkpoints in the object store of Bay, whichever Bay pushed them."""

from collections.abc import AsyncGenerator, Callable

from bay.client._async.http import AsyncNoun
from bay.client._calls import Call, list_params
from bay.client._paths import noun_path
from bay.errors import error_from_wire
from bay.models import RemoteCheckpoint

OnPush = Callable[[RemoteCheckpoint], None]
"""Is called with the remote checkpoint about once a second."""

_WAIT_S = 25.0
_LOOK_S = 1.0


class AsyncRemoteCheckpoints(AsyncNoun):
    """The remote checkpoints of the key's owner. Each is called by its key."""

    def list(
        self, *, sandbox: str | None = None, limit: int | None = None
    ) -> AsyncGenerator[RemoteCheckpoint, None]:
        """All, by key, or those made of a sandbox (id or name); `limit` is the size of a page."""
        filters = {"sandbox": sandbox, "limit": limit}
        return self._http.paged(RemoteCheckpoint, "/v1/remote-checkpoints", filters)

    async def get(self, key: str) -> RemoteCheckpoint:
        """The one of that key. Raises NotFound."""
        return await self._http.one(RemoteCheckpoint, Call.get(noun_path("remote-checkpoints", key)))

    async def wait(self, key: str, *, progress: OnPush | None = None) -> RemoteCheckpoint:
        """The one of that key once its push has ended. Raises the error that it failed with."""
        while True:
            wait_s = _WAIT_S if progress is None else _LOOK_S
            call = Call.get(
                noun_path("remote-checkpoints", key), list_params({"wait": wait_s}, None), wait_s=wait_s
            )
            found = await self._http.one(RemoteCheckpoint, call)
            if progress is not None:
                progress(found)
            if found.state == "failed" and found.error is not None:
                raise error_from_wire(
                    0, {"error": {"code": found.error.code, "message": found.error.message}}
                )
            if found.state != "pushing":
                return found

    async def delete(self, key: str) -> None:
        """Remove it from the object store, and cancel its push. Checkpoints of sandboxes stay."""
        await self._http.json(Call("DELETE", noun_path("remote-checkpoints", key)))
