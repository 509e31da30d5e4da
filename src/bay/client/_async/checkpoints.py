"""Checkpoints of a sandbox: copies of its files at one moment, or also of the memory of what runs in it."""

from collections.abc import AsyncIterator
from os import PathLike

from bay.client._async.http import AsyncSandboxNoun
from bay.client._async.transfer import body, opened, save_once
from bay.client._calls import COPY_S, Call, flags, given
from bay.client._local import Meter, Progress, Source, Target, facts
from bay.client._paths import ref
from bay.client._seam import async_in_thread
from bay.client._zstd import Frames
from bay.models import Checkpoint, FileChange, RemoteCheckpoint


class AsyncCheckpoints(AsyncSandboxNoun):
    """The checkpoints of one sandbox. Each is called by its id or its name. None of this starts compute."""

    async def checkpoint(
        self, name: str | None = None, comment: str | None = None, *, memory: bool = False
    ) -> Checkpoint:
        """Make a checkpoint of the present files. Programs go on; they are frozen only for that moment.

        With `memory` it also has what runs: programs with their variables and open files, as they are at that
        moment. Connections to the sandbox stay.

        Sent again by itself when the connection fails: one call makes one checkpoint. Raises Conflict when
        another checkpoint of this sandbox has the name, or when there is no memory to save or something in it
        cannot be saved; StorageFull when there is no room; CapabilityNotSupported where the sandbox's profile
        or the server saves no memory.
        """
        fields = given(name=name, comment=comment, memory=memory or None)
        return await self._http.one(Checkpoint, Call.once(self._path("checkpoints"), fields, wait_s=COPY_S))

    async def checkpoints(self, auto: bool | None = None) -> list[Checkpoint]:
        """Its checkpoints, oldest first: all, or those made by its policy (`auto=True`), or by request."""
        filters = {} if auto is None else flags(auto=auto)
        found = self._http.paged(Checkpoint, self._path("checkpoints"), filters)
        return [checkpoint async for checkpoint in found]

    async def get_checkpoint(self, checkpoint: str) -> Checkpoint:
        """The checkpoint of that id or name. Raises NotFound."""
        return await self._http.one(Checkpoint, Call.get(self._of(checkpoint)))

    async def delete_checkpoint(self, checkpoint: str | Checkpoint) -> None:
        """Remove a checkpoint (an id, a name, or one of `checkpoints`) for good. Forks of it stay."""
        await self._http.json(Call("DELETE", self._of(checkpoint)))

    async def diff_checkpoint(
        self, checkpoint: str | Checkpoint, to: str | Checkpoint | None = None
    ) -> AsyncIterator[FileChange]:
        """The files that differ between a checkpoint and another one, or the present files, in the order of
        their paths. They are compared by type, size, time, mode and owner.

        Raises CapabilityNotSupported where Bay has no files of checkpoints, and Timeout.
        """
        filters = {} if to is None else {"to": ref(to)}
        async for change in self._http.paged(FileChange, self._of(checkpoint, "diff"), filters):
            yield change

    async def read_checkpoint_file(self, checkpoint: str | Checkpoint, path: str) -> bytes:
        """The bytes of one file as a checkpoint has it, up to 8 MiB. No link is followed.

        Raises FileMissing, and PayloadTooLarge for a longer one.
        """
        call = Call.get(self._of(checkpoint, "files", "content"), {"path": path})
        async with opened(self._http, call) as response:
            return b"".join([data async for data in response.aiter_bytes()])

    async def export_checkpoint(
        self, checkpoint: str | Checkpoint, target: Target, *, progress: Progress | None = None
    ) -> int:
        """Export a checkpoint to a local path or an open binary file, as a tar in zstd; returns its bytes.

        Raises BayError for one that is not whole. Its checksums are looked at by `import_checkpoint`.
        """
        call = Call.get(self._of(checkpoint, "export"))
        return await save_once(self._http, call, target, ref(checkpoint), progress, Frames().feed)

    async def import_checkpoint(
        self,
        source: Source,
        *,
        name: str | None = None,
        comment: str | None = None,
        progress: Progress | None = None,
    ) -> Checkpoint:
        """Make a checkpoint of what `export_checkpoint` gave, here or on another machine.

        Raises BadRequest for what is damaged, and makes nothing of it then.
        """
        about = await async_in_thread(facts, source)
        call = Call(
            "POST",
            self._path("checkpoints", "import"),
            params=given(name=name, comment=comment),
            headers={"Content-Type": "application/zstd"},
            repeatable=isinstance(source, str | PathLike),
            wait_s=COPY_S,
        )
        return await self._http.one(Checkpoint, call, body(source, Meter(progress, about.size)))

    async def push_checkpoint(self, checkpoint: str | Checkpoint) -> RemoteCheckpoint:
        """Have a checkpoint in Bay's object store. Answers at once: `client.remote_checkpoints.wait` waits.

        Asking again changes nothing. Raises Conflict where Bay has no object store, and QuotaExceeded.
        """
        call = Call("POST", self._of(checkpoint, "push"), safe=True)
        return await self._http.one(RemoteCheckpoint, call)

    async def pull_checkpoint(
        self, key: str | RemoteCheckpoint, *, name: str | None = None, comment: str | None = None
    ) -> Checkpoint:
        """Make a checkpoint of one in Bay's object store, also of another Bay's.

        Raises NotFound, and BadRequest for what is damaged; it makes nothing of it then.
        """
        of = key.key if isinstance(key, RemoteCheckpoint) else key
        fields = given(key=of, name=name, comment=comment)
        call = Call("POST", self._path("checkpoints", "pull"), body=fields, wait_s=COPY_S)
        return await self._http.one(Checkpoint, call)

    def _of(self, checkpoint: str | Checkpoint, *rest: str) -> str:
        return self._path("checkpoints", ref(checkpoint), *rest)
