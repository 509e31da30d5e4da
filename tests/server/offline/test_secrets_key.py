"""The rotation of the key of secrets: nothing is lost wherever it is cut off."""

import asyncio
import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from postgres_databases import url_for
from server_harness import IS_POSTGRES, clear, create, empty_database, shell, world

from bay.errors import Conflict, DriverUnavailable
from bay.server.data_dir import DATABASE, SECRETS_KEY_FILE
from bay.server.offline import secrets_key
from bay.server.offline.secrets_key import rotate
from bay.server.secrets.vault import KEY_BYTES, Unreadable, Vault, read_keys, write_keys

VALUES = {"A": "one", "B": "two", "C": "three"}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data directory with three secrets."""
    (tmp_path / DATABASE).write_bytes(empty_database())
    write_keys(tmp_path / SECRETS_KEY_FILE, (os.urandom(KEY_BYTES),))
    vault = Vault(read_keys(tmp_path / SECRETS_KEY_FILE))
    with closing(sqlite3.connect(tmp_path / DATABASE)) as db, db:
        for name, value in VALUES.items():
            row = ("alice", name, vault.seal("alice", name, value), "2026-01-01 00:00:00.000000")
            db.execute(
                "INSERT INTO secrets (owner, name, sealed, created_at, updated_at) VALUES (?1, ?2, ?3, ?4, ?4)",
                row,
            )
    return tmp_path


def found(data: Path, keys: list[bytes] | None = None) -> dict[str, str]:
    """The values, by the keys in the file or others."""
    vault = Vault(keys or read_keys(data / SECRETS_KEY_FILE))
    with closing(sqlite3.connect(data / DATABASE)) as db:
        rows = db.execute("SELECT owner, name, sealed FROM secrets").fetchall()
    return {name: vault.unseal(owner, name, sealed) for owner, name, sealed in rows}


def test_all_secrets_have_the_new_key_and_the_old_one_is_gone(data: Path) -> None:
    old = read_keys(data / SECRETS_KEY_FILE)
    done = rotate(data)
    assert (done.sealed, done.unreadable) == (3, ())
    (new,) = read_keys(data / SECRETS_KEY_FILE)
    assert [new] != old
    assert found(data) == VALUES
    with pytest.raises(Unreadable):
        found(data, old)
    assert (data / SECRETS_KEY_FILE).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("at", ["write_keys", "_seal_all", "last"])
def test_a_rotation_that_is_cut_off_loses_nothing_and_is_finished_by_the_next(
    data: Path, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def cut(*_: object) -> None:
        nonlocal calls
        calls += 1
        if at == "last" and calls == 1:
            write_keys(*_)  # type: ignore[arg-type] - as it was called
            return
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(secrets_key, "write_keys" if at == "last" else at, cut)
        with pytest.raises(KeyboardInterrupt):
            rotate(data)
    assert found(data) == VALUES
    assert rotate(data).sealed == 3
    assert len(read_keys(data / SECRETS_KEY_FILE)) == 1
    assert found(data) == VALUES


def test_a_file_that_the_operator_gives_is_left_as_it_is_and_its_first_key_is_the_new_one(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (old,), new = read_keys(data / SECRETS_KEY_FILE), os.urandom(KEY_BYTES)
    given = tmp_path / "given"
    given.write_text(f"{new.hex()}\n{old.hex()}\n")
    (data / SECRETS_KEY_FILE).unlink()
    monkeypatch.setenv("BAY_SECRETS_KEY_FILE", str(given))
    done = rotate(data)
    assert (done.sealed, done.unreadable) == (3, ())
    assert found(data, [new]) == VALUES
    assert given.read_text() == f"{new.hex()}\n{old.hex()}\n"
    assert not (data / SECRETS_KEY_FILE).exists()


def test_a_secret_that_no_key_reads_is_told_and_no_key_is_forgotten(data: Path) -> None:
    lost = Vault((os.urandom(KEY_BYTES),)).seal("alice", "A", "x")
    with closing(sqlite3.connect(data / DATABASE)) as db, db:
        db.execute("UPDATE secrets SET sealed = ? WHERE name = 'A'", (lost,))
    done = rotate(data)
    assert (done.sealed, done.unreadable) == (2, ("alice/A",))
    assert len(read_keys(data / SECRETS_KEY_FILE)) == 2


def test_a_directory_without_a_database_is_refused_and_gets_no_key(tmp_path: Path) -> None:
    with pytest.raises(DriverUnavailable, match="no database"):
        rotate(tmp_path)
    assert not (tmp_path / SECRETS_KEY_FILE).exists()


@pytest.mark.anyio
async def test_a_bay_goes_on_with_the_new_key(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if IS_POSTGRES:
        monkeypatch.setenv("BAY_DATABASE_URL", url_for(root))
    async with world(root) as bay:
        alice = await bay.client("alice")
        await alice.put("/v1/secrets/TOKEN", json={"value": "kept"})
        box = await create(alice, secrets=[{"name": "TOKEN"}])
    assert (await asyncio.to_thread(rotate, root / "data")).sealed == 1
    async with world(root) as bay:
        assert (await shell(await bay.client("alice"), box["id"], "echo $TOKEN"))["output"] == "kept\n"
    await clear(root)


def test_a_data_directory_in_use_is_left_alone(data: Path) -> None:
    lock = secrets_key.lock_data_dir(data)
    try:
        with pytest.raises(Conflict, match="another Bay"):
            rotate(data)
    finally:
        os.close(lock)
    shutil.rmtree(data)
