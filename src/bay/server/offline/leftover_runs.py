"""Removes the remains of killed `bay run`s: their directories, and sandboxes that no other Bay adopts.

Each run has a directory below one that all runs of a user share, and holds its lock. A directory whose lock
is free is an orphan; the next run removes it with everything that carries its mark.
"""

import asyncio
import contextlib
import json
import os
import stat
import tempfile
import time
from pathlib import Path

from bay.errors import BayError, Conflict, DriverUnavailable
from bay.linux import remove_tree
from bay.server.backends import make_driver
from bay.server.main import lock_data_dir
from bay.server.settings import Settings

_SIGNED = "run.json"
_YOUNG_S = 60.0  # a run makes its directory a moment before it locks it
_KEPT = {"driver", "run_dir", "cache_dir", "runc", "id_range_start"}


def home() -> Path:
    """The directory of this user's runs. Raises DriverUnavailable when another user may write to it."""
    path = Path(tempfile.gettempdir()) / f"bay-runs-{os.geteuid()}"
    path.mkdir(mode=0o711, exist_ok=True)
    seen = path.lstat()
    if not stat.S_ISDIR(seen.st_mode) or seen.st_uid != os.geteuid() or seen.st_mode & 0o022:
        raise DriverUnavailable(f"{path} is not a directory that only you can write to; remove it")
    return path


def sign(settings: Settings) -> None:
    """Write down in a run's directory where on the host its sandboxes are."""
    kept = settings.model_dump(mode="json", include=_KEPT)
    (settings.data_dir / _SIGNED).write_text(json.dumps(kept))


def clear(above: Path) -> None:
    """Remove the remains of killed runs below `above`, but for those that cannot be removed now. Blocks."""
    for data_dir in above.iterdir():
        with contextlib.suppress(BayError, OSError, ValueError):
            if time.time() - data_dir.stat().st_mtime > _YOUNG_S:
                _clear(data_dir)


def remove(data_dir: Path) -> None:
    """Remove a run's directory. Blocks."""
    with contextlib.suppress(DriverUnavailable):
        asyncio.run(remove_tree.remove(data_dir))


def _clear(data_dir: Path) -> None:
    try:
        held = lock_data_dir(data_dir)
    except Conflict:
        return  # it runs
    try:
        asyncio.run(_destroy_all(data_dir))
    finally:
        os.close(held)


async def _destroy_all(data_dir: Path) -> None:
    signed = data_dir / _SIGNED
    if signed.exists():
        driver = make_driver(Settings(data_dir=data_dir, **json.loads(signed.read_text())))
        await driver.open()
        for owned in [owned async for owned in driver.list_owned()]:
            await driver.destroy(owned.handle)
        await driver.aclose()
    await remove_tree.remove(data_dir)
