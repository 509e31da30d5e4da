"""`bay admin backup` and `bay admin restore`, and what Bay does on a database that is not what it was."""

import asyncio
import hashlib
import io
import json
import os
import sqlite3
import stat
import tarfile
from collections.abc import Callable, Generator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from server_harness import assert_error, clear, create, settings_in, shell, ships, short_dir, until, world

from bay.cargo import backend_detection
from bay.errors import BadRequest, Conflict, DriverUnavailable, InternalError
from bay.linux import btrfs
from bay.server import main
from bay.server.control_plane import ControlPlane
from bay.server.data_dir import UNFINISHED, check
from bay.server.offline.backup import MANIFEST, Restored, backup, restore
from bay.store.engine import Store
from bay.store.sqlite import SqliteDatabase, migrate

Json = dict[str, Any]


pytestmark = [pytest.mark.anyio, pytest.mark.sqlite]


@pytest.fixture
def place(root: Path) -> Generator[Path]:
    """Where a Bay runs; its sessions are ended afterwards."""
    yield root
    asyncio.run(clear(root))


@pytest.fixture(scope="session")
def archive() -> bytes:
    """A backup with one workspace and its files."""

    async def make(place: Path) -> None:
        async with world(place) as bay:
            await write(await bay.client(), "one", "kept", "from the backup")
        await clear(place)

    with short_dir() as place:
        asyncio.run(make(place))
        backup(place / "saved.tar", place / "data", with_files=True)
        return (place / "saved.tar").read_bytes()


@pytest.fixture
def saved(place: Path, archive: bytes) -> Path:
    """A backup, and the Bay it was made of."""
    (place / "saved.tar").write_bytes(archive)
    restore(place / "saved.tar", place / "data", force=False)
    return place / "saved.tar"


async def write(client: httpx.AsyncClient, name: str, path: str, content: str) -> Json:
    """Write a file in the sandbox `name`, which is made when it is not there; gives the sandbox."""
    found = await client.get(f"/v1/sandboxes/{name}")
    made = found.json() if found.is_success else await create(client, name=name)
    await shell(client, name, f"printf %s '{content}' > {path}")
    return made


async def read(client: httpx.AsyncClient, name: str, path: str) -> str:
    return (await shell(client, name, f"cat {path}"))["output"]


async def saving(place: Path, *, with_files: bool, name: str = "saved.tar") -> Path:
    """Make a backup of the Bay that runs."""
    made = await asyncio.to_thread(backup, place / name, place / "data", with_files=with_files)
    return made.path


async def restoring(source: Path, target: Path, *, force: bool = True) -> Restored:
    return await asyncio.to_thread(restore, source, target, force=force)


async def names(client: httpx.AsyncClient) -> dict[str, str]:
    listed = (await client.get("/v1/sandboxes")).json()
    return {item["name"]: item["compute"] for item in listed["items"]}


# The whole way


@pytest.mark.parametrize("name", ["saved.tar", "saved.tar.gz", "saved.tgz"])
async def test_a_backup_of_a_running_bay_gives_everything_back_elsewhere(place: Path, name: str) -> None:
    other = place / "o"
    other.mkdir()
    async with world(place) as bay:
        alice = await bay.client()
        await write(alice, "one", "kept", "precious")
        saved = await saving(place, with_files=True, name=name)
        assert await read(alice, "one", "kept") == "precious"
    await clear(place)
    done = await restoring(saved, other / "data", force=False)
    assert (done.sandboxes, done.aside) == (1, None)
    async with world(other) as bay:
        alice = await bay.client()
        assert await names(alice) == {"one": "cold"}
        assert await read(alice, "one", "kept") == "precious"
    await clear(other)


async def test_a_backup_is_private_and_says_what_is_in_it(place: Path, saved: Path) -> None:
    again = await saving(place, with_files=False, name="again.tar")
    assert again.stat().st_mode & 0o777 == 0o600
    with tarfile.open(saved) as tar:
        manifest = json.loads(content(tar, MANIFEST))
        assert (manifest["format"], manifest["with_files"], manifest["left_out"]) == (2, True, [])
        assert manifest["schema"].isalnum()
        assert {"bay.db", next(n for n in tar.getnames() if n.endswith("/kept"))} <= set(manifest["members"])
        for name, digest in manifest["members"].items():
            assert hashlib.sha256(content(tar, name)).hexdigest() == digest


