"""Removing directories that a sandbox filled: any depth, any modes, no link followed, no mount crossed.

coreutils' rm walks by descriptors and does not recurse; rejected: shutil.rmtree, which gives up at Python's
recursion limit, a thousand directories down.
"""

import asyncio
from pathlib import Path

from bay.errors import DriverUnavailable

_REMOVE_S = 300.0


async def remove(*trees: Path) -> None:
    """Remove each tree, if it is there. Raises DriverUnavailable when something of it stays."""
    null, pipe = asyncio.subprocess.DEVNULL, asyncio.subprocess.PIPE
    command = ["rm", "-rf", "--one-file-system", "--", *map(str, trees)]
    process = await asyncio.create_subprocess_exec(*command, stdin=null, stdout=null, stderr=pipe)
    try:
        async with asyncio.timeout(_REMOVE_S):
            _, said = await process.communicate()
    except TimeoutError:
        raise DriverUnavailable(f"removing {trees[0]} took more than {_REMOVE_S:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise DriverUnavailable(
            f"{trees[0]} cannot be removed: {said[-500:].decode(errors='replace').strip()}"
        )
