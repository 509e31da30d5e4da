"""Has the workspace's file system write to its disk all that the kernel holds in memory: a snapshot that the
cluster takes of the volume, at a pause or after the end, has nothing else.
"""

import asyncio
import os

from ship import log
from ship.process import syscalls

_LONGEST_S = 10.0


async def write_down(workspace: str) -> None:
    """Return when it has, or after ten seconds. A failure is noted: the programs' files are as good as
    before, and a snapshot has what the kernel had written by itself.
    """
    writing = asyncio.ensure_future(asyncio.to_thread(_write, workspace))
    done, _ = await asyncio.wait((writing,), timeout=_LONGEST_S)
    if not done:
        log.note("workspace.still_written")
    elif (error := writing.exception()) is not None:
        log.note(f"workspace.not_written {log.describe(error)}")


def _write(workspace: str) -> None:
    directory = os.open(workspace, os.O_RDONLY | os.O_DIRECTORY)
    try:
        syscalls.sync_filesystem(directory)
    finally:
        os.close(directory)