def test_a_backup_has_no_memory_of_sandboxes(place: Path, saved: Path) -> None:
    """It has the secrets of programs in clear, and no other host could use it."""
    image = place / "data/oci/memory/.checkpoints/ckpt-1/image"
    image.mkdir(parents=True)
    (image / "pages-1.img").write_bytes(b"hers")
    backup(place / "again.tar", place / "data", with_files=True)
    with tarfile.open(place / "again.tar") as tar:
        assert [name for name in tar.getnames() if "memory" in name or "pages" in name] == []


def content(tar: tarfile.TarFile, name: str) -> bytes:
    found = tar.extractfile(name)
    assert found is not None
    return found.read()


async def test_the_admin_key_that_bay_made_is_in_the_backup(place: Path) -> None:
    async with world(place):
        key = (place / "data/admin.key").read_text().strip()
        saved = await saving(place, with_files=False)
    other = place / "o"
    other.mkdir()
    await restoring(saved, other / "data", force=False)
    assert (other / "data/admin.key").stat().st_mode & 0o777 == 0o600
    async with world(other) as bay:
        admin = await bay.open_client({"Authorization": f"Bearer {key}"})
        assert (await admin.get("/v1/sandboxes")).status_code == 200
        assert (other / "data/admin.key").read_text().strip() == key


async def test_restoring_needs_force_and_moves_what_was_there_aside(place: Path, saved: Path) -> None:
    async with world(place) as bay:
        alice = await bay.client()
        one = await write(alice, "one", "kept", "newer")
        two = await write(alice, "two", "file", "only here")
    await clear(place)
    with pytest.raises(Conflict, match="--force"):
        await restoring(saved, place / "data", force=False)
    done = await restoring(saved, place / "data")
    assert done.aside is not None
    assert (done.aside / "bay.db").exists()
    assert (done.aside / "cargo" / one["cargo_id"] / "workspace/kept").read_text() == "newer"
    assert (done.aside / "cargo" / two["cargo_id"] / "workspace/file").read_text() == "only here"
    async with world(place) as bay:
        alice = await bay.client()
        assert await names(alice) == {"one": "cold"}
        assert await read(alice, "one", "kept") == "from the backup"


async def test_without_files_in_the_backup_those_that_are_there_are_kept(place: Path) -> None:
    """Also those of a sandbox that the backup does not know: Bay would remove them, so they are
    moved aside.
    """
    async with world(place) as bay:
        alice = await bay.client()
        await write(alice, "one", "kept", "before")
        saved = await saving(place, with_files=False)
        await write(alice, "one", "kept", "after the backup")
        two = await write(alice, "two", "file", "only here")
    await clear(place)
    done = await restoring(saved, place / "data")
    assert done.aside is not None
    assert (done.aside / "cargo" / two["cargo_id"] / "workspace/file").read_text() == "only here"
    async with world(place) as bay:
        alice = await bay.client()
        assert await names(alice) == {"one": "cold"}
        assert await read(alice, "one", "kept") == "after the backup"


async def test_what_runs_on_the_host_and_is_in_no_row_of_the_backup_is_removed(
    place: Path, saved: Path
) -> None:
    async with world(place) as bay:
        alice = await bay.client()
        for name in ("two", "three"):
            await write(alice, name, "file", "x")
    assert len(ships(place)) == 2
    await restoring(saved, place / "data")
    async with world(place) as bay:
        assert await names(await bay.client()) == {"one": "cold"}
        await until(lambda: ships(place) == [])


async def test_a_session_of_before_is_never_taken_for_the_restored_one(place: Path) -> None:
    """It has the files that were moved aside."""
    async with world(place) as bay:
        await write(await bay.client(), "one", "kept", "old")
        saved = await saving(place, with_files=True)
    (before,) = ships(place)
    await restoring(saved, place / "data")
    async with world(place) as bay:
        one = await write(await bay.client(), "one", "kept", "new")
        assert (bay.workspace(one) / "kept").read_text() == "new"
        assert before not in ships(place)


