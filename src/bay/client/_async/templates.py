"""The templates of an owner: named images of sandboxes, from which others start."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from os import PathLike
from typing import Unpack

from bay.client._async.builds import begin_build, cancel_build, follow_build
from bay.client._async.http import AsyncNoun
from bay.client._build_body import BuildOptions, Told
from bay.client._calls import Call, given, list_params
from bay.client._paths import noun_path
from bay.errors import BayError, error_from_wire
from bay.models import Template

_WAIT_S = 30.0


class AsyncTemplates(AsyncNoun):
    """The templates of the key's owner, and those that are shared with all owners."""

    async def create(
        self,
        name: str,
        sandbox: str,
        *,
        tag: str | None = None,
        profile: str | None = None,
        start_command: str | Sequence[str] | None = None,
        ready_command: str | Sequence[str] | None = None,
        env: Mapping[str, str] | None = None,
        cpus: float | None = None,
        memory_mb: int | None = None,
        disk_mb: int | None = None,
        pids: int | None = None,
        user: str | None = None,
        working_dir: str | None = None,
        pool_size: int | None = None,
        pool_max: int | None = None,
        shared: bool = False,
        idempotency_key: str | None = None,
    ) -> Template:
        """Freeze a sandbox (by id or name) into a template; returns when it is ready.

        `tag` is ``"latest"`` unless given, and taken from an older template of that name. `start_command`
        runs in each of its sandboxes as the service ``main``, which serves once `ready_command` ends with 0;
        a text is run by a shell, a sequence as it is. `profile` and the sizes are the sandbox's unless given.
        `pool_size` of its sandboxes, up to `pool_max` when creates come fast, wait started for creates, and
        count in your quotas. `shared` lets every owner use it, and needs an admin key. Raises Conflict for a
        sandbox without an image, or of a profile that does not keep the machine, QuotaExceeded, and the error
        of a freeze that failed.
        """
        wanted = given(
            name=name, sandbox=sandbox, tag=tag, profile=profile, start_command=_command(start_command),
            ready_command=_command(ready_command), env=env, cpus=cpus, memory_mb=memory_mb, disk_mb=disk_mb, pids=pids,
            user=user, working_dir=working_dir, pool_size=pool_size, pool_max=pool_max,
        )  # fmt: skip
        call = Call.once("/v1/templates", {**wanted, "shared": shared}, idempotency_key)
        return await self.wait((await self._http.one(Template, call)).id)

    async def build(
        self, context: str | PathLike[str], name: str, **options: Unpack[BuildOptions]
    ) -> Template:
        """Build the template `name`, or `name:tag`, of the Dockerfile in the local directory `context`.

        The server does the steps in a sandbox of yours, which is deleted at the end; a caller that leaves,
        or whose `log` raises, cancels the build. Raises InvalidArgument for a Dockerfile that breaks a rule
        or needs more than Bay's subset, and BuildFailed for a step that fails.
        """
        made = await begin_build(self._http, context, name, options)
        told = Told(options.get("log"))
        try:
            await follow_build(self._http, made.id, told)
            return await self.wait(made.id)
        except BaseException as error:
            if told.failed or not isinstance(error, BayError):  # else it is over by itself
                await cancel_build(self._http, made.id)
            raise

    async def log(self, ref: str) -> str:
        """The output of the steps of a template's build so far, 16 MiB at most. Raises NotFound for a
        template that was not built.
        """
        parts: list[str] = []
        await follow_build(self._http, ref, parts.append, to_the_end=False)
        return "".join(parts)

    async def wait(self, ref: str) -> Template:
        """The template once it is made. Raises the error that it failed with."""
        while True:
            call = Call.get(noun_path("templates", ref), list_params({"wait": _WAIT_S}, None), wait_s=_WAIT_S)
            found = await self._http.one(Template, call)
            if found.state == "failed" and found.error is not None:
                raise error_from_wire(
                    0, {"error": {"code": found.error.code, "message": found.error.message}}
                )
            if found.state != "building":
                return found

    async def get(self, ref: str) -> Template:
        """The template of that id, ``"name"`` or ``"name:tag"``. Raises NotFound."""
        return await self._http.one(Template, Call.get(noun_path("templates", ref)))

    async def update(
        self,
        ref: str,
        *,
        tag: str | None = None,
        shared: bool | None = None,
        pool_size: int | None = None,
        pool_max: int | None = None,
    ) -> Template:
        """Put another tag in the place of a template's own, which any other of its name then loses, share it
        with every owner, which needs an admin key, or give its pool another size; 0 for none. Raises Conflict
        for a tag of one that is not ready, and QuotaExceeded.
        """
        changes = given(tag=tag, shared=shared, pool_size=pool_size, pool_max=pool_max)
        return await self._http.one(
            Template, Call("PATCH", noun_path("templates", ref), body=changes, safe=True)
        )

    async def tag(self, ref: str, target: str) -> Template:
        """Have a template be found by one more name, ``"name"`` or ``"name:tag"``, which any other template
        of yours then loses. Raises Conflict for one that is not ready.
        """
        name, colon, tag = target.partition(":")
        body = {"name": name, "tag": tag} if colon else {"name": name}
        call = Call("POST", f"{noun_path('templates', ref)}/aliases", body=body, safe=True)
        return await self._http.one(Template, call)

    async def delete(self, ref: str) -> None:
        """Remove a template with its image and files, or by one of several names that name alone. Raises
        Conflict while a sandbox needs what would go.
        """
        await self._http.json(Call("DELETE", noun_path("templates", ref)))

    def list(self, *, name: str | None = None, limit: int | None = None) -> AsyncGenerator[Template, None]:
        """Every template that you may use, or of that name, oldest first; `limit` is the size of a page."""
        return self._http.paged(Template, "/v1/templates", {"name": name, "limit": limit})


def _command(command: str | Sequence[str] | None) -> str | Sequence[str] | None:
    return command if command is None or isinstance(command, str) else list(command)
