"""The cargos of an owner: files that outlive sandboxes."""

from collections.abc import AsyncGenerator

from bay.client._async.http import AsyncNoun
from bay.client._calls import COPY_S, Call, given
from bay.client._paths import noun_path
from bay.models import Cargo, Checkpoint


class AsyncCargos(AsyncNoun):
    """The cargos of the key's owner: external ones, which you make, and managed ones of sandboxes."""

    async def create(
        self,
        *,
        size_limit_mb: int | None = None,
        from_checkpoint: str | Checkpoint | None = None,
        idempotency_key: str | None = None,
    ) -> Cargo:
        """A new cargo, empty or with the files of a checkpoint; `sandboxes.create(cargo_id=…)` mounts it.

        Sent again by itself when the connection fails, under one idempotency key. `size_limit_mb` holds where
        the answer says `size_limit_enforced`.
        """
        origin = from_checkpoint.id if isinstance(from_checkpoint, Checkpoint) else from_checkpoint
        body = given(size_limit_mb=size_limit_mb, from_checkpoint=origin)
        call = Call.once("/v1/cargos", body, idempotency_key, wait_s=COPY_S if origin else 0.0)
        return await self._http.one(Cargo, call)

    def list(self, *, managed: bool | None = None, limit: int | None = None) -> AsyncGenerator[Cargo, None]:
        """The external ones, or with `managed=True` those of sandboxes; `limit` is the size of a page."""
        filters = {"managed": None if managed is None else str(managed).lower(), "limit": limit}
        return self._http.paged(Cargo, "/v1/cargos", filters)

    async def get(self, cargo_id: str) -> Cargo:
        """The cargo of that id. Raises NotFound."""
        return await self._http.one(Cargo, Call.get(noun_path("cargos", cargo_id)))

    async def update(self, cargo_id: str, *, size_limit_mb: int | None) -> Cargo:
        """Change how much it may hold, in MiB; None is no limit."""
        body = {"size_limit_mb": size_limit_mb}
        return await self._http.one(Cargo, Call("PATCH", noun_path("cargos", cargo_id), body=body, safe=True))

    async def delete(self, cargo_id: str) -> None:
        """Remove an external cargo and its files for good. Raises Conflict for a managed or used one."""
        await self._http.json(Call("DELETE", noun_path("cargos", cargo_id)))

    async def move(self, cargo_id: str, sandbox: str) -> Cargo:
        """Have a sandbox (id or name) use this cargo from now on, in place of its own.

        Both that sandbox and the one that had the cargo must be cold, else it raises Conflict. No files are
        lost: the sandbox's old files become an external cargo, and the one whose managed cargo went away gets
        an empty one.
        """
        call = Call("POST", noun_path("cargos", cargo_id, "move"), body={"sandbox": sandbox})
        return await self._http.one(Cargo, call)