async def test_generations_go_on_from_what_the_host_remembers(place: Path) -> None:
    async with world(place) as bay:
        alice = await bay.client()
        one = await write(alice, "one", "kept", "1")
        saved = await saving(place, with_files=False)
        for _ in range(3):
            assert (await alice.post("/v1/sandboxes/one/stop")).is_success
            await bay.settled(one["id"], lambda record: record.session is None)
            await read(alice, "one", "kept")
        before = await bay.bay.cargo.fenced(one["cargo_id"], one["id"])
    await clear(place)
    await restoring(saved, place / "data")
    async with world(place) as bay:
        await read(await bay.client(), "one", "kept")
        after = await bay.bay.cargo.fenced(one["cargo_id"], one["id"])
    assert before is not None
    assert after is not None
    assert (before.generation, after.generation) == (4, 5)


# What a cargo may hold, and where it is kept


CARGO = "ws-" + "5" * 24
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes what a machine has")


def made_data_dir(path: Path) -> Path:
    """A data directory of a Bay that has no sandboxes."""
    path.mkdir()
    migrate(path / "bay.db")
    return path


def with_machine(cargos: Path) -> None:
    """A cargo with what an overlay leaves in its upper layer."""
    upper = cargos / CARGO / "machine/root/upper"
    upper.mkdir(parents=True)
    os.mknod(upper / "gone", stat.S_IFCHR, os.makedev(0, 0))
    os.setxattr(upper, "trusted.overlay.opaque", b"y")
    (cargos / CARGO / "workspace").mkdir()
    (cargos / CARGO / "workspace/kept").write_text("from the backup")
    os.chown(cargos / CARGO / "workspace", 1000, 1000)


def is_whole(cargos: Path) -> bool:
    upper = cargos / CARGO / "machine/root/upper"
    return (
        (upper / "gone").lstat().st_rdev == 0
        and stat.S_ISCHR((upper / "gone").lstat().st_mode)
        and os.getxattr(upper, "trusted.overlay.opaque") == b"y"
        and (cargos / CARGO / "workspace").stat().st_uid == 1000
        and (cargos / CARGO / "workspace/kept").read_text() == "from the backup"
    )


@needs_root
def test_the_layers_of_a_machine_come_back_whole(tmp_path: Path) -> None:
    source = made_data_dir(tmp_path / "data")
    (source / "cargo").mkdir()
    with_machine(source / "cargo")
    backup(tmp_path / "saved.tar", source, with_files=True)
    restore(tmp_path / "saved.tar", tmp_path / "new", force=False)
    assert is_whole(tmp_path / "new/cargo")


