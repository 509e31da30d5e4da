"""Removes directory trees that a sandbox filled: any depth, any modes, no link followed, no mount crossed.

By coreutils' rm; rejected: shutil.rmtree, which fails at Python's recursion limit, a thousand levels down. It
is started from a thread, which can use vfork. The event loop forks, and copies all page tables of Bay: that
took ten times the processor time of rm.
"""

import subprocess
from pathlib import Path

from bay.errors import DriverUnavailable
from bay.linux.threads import in_new_thread

_REMOVE_S = 300.0
_COMMAND = ("rm", "-rf", "--one-file-system", "--")


async def remove(*trees: Path) -> None:
    """Remove each tree, if it is there. Raises DriverUnavailable when something of it stays.

    When cancelled, it leaves the rest.
    """
    removal = _Removal(trees)
    await in_new_thread(removal.run, removal.stop)


def remove_now(tree: Path) -> None:
    """Remove a tree, if it is there. Blocks; raises DriverUnavailable when something of it stays."""
    _Removal((tree,)).run()


class _Removal:
    """One run of rm, which another thread may stop."""

    def __init__(self, trees: tuple[Path, ...]) -> None:
        self._trees = trees
        self._process: subprocess.Popen[bytes] | None = None
        self._is_stopped = False

    def run(self) -> None:
        null, pipe = subprocess.DEVNULL, subprocess.PIPE
        with subprocess.Popen([*_COMMAND, *self._trees], stdin=null, stdout=null, stderr=pipe) as process:
            self._process = process
            if self._is_stopped:  # before there was a process to kill
                process.kill()
            try:
                _, said = process.communicate(timeout=_REMOVE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                raise _slow(self._trees[0]) from None
        _check(self._trees[0], process.returncode, said)

    def stop(self) -> None:
        self._is_stopped = True
        if self._process is not None:
            self._process.kill()


def _slow(tree: Path) -> DriverUnavailable:
    return DriverUnavailable(f"removing {tree} took more than {_REMOVE_S:g} s")


def _check(tree: Path, returncode: int, said: bytes) -> None:
    if returncode:
        raise DriverUnavailable(f"{tree} cannot be removed: {said[-500:].decode(errors='replace').strip()}")
