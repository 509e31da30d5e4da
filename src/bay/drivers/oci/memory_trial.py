"""The trial of a host's memory: a session is saved once and made again."""

import secrets
from pathlib import Path
from typing import Protocol

from bay.drivers.base import Driver, Handle, Hibernates, SessionSpec
from bay.linux import remove_tree
from bay.linux.threads import in_new_thread
from bay.models import Resources


class _Hibernating(Driver, Hibernates, Protocol):
    pass


async def try_memory(driver: _Hibernating, isolation: str, workspace: Path) -> None:
    """Have `driver` save a session and make it again, in a `workspace` that this makes and removes. Raises
    what the driver raises where that fails, or OSError.
    """
    await in_new_thread(lambda: workspace.mkdir(mode=0o700))
    trial = SessionSpec(
        session_id=f"trial-{secrets.token_hex(8)}",
        sandbox_id="trial",
        image="host",
        isolation=isolation,
        resources=Resources(),
        workspace=workspace,
        token=secrets.token_hex(16),
        savable=True,
    )
    try:
        running = [one async for one in driver.start(trial, None)][-1]
        await driver.hibernate(running, trial.token)
        async for _ in driver.start(trial, running):
            pass
    finally:
        await driver.destroy(Handle(driver=driver.name, session_id=trial.session_id))
        await remove_tree.remove(workspace)
