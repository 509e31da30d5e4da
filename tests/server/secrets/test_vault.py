"""The vault: what it seals opens only for its owner and name, under a key that is in its file."""

import os
import stat
from pathlib import Path

import pytest

from bay.errors import DriverUnavailable
from bay.server.secrets.vault import KEY_BYTES, Unreadable, Vault, read_keys, write_keys

pytestmark = pytest.mark.pure


def test_a_value_comes_back_and_is_not_seen_in_what_is_stored() -> None:
    vault = Vault()
    sealed = vault.seal("alice", "TOKEN", "s3cret ☃")
    assert vault.unseal("alice", "TOKEN", sealed) == "s3cret ☃"
    assert b"s3cret" not in sealed
    assert vault.seal("alice", "TOKEN", "s3cret ☃") != sealed


@pytest.mark.parametrize(("owner", "name"), [("bob", "TOKEN"), ("alice", "OTHER"), ("alic", "eTOKEN")])
def test_a_row_that_was_moved_to_another_owner_or_name_opens_nothing(owner: str, name: str) -> None:
    vault = Vault()
    with pytest.raises(Unreadable):
        vault.unseal(owner, name, vault.seal("alice", "TOKEN", "x"))


def test_a_changed_byte_anywhere_opens_nothing() -> None:
    vault = Vault()
    sealed = vault.seal("alice", "TOKEN", "value")
    for at in range(len(sealed)):
        changed = sealed[:at] + bytes((sealed[at] ^ 1,)) + sealed[at + 1 :]
        with pytest.raises(Unreadable):
            vault.unseal("alice", "TOKEN", changed)
    for length in range(len(sealed)):
        with pytest.raises(Unreadable):
            vault.unseal("alice", "TOKEN", sealed[:length])


def test_the_key_file_is_made_once_for_the_server_alone(tmp_path: Path) -> None:
    path = tmp_path / "secrets.key"
    vault, again = Vault(), Vault()
    before = os.umask(0)
    try:
        vault.open_file(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.stat().st_size == KEY_BYTES
    again.open_file(path)
    assert again.unseal("alice", "A", vault.seal("alice", "A", "1")) == "1"
    assert [one.name for one in tmp_path.iterdir()] == ["secrets.key"]


def test_older_keys_of_the_file_open_what_they_sealed(tmp_path: Path) -> None:
    path = tmp_path / "secrets.key"
    old, new = os.urandom(KEY_BYTES), os.urandom(KEY_BYTES)
    sealed = Vault((old,)).seal("alice", "A", "1")
    write_keys(path, (new, old))
    vault = Vault()
    vault.open_file(path)
    assert vault.unseal("alice", "A", sealed) == "1"
    assert Vault((new,)).unseal("alice", "A", vault.seal("alice", "A", "2")) == "2"
    with pytest.raises(Unreadable):
        Vault((new,)).unseal("alice", "A", sealed)


@pytest.mark.parametrize("content", [b"", b"short", b"x" * (KEY_BYTES + 1), b"x" * (65 * KEY_BYTES)])
def test_a_file_that_has_no_keys_is_refused_and_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "secrets.key"
    path.write_bytes(content)
    with pytest.raises(DriverUnavailable, match=r"secrets\.key"):
        Vault().open_file(path)
    assert path.read_bytes() == content


def test_a_link_in_place_of_the_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"x" * KEY_BYTES)
    (tmp_path / "secrets.key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        read_keys(tmp_path / "secrets.key")
