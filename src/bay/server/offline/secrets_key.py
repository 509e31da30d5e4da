"""The rotation of the key of secrets, of a data directory whose Bay is stopped.

The file has both keys until every value has the new one, so a rotation that is cut off anywhere leaves all of
them readable, and is finished by the next one. A file that the operator gives by BAY_SECRETS_KEY_FILE is not
written: every value gets the first of its keys.
"""

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path
from secrets import token_bytes
from typing import Any

from sqlalchemy import ColumnElement, Table, literal, select, update

from bay.server.data_dir import SECRETS_KEY_FILE, configured
from bay.server.key_files import KEY_BYTES, given_keys
from bay.server.main import lock_data_dir
from bay.server.offline.database_choice import database_of
from bay.server.secrets.vault import MOST_KEYS, Unreadable, Vault, read_keys, write_keys
from bay.store.connection import StoreConnection
from bay.store.engine import Store
from bay.store.schema import registry_logins, secrets

_SEALED: dict[Table, ColumnElement[Any]] = {
    secrets: secrets.c.name,
    registry_logins: literal("registry/") + registry_logins.c.host,
}
"""The tables with sealed values, each with the names that those are sealed as."""


@dataclass(frozen=True, slots=True)
class Rotated:
    """How many secrets have the new key, and which (as `owner/name`) no key could read."""

    sealed: int
    unreadable: tuple[str, ...]


def rotate(data_dir: Path | None) -> Rotated:
    """Encrypt the secrets of `data_dir` (None: BAY_DATA_DIR or the default) under a new key. Blocks.
    Old keys are forgotten, unless something is left that none of them reads, or BAY_SECRETS_KEY_FILE names
    the file, whose first key is the new one then. Raises Conflict while a Bay
    runs there, DriverUnavailable and DatabaseUnavailable.
    """
    directory = configured(data_dir)
    lock = lock_data_dir(directory)
    try:
        return asyncio.run(_rotated(directory))
    finally:
        os.close(lock)


async def _rotated(directory: Path) -> Rotated:
    given = os.environ.get("BAY_SECRETS_KEY_FILE")
    store = Store(database_of(directory, keeps_files=given is None))
    try:
        await store.open()
        if given is not None:
            return await _seal_all(store, Vault(given_keys(Path(given), MOST_KEYS)))
        path = directory / SECRETS_KEY_FILE
        old, new = read_keys(path), token_bytes(KEY_BYTES)
        write_keys(path, (new, *old))
        done = await _seal_all(store, Vault((new, *old)))
        write_keys(path, (new, *old) if done.unreadable else (new,))
        return done
    finally:
        await store.aclose()


async def _seal_all(store: Store, vault: Vault) -> Rotated:
    sealed, unreadable = 0, list[str]()
    async with store.write() as db:
        for table, name in _SEALED.items():
            query = select(table.c.seq, table.c.owner, name.label("name"), table.c.sealed).order_by(
                table.c.seq
            )
            for row in await db.execute(query):
                if await _seal_again(db, vault, table, row):
                    sealed += 1
                else:
                    unreadable.append(f"{row.owner}/{row.name}")
    return Rotated(sealed, tuple(unreadable))


async def _seal_again(db: StoreConnection, vault: Vault, table: Table, row: Any) -> bool:
    try:
        again = vault.seal(row.owner, row.name, vault.unseal(row.owner, row.name, row.sealed))
    except Unreadable:
        return False
    await db.execute(update(table).where(table.c.seq == row.seq).values(sealed=again))
    return True
