"""The cargos of an owner: files that outlive sandboxes."""

from collections.abc import AsyncIterator

from bay.client._answers import model
from bay.client._async.http import AsyncHttp
from bay.client._async.paging import paged
from bay.client._calls import COPY_S, Call, given
from bay.client._paths import cargo_path
from bay.ids import new_id
from bay.models import Cargo, Checkpoint


class AsyncCargos:
    """The cargos of the key's owner: external ones, which you make, and managed ones of sandboxes."""

    def __init__(self, http: AsyncHttp) -> None:
        self._http = http

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
        call = Call(
            method="POST",
            path="/v1/cargos",
            body=given(size_limit_mb=size_limit_mb, from_checkpoint=origin),
            headers={"Idempotency-Key": idempotency_key or new_id("key")},
            safe=True,
            wait_s=COPY_S if origin else 0.0,
        )
        return model(Cargo, await self._http.json(call))

    async def list(self, *, managed: bool | None = None, limit: int | None = None) -> AsyncIterator[Cargo]:
        """The external ones, or with `managed=True` those of sandboxes, page by page as they are taken.

        `limit` is the page size.
        """
        filters = {"managed": None if managed is None else str(managed).lower(), "limit": limit}
        async for item in paged(self._http, "/v1/cargos", filters):
            yield model(Cargo, item)

    async def get(self, cargo_id: str) -> Cargo:
        """The cargo of that id. Raises NotFound."""
        return model(Cargo, await self._http.json(Call(method="GET", path=cargo_path(cargo_id), safe=True)))

    async def update(self, cargo_id: str, *, size_limit_mb: int | None) -> Cargo:
        """Change how much it may hold, in MiB; None is no limit."""
        call = Call(
            method="PATCH", path=cargo_path(cargo_id), body={"size_limit_mb": size_limit_mb}, safe=True
        )
        return model(Cargo, await self._http.json(call))

    async def delete(self, cargo_id: str) -> None:
        """Remove an external cargo and its files for good.

        Raises Conflict while a sandbox has it, and for a managed one.
        """
        await self._http.json(Call(method="DELETE", path=cargo_path(cargo_id)))

    async def move(self, cargo_id: str, sandbox: str) -> Cargo:
        """Have a sandbox (id or name) use this cargo from now on, in place of its own.

        Both that sandbox and the one that had the cargo must be cold, else it raises Conflict. No files are
        lost: the sandbox's old files become an external cargo, and the one whose managed cargo went away gets
        an empty one.
        """
        call = Call(method="POST", path=cargo_path(cargo_id, "move"), body={"sandbox": sandbox})
        return model(Cargo, await self._http.json(call))
