"""Keys that an operator gives in files: read and never written, and the same for all replicas."""

from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import postgres_server
import pytest
from postgres_databases import url_for
from replica_worlds import replica_worlds
from server_harness import World, create, world

from bay.clock import ManualClock
from bay.errors import DriverUnavailable
from bay.server.key_files import KEY_BYTES, given_keys
from bay.server.ports.links import PortTokens
from bay.server.secrets.vault import Vault
from bay.server.web.sealing import Seals

OLD, NEW = b"o" * KEY_BYTES, b"n" * KEY_BYTES
needs_postgres = pytest.mark.skipif(postgres_server.binaries() is None, reason="needs PostgreSQL")


def replica(root: Path, **given: Any) -> AbstractAsyncContextManager[World]:
    """A Bay that shares the database and the data directory below `root`."""
    return world(root, database_url=url_for(root), replicas=True, may_block=True, **given)


@pytest.mark.pure
@pytest.mark.parametrize(
    "content",
    [
        NEW + OLD,
        f"{NEW.hex()}\n{OLD.hex()}\n".encode(),
        f"  {NEW.hex().upper()} \r\n\r\n{OLD.hex()}".encode(),
    ],
)
def test_keys_are_bytes_or_hex_digits_in_order(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)
    assert given_keys(path, 2) == [NEW, OLD]
    with pytest.raises(DriverUnavailable, match="and not one key of 32 bytes or 64 hex digits"):
        given_keys(path, 1)


@pytest.mark.pure
@pytest.mark.parametrize(
    "content",
    [b"", b"\n", b"short", NEW + b"\n", NEW.hex().encode()[:-1], NEW.hex().encode() + b"\nx", b"x" * 70_000],
)
def test_a_file_that_holds_anything_else_is_refused_without_its_content(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)
    for used in (Vault(), Seals(32)):
        with pytest.raises(DriverUnavailable, match="openssl rand -hex 32") as caught:
            used.open_file(path, given=True)
        assert str(path) in caught.value.message
        assert "short" not in caught.value.message
        assert NEW.hex()[:8] not in caught.value.message
    assert path.read_bytes() == content


@pytest.mark.pure
def test_a_given_file_that_is_missing_is_refused_and_not_made(tmp_path: Path) -> None:
    path = tmp_path / "key"
    for used in (Vault(), Seals(32)):
        with pytest.raises(DriverUnavailable, match="No such file"):
            used.open_file(path, given=True)
    assert not path.exists()


@pytest.mark.pure
def test_a_mounted_secret_is_a_link_that_is_followed(tmp_path: Path) -> None:
    (tmp_path / "..data").mkdir()
    (tmp_path / "..data" / "key").write_bytes(OLD)
    (tmp_path / "key").symlink_to("..data/key")
    assert given_keys(tmp_path / "key", 1) == [OLD]


@pytest.mark.anyio
async def test_bay_takes_given_keys_and_makes_no_files_of_its_own(root: Path) -> None:
    secrets_key, ports_key = root / "s", root / "p"
    secrets_key.write_text(NEW.hex() + "\n" + OLD.hex() + "\n")
    ports_key.write_bytes(OLD)
    other = PortTokens(ManualClock())
    other.open(ports_key, given=True)
    async with world(root, secrets_key_file=secrets_key, ports_key_file=ports_key) as bay:
        sealed = bay.bay.vault.seal("alice", "A", "1")
        assert Vault((NEW,)).unseal("alice", "A", sealed) == "1"
        assert bay.bay.vault.unseal("alice", "A", Vault((OLD,)).seal("alice", "A", "2")) == "2"
        assert bay.bay.port_tokens.key_name == other.key_name
        of_sandbox = bay.bay.sandbox_tokens.token("envd", "sandbox-1", "alice", "key-1")
    async with world(root, secrets_key_file=secrets_key, ports_key_file=ports_key) as bay:
        assert bay.bay.sandbox_tokens.token("envd", "sandbox-1", "alice", "key-1") == of_sandbox
    assert not list((root / "data").glob("*s.key"))


@pytest.mark.anyio
@needs_postgres
async def test_replicas_with_the_same_files_read_one_anothers_secrets_and_links(root: Path) -> None:
    key = root / "k"
    key.write_bytes(NEW)
    async with replica_worlds(root, secrets_key_file=key, ports_key_file=key) as (one, other):
        sealed = one.bay.vault.seal("alice", "A", "1")
        assert other.bay.vault.unseal("alice", "A", sealed) == "1"
        assert one.bay.port_tokens.key_name == other.bay.port_tokens.key_name


@pytest.mark.anyio
@needs_postgres
@pytest.mark.parametrize("setting", ["secrets_key_file", "ports_key_file"])
async def test_a_replica_with_another_key_than_those_that_live_does_not_start(
    root: Path, setting: str
) -> None:
    same, wrong = root / "same", root / "wrong"
    same.write_bytes(NEW)
    wrong.write_bytes(OLD)
    given = {"secrets_key_file": same, "ports_key_file": same}
    async with replica(root, **given) as one:
        with pytest.raises(DriverUnavailable, match=f"setting {setting}: the other replicas use a key"):
            async with replica(root, **{**given, setting: wrong}):
                pass
        assert (await create(await one.client(), profile="python-default"))["id"]


@pytest.mark.anyio
@needs_postgres
async def test_replicas_come_to_a_new_key_of_secrets_one_after_the_other(root: Path) -> None:
    key, both = root / "key", root / "both"
    key.write_bytes(OLD)
    both.write_bytes(NEW + OLD)
    async with (
        replica(root, secrets_key_file=key) as one,
        replica(root, secrets_key_file=both) as other,
    ):
        sealed = one.bay.vault.seal("alice", "A", "1")
        assert other.bay.vault.unseal("alice", "A", sealed) == "1"
        assert Vault((NEW,)).unseal("alice", "A", other.bay.vault.seal("alice", "A", "2")) == "2"


@pytest.mark.anyio
@needs_postgres
async def test_keys_that_no_living_replica_uses_bind_nobody(root: Path) -> None:
    key = root / "key"
    for content in (OLD, NEW):
        key.write_bytes(content)
        async with replica(root, secrets_key_file=key, ports_key_file=key):
            pass
