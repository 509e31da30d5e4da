"""Checkpoints of a sandbox: copies of its files at one moment."""

from os import PathLike

from bay.client._answers import items, model
from bay.client._async.http import AsyncHttp
from bay.client._async.paging import paged
from bay.client._async.transfer import body, save_once
from bay.client._calls import COPY_S, Call, Json, flags, given
from bay.client._local import Meter, Progress, Source, Target, facts
from bay.client._paths import sandbox_path
from bay.client._seam import async_in_thread
from bay.client._zstd import Frames
from bay.ids import new_id
from bay.models import Checkpoint, Sandbox

Kept = list[Checkpoint]
Sandboxes = list[Sandbox]


def ref(checkpoint: str | Checkpoint) -> str:
    """The id or name for a path."""
    return checkpoint if isinstance(checkpoint, str) else checkpoint.id


class AsyncCheckpoints:
    """The checkpoints of one sandbox. Each is called by its id or its name. None of this starts compute."""

    def __init__(self, http: AsyncHttp, sandbox_id: str) -> None:
        self._http = http
        self._sandbox_id = sandbox_id

    async def create(self, name: str | None, comment: str | None) -> Checkpoint:
        """Keep the files as they are now; see `AsyncBox.checkpoint`."""
        return model(
            Checkpoint, await self._http.json(self._once(given(name=name, comment=comment), "checkpoints"))
        )

    async def list(self, auto: bool | None) -> Kept:
        """All, oldest first; see `AsyncBox.checkpoints`."""
        filters = {} if auto is None else flags(auto=auto)
        return [
            model(Checkpoint, item) async for item in paged(self._http, self._path("checkpoints"), filters)
        ]

    async def get(self, checkpoint: str | Checkpoint) -> Checkpoint:
        """One of them. Raises NotFound."""
        return model(
            Checkpoint, await self._http.json(Call(method="GET", path=self._of(checkpoint), safe=True))
        )

    async def delete(self, checkpoint: str | Checkpoint) -> None:
        """Remove one. Raises NotFound."""
        await self._http.json(Call(method="DELETE", path=self._of(checkpoint)))

    async def restore(self, checkpoint: str | Checkpoint) -> Sandbox:
        """Put the files back; see `AsyncBox.restore`."""
        call = Call(method="POST", path=self._of(checkpoint, "restore"), wait_s=COPY_S)
        return model(Sandbox, await self._http.json(call))

    async def fork(self, count: int, checkpoint: str | Checkpoint | None, name: str | None) -> Sandboxes:
        """New sandboxes with these files; see `AsyncBox.fork`."""
        fields = given(count=count, checkpoint=checkpoint and ref(checkpoint), name=name)
        return [model(Sandbox, item) for item in items(await self._http.json(self._once(fields, "fork")))]

    async def export(self, checkpoint: str | Checkpoint, target: Target, progress: Progress | None) -> int:
        """Bring one here as a file; see `AsyncBox.export_checkpoint`."""
        call = Call(method="GET", path=self._of(checkpoint, "export"), safe=True)
        frames = Frames()
        return await save_once(self._http, call, target, ref(checkpoint), progress, frames.feed)

    async def import_(
        self, source: Source, name: str | None, comment: str | None, progress: Progress | None
    ) -> Checkpoint:
        """Make one of such a file; see `AsyncBox.import_checkpoint`."""
        about = await async_in_thread(facts, source)
        call = Call(
            method="POST",
            path=self._path("checkpoints", "import"),
            params=given(name=name, comment=comment),
            headers={"Content-Type": "application/zstd"},
            repeatable=isinstance(source, str | PathLike),
            wait_s=COPY_S,
        )
        return model(Checkpoint, await self._http.json(call, body(source, Meter(progress, about.size))))

    def _once(self, fields: Json, *path: str) -> Call:
        """A call that may be sent again, because its key has it done once."""
        headers = {"Idempotency-Key": new_id("key")}
        return Call(
            method="POST", path=self._path(*path), body=fields, headers=headers, safe=True, wait_s=COPY_S
        )

    def _of(self, checkpoint: str | Checkpoint, *rest: str) -> str:
        return self._path("checkpoints", ref(checkpoint), *rest)

    def _path(self, *rest: str) -> str:
        return sandbox_path(self._sandbox_id, *rest)