@needs_root
def test_a_pool_is_read_while_bay_is_stopped_and_made_where_one_is_restored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was there is moved aside with its pool, and what is unpacked is subvolumes."""
    monkeypatch.setenv("BAY_CARGO_BACKEND", "btrfs")
    if backend_detection.look(tmp_path).lacking or backend_detection.look(tmp_path).on_btrfs:
        pytest.skip("this host can make no pool")
    source = made_data_dir(tmp_path / "data")
    pool = backend_detection.pool_of(source)
    try:
        pool.open()
        btrfs.create(pool.mount / CARGO)
        with_machine(pool.mount)
        pool.close()
        backup(tmp_path / "saved.tar", source, with_files=True)
        assert not pool.is_mounted()
        pool.attach()  # as after a Bay that was killed
        done = restore(tmp_path / "saved.tar", source, force=True)
        assert done.aside is not None
        assert (done.aside / "pool.img").exists()
        with backend_detection.files_of(source) as cargos:
            assert btrfs.is_subvolume(cargos / CARGO)
            assert is_whole(cargos)
        assert not pool.is_mounted()
    finally:
        while pool.file.exists() and pool.is_mounted():
            pool.close()


# Refusals


def test_a_name_that_is_taken_or_says_nothing_is_refused(place: Path, saved: Path) -> None:
    with pytest.raises(Conflict, match="exists"):
        backup(saved, place / "data", with_files=False)
    with pytest.raises(BadRequest, match=r"\.tar"):
        backup(place / "saved.zip", place / "data", with_files=False)


def test_a_backup_of_nothing_or_of_something_broken_says_so_and_leaves_no_file(place: Path) -> None:
    with pytest.raises(DriverUnavailable, match=r"no database .*--data-dir"):
        backup(place / "saved.tar", place / "data", with_files=False)
    (place / "data").mkdir()
    (place / "data/bay.db").write_bytes(b"no database" * 1000)
    with pytest.raises(DriverUnavailable, match=r"bay\.db is damaged"):
        backup(place / "saved.tar", place / "data", with_files=False)
    assert os.listdir(place) == ["data"]


def test_nothing_is_restored_into_a_directory_that_a_bay_uses(place: Path, saved: Path) -> None:
    before = sorted(os.listdir(place / "data"))
    lock = main.lock_data_dir(place / "data")
    with pytest.raises(Conflict, match="another Bay"):
        restore(saved, place / "data", force=True)
    os.close(lock)
    assert sorted(os.listdir(place / "data")) == before


def cut(data: bytes, _place: Path) -> bytes:
    return data[: len(data) * 2 // 3]


def without_end(data: bytes, _place: Path) -> bytes:
    return rewritten(data, lambda name, content: None if name == MANIFEST else content)


def flipped(data: bytes, _place: Path) -> bytes:
    at = data.rindex(b"from the backup")  # the file's own: a command is in the database as well
    return data[:at] + b"F" + data[at + 1 :]


def newer(data: bytes, _place: Path) -> bytes:
    return with_manifest(data, schema="9999")


def newest(data: bytes, _place: Path) -> bytes:
    return with_manifest(data, format=3)


def older(data: bytes, _place: Path) -> bytes:
    return with_manifest(data, format=1)


def strange(data: bytes, _place: Path) -> bytes:
    return with_manifest(data, members=7)


def one_more(data: bytes, _place: Path) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        beside = next(name for name in tar.getnames() if name.endswith("/kept"))
    return rewritten(data, lambda _name, content: content, extra={f"{beside}-planted": b"mine"})


def foreign(data: bytes, _place: Path) -> bytes:
    return rewritten(data, lambda _name, content: content, extra={"bay.toml": b"driver = 'fake'"})


def no_database(data: bytes, _place: Path) -> bytes:
    return rewritten(data, lambda name, content: None if name == "bay.db" else content)


def broken_database(data: bytes, _place: Path) -> bytes:
    def change(name: str, content: bytes) -> bytes:
        return content[:8192] + b"\xff" * 20_000 + content[28_192:] if name == "bay.db" else content

    return with_digests(rewritten(data, change))


def no_bay(_data: bytes, _place: Path) -> bytes:
    return tar_of({"readme.txt": b"hello"})


def no_tar(_data: bytes, _place: Path) -> bytes:
    return b"hello" * 1000


def rewritten(
    data: bytes, change: Callable[[str, bytes], bytes | None], extra: dict[str, bytes] | None = None
) -> bytes:
    """The tar `data` with each file's content changed, or the file left out for None."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(data)) as old, tarfile.open(fileobj=stream, mode="w") as new:
        for member in old:
            if not member.isreg():
                new.addfile(member)
            elif (changed := change(member.name, content(old, member.name))) is not None:
                add(new, member.name, changed)
        for name, text in (extra or {}).items():
            add(new, name, text)
    return stream.getvalue()


