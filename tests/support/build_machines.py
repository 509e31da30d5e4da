"""The `fake` driver as builds of templates need it."""

from dataclasses import replace

from server_harness import World

from bay.models import Exec
from bay.server.execs.service import NewExec
from bay.server.web.auth import Caller


def machines(bay: World) -> None:
    """Sandboxes keep their root. They have no directory but their workspace, so commands run there."""
    bay.driver.capabilities = replace(bay.driver.capabilities, persist=("workspace", "machine"))
    create = bay.bay.execs.create

    async def in_workspace(
        caller: Caller, ref: str, new: NewExec, key: str | None, wait_s: float | None
    ) -> Exec:
        return await create(caller, ref, replace(new, cwd=None), key, wait_s)

    bay.bay.execs.create = in_workspace  # type: ignore[method-assign]
