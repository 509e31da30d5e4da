"""Removes directory trees that a sandbox filled: any depth, any modes, no link followed, no mount crossed.

By coreutils' rm; rejected: shutil.rmtree, which fails at Python's recursion limit, a thousand levels down.
"""

import asyncio
import subprocess
from pathlib import Path

from bay.errors import DriverUnavailable

_REMOVE_S = 300.0
_COMMAND = ("rm", "-rf", "--one-file-system", "--")


async def remove(*trees: Path) -> None:
    """Remove each tree, if it is there. Raises DriverUnavailable when something of it stays."""
    null, pipe = asyncio.subprocess.DEVNULL, asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*_COMMAND, *trees, stdin=null, stdout=null, stderr=pipe)
    try:
        async with asyncio.timeout(_REMOVE_S):
            _, said = await process.communicate()
    except TimeoutError:
        raise _slow(trees[0]) from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    _check(trees[0], process.returncode, said)


def remove_now(tree: Path) -> None:
    """Remove a tree, if it is there. Blocks; raises DriverUnavailable when something of it stays."""
    try:
        done = subprocess.run(
            [*_COMMAND, tree], stdin=subprocess.DEVNULL, capture_output=True, timeout=_REMOVE_S
        )
    except subprocess.TimeoutExpired:
        raise _slow(tree) from None
    _check(tree, done.returncode, done.stderr)


def _slow(tree: Path) -> DriverUnavailable:
    return DriverUnavailable(f"removing {tree} took more than {_REMOVE_S:g} s")


def _check(tree: Path, returncode: int | None, said: bytes) -> None:
    if returncode:
        raise DriverUnavailable(f"{tree} cannot be removed: {said[-500:].decode(errors='replace').strip()}")