def tar_of(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as new:
        for name, text in files.items():
            add(new, name, text)
    return stream.getvalue()


def add(tar: tarfile.TarFile, name: str, text: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(text)
    tar.addfile(info, io.BytesIO(text))


def with_manifest(data: bytes, **changes: object) -> bytes:
    def change(name: str, text: bytes) -> bytes:
        return json.dumps({**json.loads(text), **changes}).encode() if name == MANIFEST else text

    return rewritten(data, change)


def with_digests(data: bytes) -> bytes:
    """`data` with a manifest that fits its files."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        names = [member.name for member in tar if member.isreg() and member.name != MANIFEST]
        digests = {name: hashlib.sha256(content(tar, name)).hexdigest() for name in names}
    return with_manifest(data, members=digests)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (cut, "damaged|not a Bay backup"),
        (without_end, "is truncated"),
        (flipped, "kept is not what was backed up"),
        (newer, "another version of Bay"),
        (newest, "another version of Bay"),
        (older, "another version of Bay"),
        (strange, "is invalid"),
        (one_more, "kept-planted is not what was backed up"),
        (foreign, "no place in a backup"),
        (no_database, "bay.db is not what was backed up"),
        (broken_database, "the database in the backup is damaged"),
        (no_bay, "no place in a backup"),
        (no_tar, "not a Bay backup"),
    ],
)
def test_a_backup_that_is_not_sound_is_refused_and_changes_nothing(
    place: Path, saved: Path, damage: Callable[[bytes, Path], bytes], says: str
) -> None:
    bad = place / "bad.tar"
    bad.write_bytes(damage(saved.read_bytes(), place))
    before = sorted(os.listdir(place / "data")), (place / "data/bay.db").read_bytes()
    for target, force in ((place / "data", True), (place / "new", False)):
        with pytest.raises(BadRequest, match=says):
            restore(bad, target, force=force)
    assert (sorted(os.listdir(place / "data")), (place / "data/bay.db").read_bytes()) == before
    assert os.listdir(place / "new") == ["bay.lock"]


def test_a_restore_that_was_interrupted_keeps_bay_from_starting_until_it_is_done(
    place: Path, saved: Path
) -> None:
    (place / "data" / UNFINISHED).touch()
    assert "bay admin restore" in complaint(place)
    restore(saved, place / "data", force=True)
    check(place / "data", place / "data/bay.db")


# A database that is not what it was


def complaint(place: Path) -> str:
    """The one line with which `bay serve` ends."""

    def on_ready(_url: str, _bay: ControlPlane) -> None:
        raise AssertionError("it serves")

    with pytest.raises(DriverUnavailable) as ended:
        main.run(settings_in(place, host="127.0.0.1", port=0), on_ready)
    (line,) = ended.value.message.splitlines()
    return line


def header(path: Path) -> None:
    overwrite(path, 0, b"\xff" * 60)


def middle(path: Path) -> None:
    overwrite(path, 4096 * 3, b"\xff" * 4096 * 4)


def overwrite(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


def shorter(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def to_nothing(path: Path) -> None:
    os.truncate(path, 0)


def to_a_stub(path: Path) -> None:
    os.truncate(path, 50)


def directory_in_its_place(path: Path) -> None:
    path.unlink()
    path.mkdir()


def other_file(path: Path) -> None:
    path.write_bytes(b"PNG or something else" * 1000)


def removed(path: Path) -> None:
    path.unlink()


def without_its_log(path: Path) -> None:
    """All that was written since the first start was in the log beside it, which is gone."""
    path.unlink()
    migrate(path)


@pytest.mark.parametrize(
    "damage",
    [
        header,
        middle,
        shorter,
        to_nothing,
        to_a_stub,
        directory_in_its_place,
        other_file,
        removed,
        without_its_log,
    ],
)
def test_a_damaged_database_is_one_line_with_its_name_and_the_way_out(
    place: Path, saved: Path, damage: Callable[[Path], None]
) -> None:
    path = place / "data/bay.db"
    damage(path)
    line = complaint(place)
    assert str(path) in line
    assert "bay admin restore" in line
    restore(saved, place / "data", force=True)
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT name FROM sandboxes").fetchall() == [("one",)]


async def test_a_first_start_and_one_after_every_sandbox_was_deleted_are_no_loss(place: Path) -> None:
    check(place / "data", place / "data/bay.db")
    async with world(place) as bay:
        alice = await bay.client()
        await write(alice, "one", "file", "x")
        assert (await alice.delete("/v1/sandboxes/one")).status_code == 204
    await asyncio.to_thread(check, place / "data", place / "data/bay.db")


async def test_damage_that_appears_while_bay_runs_is_told_in_words_and_not_in_a_traceback(
    place: Path,
) -> None:
    with suppress(InternalError):  # at the end, when something was to be written later
        async with world(place) as bay:
            alice = await bay.client()
            await create(alice, name="one")
            damage_live(place / "data/bay.db")
            answer = await alice.get("/v1/sandboxes")
            error = assert_error(answer, 500, "internal_error")
            assert "damaged" in error["message"]
            assert str(place) not in answer.text


@pytest.mark.parametrize("how", ["read", "write"])
async def test_damage_is_an_error_of_bays_own_whoever_meets_it(tmp_path: Path, how: str) -> None:
    store = Store(SqliteDatabase(tmp_path / "bay.db"))
    await store.open()
    damage_live(tmp_path / "bay.db")
    with pytest.raises(InternalError, match="restore a backup"):
        async with store.read() if how == "read" else store.write() as db:
            await db.exec_driver_sql("SELECT * FROM keys")
    await store.aclose()


def damage_live(path: Path) -> None:
    """Overwrite every page but the first, of the file and of its log."""
    for file, keep in ((path, 4096), (path.with_name("bay.db-wal"), 0)):
        if file.exists():
            overwrite(file, keep, b"\xff" * max(0, file.stat().st_size - keep))
