"""Brings the tables of a database up to this version, and ends: before replicas are replaced."""

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path

from bay.server import settings
from bay.server.data_dir import check as check_data_dir
from bay.server.database import make_database, sqlite_file
from bay.server.main import lock_data_dir
from bay.server.settings import Settings
from bay.store.engine import Store
from bay.store.versions import version_now


@dataclass(frozen=True, slots=True)
class Migrated:
    """The database without its password, and the version that its tables have now."""

    database: str
    version: str


def migrate(data_dir: Path | None, config: Path | None) -> Migrated:
    """Make or migrate the tables of the settings' database, as a start does, and change nothing else. Blocks.

    Replicas of an older version may run where every migration lets them. Raises InvalidArgument for settings
    that cannot be read, Conflict beside a Bay that shares nothing, DriverUnavailable and DatabaseUnavailable,
    also for replicas that must be stopped first.
    """
    loaded = settings.read(config, data_dir=data_dir)
    lock = lock_data_dir(loaded.data_dir, shared=loaded.replicas)
    try:
        check_data_dir(loaded.data_dir, sqlite_file(loaded))
        return asyncio.run(_migrated(loaded))
    finally:
        os.close(lock)


async def _migrated(loaded: Settings) -> Migrated:
    database = make_database(loaded)
    store = Store(database)
    try:
        async with store.starting():
            await store.open()
        async with store.read() as db:
            return Migrated(database.name, await version_now(db))
    finally:
        await store.aclose()
