"""The rotation of the key of secrets, of a data directory whose Bay is stopped.

The file has both keys until every value has the new one, so a rotation that is cut off anywhere leaves all of
them readable, and is finished by the next one.
"""

import os
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from secrets import token_bytes
from urllib.parse import quote

from bay.errors import DriverUnavailable
from bay.server.data_dir import DATABASE, SECRETS_KEY_FILE, configured
from bay.server.main import lock_data_dir
from bay.server.secrets.vault import KEY_BYTES, Unreadable, Vault, read_keys, write_keys

_WAIT_S = 10.0


_SEALED = {
    "secrets": "SELECT seq, owner, name, sealed FROM secrets",
    "registry_logins": "SELECT seq, owner, 'registry/' || host, sealed FROM registry_logins",
}
"""The rows of each table with sealed values, and the names that those are sealed as."""


@dataclass(frozen=True, slots=True)
class Rotated:
    """How many secrets have the new key, and which (as `owner/name`) no key could read."""

    sealed: int
    unreadable: tuple[str, ...]


def rotate(data_dir: Path | None) -> Rotated:
    """Encrypt the secrets of `data_dir` (None: BAY_DATA_DIR or the default) under a new key. Blocks.
    Old keys are forgotten, unless something is left that none of them reads. Raises Conflict while a Bay
    runs there, and DriverUnavailable.
    """
    directory = configured(data_dir)
    lock = lock_data_dir(directory)
    try:
        return _rotated(directory / SECRETS_KEY_FILE, directory / DATABASE)
    finally:
        os.close(lock)


def _rotated(path: Path, database: Path) -> Rotated:
    if not database.exists():
        raise DriverUnavailable(
            f"there is no database in {database.parent}; give the data directory of a Bay"
        )
    old, new = read_keys(path), token_bytes(KEY_BYTES)
    write_keys(path, (new, *old))
    done = _seal_all(database, Vault((new, *old)))
    write_keys(path, (new, *old) if done.unreadable else (new,))
    return done


def _seal_all(database: Path, vault: Vault) -> Rotated:
    where = f"file:{quote(str(database))}?mode=rw"
    try:
        with closing(sqlite3.connect(where, uri=True, timeout=_WAIT_S)) as db, db:
            rows = [(table, *row) for table, query in _SEALED.items() for row in db.execute(query).fetchall()]
            unreadable = tuple(f"{row[2]}/{row[3]}" for row in rows if not _seal_again(db, vault, *row))
    except sqlite3.Error as error:
        raise DriverUnavailable(f"cannot use the database {database}: {error}; start its Bay once") from error
    return Rotated(len(rows) - len(unreadable), unreadable)


def _seal_again(
    db: sqlite3.Connection, vault: Vault, table: str, seq: int, owner: str, name: str, sealed: bytes
) -> bool:
    try:
        again = vault.seal(owner, name, vault.unseal(owner, name, sealed))
    except Unreadable:
        return False
    db.execute(f"UPDATE {table} SET sealed = ? WHERE seq = ?", (again, seq))  # noqa: S608 - a name of ours
    return True
