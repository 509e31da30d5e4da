"""The images of an owner: root file systems that sandboxes start from."""

from collections.abc import AsyncGenerator, Callable
from os import PathLike

from bay.client._async.http import AsyncNoun
from bay.client._async.transfer import body, save_once
from bay.client._calls import COPY_S, Call, flags, list_params
from bay.client._local import Meter, Progress, Source, Target, facts
from bay.client._paths import noun_path
from bay.client._seam import async_in_thread
from bay.client._tar_end import TarEnd
from bay.errors import error_from_wire
from bay.models import ContainerImage, Pull

OnPull = Callable[[ContainerImage], None]

_LOOK_S = 1.0
_WAIT_S = 30.0


class AsyncImages(AsyncNoun):
    """The images of the key's owner, and those that are shared with all owners."""

    async def pull(
        self,
        ref: str,
        *,
        pull: Pull = "always",
        shared: bool = False,
        progress: OnPull | None = None,
        idempotency_key: str | None = None,
    ) -> ContainerImage:
        """Fetch the image that `ref` names in its registry now; returns when it is ready.

        With `pull` ``"missing"`` one that is here already will do, and ``"never"`` wants such a one.
        `progress` is called with the image about once a second. `shared` lets every owner use it, and needs
        an admin key. Raises ImageNotFound, ImageDenied, RegistryUnavailable and others when it fails.
        """
        call = Call.once("/v1/images", {"ref": ref, "pull": pull, "shared": shared}, idempotency_key)
        return await self.wait((await self._http.one(ContainerImage, call)).id, progress=progress)

    async def import_archive(
        self, source: Source, ref: str, *, shared: bool = False, progress: Progress | None = None
    ) -> ContainerImage:
        """Make an image, named `ref`, of a local archive: of `docker save`, or of an OCI layout in a tar.

        Returns when it is ready. `progress` is called with the bytes sent. Raises ImageInvalid and others.
        """
        about = await async_in_thread(facts, source)
        call = Call(
            "POST",
            "/v1/images/import",
            params={"ref": ref, **flags(shared=shared)},
            headers={"Content-Type": "application/x-tar"},
            repeatable=isinstance(source, str | PathLike),
            wait_s=COPY_S,
        )
        made = await self._http.one(ContainerImage, call, body(source, Meter(progress, about.size)))
        return await self.wait(made.id)

    async def export(self, ref: str, target: Target, *, progress: Progress | None = None) -> int:
        """Export an image to a local path or an open binary file, as a tar of an OCI layout.

        Returns its bytes. `import_archive` takes it, as `skopeo` and `podman load` do. Raises Conflict for an
        image that is not ready, and BayError for an answer that is not whole.
        """
        call = Call.get(noun_path("images", ref, "export"))
        return await save_once(self._http, call, target, ref, progress, TarEnd().feed)

    async def wait(self, ref: str, *, progress: OnPull | None = None) -> ContainerImage:
        """The image once its pull has ended. Raises the error that it failed with."""
        while True:
            wait_s = _WAIT_S if progress is None else _LOOK_S
            params = list_params({"wait": wait_s}, None)
            call = Call.get(noun_path("images", ref), params, wait_s=wait_s)
            image = await self._http.one(ContainerImage, call)
            if progress is not None:
                progress(image)
            if image.state == "failed" and image.error is not None:
                error = {"code": image.error.code, "message": image.error.message}
                raise error_from_wire(0, {"error": error})
            if image.state != "pulling":
                return image

    async def get(self, ref: str) -> ContainerImage:
        """The image of that id or reference; of several the newest. Raises ImageNotFound."""
        return await self._http.one(ContainerImage, Call.get(noun_path("images", ref)))

    async def delete(self, ref: str) -> None:
        """Remove an image, or cancel its pull. Raises Conflict while a sandbox or checkpoint needs it."""
        await self._http.json(Call("DELETE", noun_path("images", ref)))

    async def prune(self, *, unused_for: int = 0) -> list[ContainerImage]:
        """Remove your images that nothing uses, and nothing has started from for so many seconds."""
        call = Call("POST", "/v1/images/prune", body={"unused_for": unused_for}, safe=True)
        return await self._http.all(ContainerImage, call)

    def list(self, *, limit: int | None = None) -> AsyncGenerator[ContainerImage, None]:
        """Every image that you may use, oldest first; `limit` is the size of a page."""
        return self._http.paged(ContainerImage, "/v1/images", {"limit": limit})
