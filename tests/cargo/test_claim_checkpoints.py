"""Checkpoints of volume claims: claims in memory, their files by Ship's own tools, archives in a real object
store.
"""

import asyncio
import hashlib
import io
import json
import os
import secrets
import tarfile
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import aclosing, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import object_server
import pytest
import zstandard
from claim_api import ClaimServer
from claim_carriers import HostCarrier, HostCarriers, UnusedClaims
from object_server import FaultyFront, ObjectServer

from bay.cargo import export_process
from bay.cargo.base import Weight
from bay.cargo.claim_archives import ArchiveManifest, ClaimArchives
from bay.cargo.claim_checkpoints import ClaimCheckpoints
from bay.cargo.export_import import export_stream, import_stream
from bay.cargo.manifest import Manifest
from bay.cargo.volume_claims import ClaimSettings
from bay.errors import BadRequest, Conflict, InvalidArgument, NotFound, ObjectStoreUnavailable, StorageFull
from bay.ids import new_id
from bay.models import Persist
from bay.object_store.base import ObjectStore
from bay.object_store.s3 import S3Access, S3ObjectStore
from bay.testing.cargo import *  # noqa: F403 - the suite is the module's functions
from bay.testing.cargo import MIB, WorkspaceFiles, dig, facts

pytestmark = [pytest.mark.host, pytest.mark.anyio, pytest.mark.long]

SETTINGS = ClaimSettings(install="bay1", read_write_once_pod=True)


@pytest.fixture
def server() -> UnusedClaims:
    made = UnusedClaims()
    made.storage_class("standard", default=True, grows=True)
    return made


@pytest.fixture(scope="module")
def objects() -> ObjectServer:
    return object_server.shared()


@pytest.fixture
def bucket(objects: ObjectServer) -> str:
    return objects.bucket()


@pytest.fixture
def front(objects: ObjectServer) -> Generator[FaultyFront]:
    """A proxy before the object store."""
    with object_server.faulty(objects) as found:
        yield found


@pytest.fixture
def store(front: FaultyFront, bucket: str) -> Callable[[], ObjectStore]:
    access = S3Access(
        bucket=bucket,
        prefix="some/prefix/",
        endpoint=front.endpoint,
        region="us-east-1",
        access_key_id=object_server.ACCESS,
        secret_access_key=object_server.SECRET,
        ca_file=None,
        path_style=True,
        timeout_s=1,
    )
    return lambda: S3ObjectStore(access)


@pytest.fixture
def carriers(server: ClaimServer, tmp_path: Path) -> HostCarriers:
    return HostCarriers(server, tmp_path)


@pytest.fixture
def database() -> str:
    return secrets.token_hex(8)


@pytest.fixture
def reopen(
    server: ClaimServer, store: Callable[[], ObjectStore], carriers: HostCarriers, database: str
) -> Callable[[], ClaimCheckpoints]:
    def made() -> ClaimCheckpoints:
        backend = ClaimCheckpoints(lambda: nullcontext(server), SETTINGS, ClaimArchives(store), carriers)
        backend.belong_to(database)
        return backend

    return made


@pytest.fixture
async def cargo(reopen: Callable[[], ClaimCheckpoints]) -> ClaimCheckpoints:
    backend = reopen()
    await backend.open()
    return backend


@pytest.fixture
def files(carriers: HostCarriers) -> WorkspaceFiles:
    return carriers


async def noisy(cargo: ClaimCheckpoints, carriers: HostCarriers, size: int = 3 * MIB) -> tuple[str, Path]:
    """A cargo with a file of noise, and its workspace."""
    ws = new_id("ws")
    await cargo.create(ws, limit_bytes=50 * MIB)
    top = carriers.workspace(cargo.place(ws))
    (top / "noise").write_bytes(os.urandom(size))
    return ws, top


async def test_a_checkpoint_is_an_archive_and_goes_with_all_of_its_objects(
    cargo: ClaimCheckpoints, carriers: HostCarriers, objects: ObjectServer, bucket: str, database: str
) -> None:
    ws, _ = await noisy(cargo, carriers, 20 * MIB)
    ckpt = new_id("ckpt")
    await cargo.checkpoint(ws, ckpt)
    folder = f"some/prefix/claims/{database}/{ckpt}/"
    there = objects.objects(bucket)
    assert all(key.startswith(folder) for key in there)
    found = ArchiveManifest.from_json(objects.read(bucket, f"{folder}manifest.json"), ckpt)
    assert (found.cargo_id, found.entries, found.file_bytes) == (ws, 2, 20 * MIB)
    assert there.keys() == {f"{folder}manifest.json", *(folder + part.name for part in found.parts)}
    assert len(found.parts) == 3
    assert carriers.live == set()
    weights = await cargo.weigh([ws, ckpt, new_id("ckpt")])
    assert weights == {ckpt: Weight(used_bytes=20 * MIB, used_inodes=2, exclusive_bytes=found.size)}
    await cargo.remove_checkpoint(ckpt)
    assert objects.objects(bucket) == {}


async def test_every_kind_of_file_comes_back_in_a_fork_and_in_a_restore(
    cargo: ClaimCheckpoints, carriers: HostCarriers
) -> None:
    ws, top = await noisy(cargo, carriers)
    (top / "far").mkdir(mode=0o2770)
    os.link(top / "noise", top / "far/two")
    with (top / "sparse").open("wb") as file:
        file.truncate(80 * MIB)
    os.mkfifo(top / "fifo", 0o640)
    (top / "link").symlink_to("nowhere")
    os.setxattr(top / "far", "user.colour", b"y\0z")
    os.close(os.open(os.fsencode(top) + b"/\xff", os.O_CREAT | os.O_WRONLY))
    before = facts(top)
    ckpt, fork = new_id("ckpt"), new_id("ws")
    await cargo.checkpoint(ws, ckpt)
    await cargo.create(fork, limit_bytes=50 * MIB, origin=ckpt)
    (top / "noise").unlink()
    await cargo.prepare_restore(ws, ckpt, limit_bytes=50 * MIB)
    await cargo.restore(ws)
    assert facts(top) == facts(carriers.workspace(cargo.place(fork))) == before


async def test_what_a_session_packs_is_a_checkpoint_like_any_other_and_no_carrier_begins(
    cargo: ClaimCheckpoints, carriers: HostCarriers, objects: ObjectServer, bucket: str
) -> None:
    ws, top = await noisy(cargo, carriers)
    before, ckpt, lost = facts(top), new_id("ckpt"), new_id("ckpt")
    session = HostCarrier(carriers.top(f"bay-{ws}"), None)
    for _ in range(2):
        await cargo.checkpoint_by_session(ws, ckpt, session)
    assert carriers.opened == []
    there = objects.objects(bucket)
    with pytest.raises(BadRequest, match="lost"):
        await cargo.checkpoint_by_session(ws, lost, HostCarrier(carriers.top(f"bay-{ws}"), MIB))
    assert (await cargo.list_checkpoints(), objects.objects(bucket)) == ({ckpt}, there)
    (top / "noise").unlink()
    await cargo.prepare_restore(ws, ckpt, limit_bytes=50 * MIB)
    await cargo.restore(ws)
    assert facts(top) == before
    with pytest.raises(NotFound):
        await cargo.checkpoint_by_session(new_id("ws"), new_id("ckpt"), session)
    with pytest.raises(InvalidArgument):
        await cargo.checkpoint_by_session(ws, "../x", session)


async def test_an_archive_that_was_altered_is_refused_and_the_files_are_as_before(
    cargo: ClaimCheckpoints, carriers: HostCarriers, objects: ObjectServer, bucket: str
) -> None:
    ws, top = await noisy(cargo, carriers, 20 * MIB)
    ckpt = new_id("ckpt")
    await cargo.checkpoint(ws, ckpt)
    last = max(key for key in objects.objects(bucket) if not key.endswith(".json"))
    content = bytearray(objects.read(bucket, last))
    content[len(content) // 2] ^= 1
    objects.write(bucket, last, bytes(content))
    (top / "since").write_text("kept")
    before = facts(top)
    await cargo.prepare_restore(ws, ckpt, limit_bytes=None)
    with pytest.raises(BadRequest, match=r"part 3 of .* is missing or damaged"):
        await cargo.restore(ws)
    assert facts(top) == before
    fork = new_id("ws")
    with pytest.raises(BadRequest, match="damaged"):
        await cargo.create(fork, limit_bytes=50 * MIB, origin=ckpt)
    assert await cargo.list_ids() == {ws}
    [manifest] = [key for key in objects.objects(bucket) if key.endswith(".json")]
    objects.write(
        bucket, manifest, objects.read(bucket, manifest).replace(ckpt.encode(), b"ckpt-" + b"0" * 24)
    )
    with pytest.raises(BadRequest, match=r"manifest of .* is damaged"):
        await cargo.prepare_restore(ws, ckpt, limit_bytes=None)
    await cargo.remove_checkpoint(ckpt)
    assert objects.objects(bucket) == {}


@pytest.mark.parametrize("fails_at", ["-00002", "manifest.json"])
async def test_an_object_store_that_goes_away_in_the_middle_leaves_no_checkpoint(
    cargo: ClaimCheckpoints,
    carriers: HostCarriers,
    objects: ObjectServer,
    bucket: str,
    front: FaultyFront,
    fails_at: str,
) -> None:
    ws, _ = await noisy(cargo, carriers, 20 * MIB)
    ckpt = new_id("ckpt")
    is_away = False

    def fault(method: str, path: str) -> str | None:
        nonlocal is_away
        is_away = is_away or (method == "PUT" and path.endswith(fails_at))
        return "503" if is_away else None

    front.fault = fault
    with pytest.raises(ObjectStoreUnavailable):
        await cargo.checkpoint(ws, ckpt)
    front.fault = lambda _method, _path: None
    assert carriers.live == set()
    assert await cargo.list_checkpoints() == set()
    await cargo.checkpoint(ws, ckpt)  # as a Bay does that was killed, and has what it wrote before
    assert await cargo.list_checkpoints() == {ckpt}
    assert len(objects.objects(bucket)) == 4
    await cargo.remove_checkpoint(ckpt)
    assert objects.objects(bucket) == {}


async def test_a_carrier_that_is_lost_leaves_no_checkpoint_and_no_part(
    cargo: ClaimCheckpoints, carriers: HostCarriers, objects: ObjectServer, bucket: str
) -> None:
    ws, _ = await noisy(cargo, carriers, 20 * MIB)
    carriers.breaks_at = 18 * MIB
    with pytest.raises(BadRequest, match="lost"):
        await cargo.checkpoint(ws, new_id("ckpt"))
    assert objects.objects(bucket) == {}


async def test_a_fork_that_broke_off_is_begun_anew_before_it_is_there(
    cargo: ClaimCheckpoints,
    carriers: HostCarriers,
    server: ClaimServer,
    reopen: Callable[[], ClaimCheckpoints],
) -> None:
    ws, top = await noisy(cargo, carriers)
    ckpt, fork = new_id("ckpt"), new_id("ws")
    await cargo.checkpoint(ws, ckpt)
    carriers.begun.clear()
    making = asyncio.create_task(cargo.create(fork, limit_bytes=50 * MIB, origin=ckpt))
    await carriers.begun.wait()
    making.cancel()
    await asyncio.wait([making])
    assert server.claim(f"bay-{fork}")["metadata"]["annotations"]["bay.dev/origin"] == ckpt
    again = reopen()
    await again.open()
    await again.create(fork, limit_bytes=50 * MIB, origin=ckpt)
    assert facts(carriers.workspace(cargo.place(fork))) == facts(top)
    assert "bay.dev/origin" not in server.claim(f"bay-{fork}")["metadata"]["annotations"]
    await cargo.remove_checkpoint(ckpt)
    await again.create(fork, limit_bytes=50 * MIB, origin=ckpt)  # whose files it has
    assert carriers.opened == [ws, fork, fork]


async def test_less_room_than_the_files_take_is_a_full_disk_with_the_way_out(
    cargo: ClaimCheckpoints, carriers: HostCarriers
) -> None:
    ws, _ = await noisy(cargo, carriers, 20 * MIB)
    ckpt, small = new_id("ckpt"), new_id("ws")
    await cargo.checkpoint(ws, ckpt)
    with pytest.raises(StorageFull, match=r"no room .* for the 21 MiB of checkpoint .*larger disk_mb"):
        await cargo.create(small, limit_bytes=16 * MIB, origin=ckpt)
    assert await cargo.list_ids() == {ws}
    await cargo.create(small, limit_bytes=16 * MIB)
    with pytest.raises(StorageFull, match="larger disk_mb"):
        await cargo.prepare_restore(small, ckpt, limit_bytes=16 * MIB)
    await cargo.prepare_restore(small, ckpt, limit_bytes=50 * MIB)  # as a claim that could not grow
    with pytest.raises(StorageFull, match="larger disk_mb"):
        await cargo.restore(small)


async def test_a_fence_lets_no_session_start_beside_a_carrier_of_a_bay_that_ended(
    cargo: ClaimCheckpoints, carriers: HostCarriers
) -> None:
    ws = new_id("ws")
    await cargo.create(ws)
    await cargo.fence(ws, new_id("sandbox"), 1, "sess-a")
    assert carriers.cleared == [ws]


def exported_facts(persist: Persist = "workspace") -> Manifest:
    return Manifest(
        bay="0.1", persist=persist, image="debian:13", created_at=datetime(2026, 11, 30, tzinfo=UTC), name="out",
        comment="to travel", sandbox_id=new_id("sandbox"),
    )  # fmt: skip


async def once(data: bytes) -> AsyncGenerator[bytes]:
    for at in range(0, len(data), 1 << 16):
        yield data[at : at + (1 << 16)]


async def exported(cargo: ClaimCheckpoints, ckpt: str, facts: Manifest) -> tuple[bytes, dict[str, int]]:
    counts: dict[str, int] = {}
    async with aclosing(cargo.export_archive(ckpt, facts, counts)) as chunks:
        return b"".join([chunk async for chunk in chunks]), counts


async def test_an_export_is_imported_on_one_box_and_one_of_one_box_in_a_cluster(
    cargo: ClaimCheckpoints, carriers: HostCarriers, tmp_path: Path
) -> None:
    ws, top = await noisy(cargo, carriers)
    (top / "d").mkdir(mode=0o750)
    os.link(top / "noise", top / "d/two")
    (top / "empty").touch(mode=0o600)
    ckpt, told = new_id("ckpt"), exported_facts()
    await cargo.checkpoint(ws, ckpt)
    archive, counts = await exported(cargo, ckpt, told)
    assert counts == {"entries": 5}
    box = tmp_path / "box"
    box.mkdir()
    assert await import_stream(once(archive), box, None) == told
    assert facts(box / "workspace") == facts(top)
    again = b"".join([chunk async for chunk in export_stream(box, told)])
    for came in (archive, again):
        back, seen = new_id("ckpt"), list[Manifest]()
        made = await cargo.import_archive(ws, back, once(came), limit_bytes=50 * MIB, check=seen.append)
        assert (made, seen) == (told, [told])
        weight = (await cargo.weigh([back]))[back]
        assert (weight.used_bytes, weight.used_inodes, weight.exclusive_bytes) == (3 * MIB, 5, len(came))
        before = facts(top)
        (top / "noise").unlink()
        await cargo.prepare_restore(ws, back, limit_bytes=50 * MIB)
        await cargo.restore(ws)
        assert facts(top) == before
        assert (await exported(cargo, back, told))[1] == counts


def foreign(**head: Any) -> bytes:
    """An archive that has all that an import looks for, and is not as Bay writes it."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        told = exported_facts().to_json().encode()
        first = tarfile.TarInfo("checkpoint.json")
        first.size = len(told)
        for name, value in head.items():
            setattr(first, name, value)
        tar.addfile(first, io.BytesIO(told))
        top = tarfile.TarInfo("workspace")
        top.type = tarfile.DIRTYPE
        tar.addfile(top)
        digest = hashlib.sha256(out.getvalue()).hexdigest().encode()
        last = tarfile.TarInfo("sha256")
        last.size = len(digest)
        tar.addfile(last, io.BytesIO(digest))
    return zstandard.compress(out.getvalue())


@pytest.mark.parametrize(
    ("harm", "error", "why"),
    [
        ("foreign", BadRequest, "not as Bay writes it"),
        ("machine", BadRequest, "a root file system beside /workspace"),
        ("large", StorageFull, "the limit"),
        ("deep", BadRequest, "400 directories deep"),
        ("cut", BadRequest, "damaged"),
    ],
)
def test_what_a_carrier_could_not_put_back_is_no_archive_to_keep(
    tmp_path: Path, harm: str, error: type[Exception], why: str
) -> None:
    (tmp_path / "workspace").mkdir()
    (tmp_path / "machine").mkdir()
    (tmp_path / "workspace/noise").write_bytes(os.urandom(1 << 16))
    os.close(dig(tmp_path / "workspace", "d", 403 if harm == "deep" else 400))
    out = io.BytesIO()
    export_process.pack(tmp_path, exported_facts("machine" if harm == "machine" else "workspace"), out)
    good = out.getvalue()
    given = {"foreign": foreign(mode=0o644), "cut": good[:-20]}.get(harm, good)
    if harm not in ("machine", "deep"):
        assert export_process.check(io.BytesIO(good).read, 1 << 16).entries == 402
    with pytest.raises(error, match=why):
        export_process.check(io.BytesIO(given).read, (1 << 16) - 1 if harm == "large" else None)


@pytest.mark.parametrize(
    ("harm", "error", "why"),
    [
        ("flipped", BadRequest, "damaged"),
        ("empty", BadRequest, "damaged"),
        ("refused", Conflict, "by its facts"),
    ],
)
async def test_an_import_that_is_refused_leaves_nothing_in_the_object_store(
    cargo: ClaimCheckpoints, tmp_path: Path, objects: ObjectServer, bucket: str,
    harm: str, error: type[Exception], why: str,
) -> None:  # fmt: skip
    (tmp_path / "workspace").mkdir()
    (tmp_path / "workspace/noise").write_bytes(os.urandom(11 * MIB))  # a part is there before it is refused
    out = io.BytesIO()
    export_process.pack(tmp_path, exported_facts(), out)
    given = bytearray(out.getvalue() if harm != "empty" else b"")
    if harm == "flipped":
        given[-5000] ^= 1

    def check(_facts: Manifest) -> None:
        if harm == "refused":
            raise Conflict("refused by its facts")

    ws = new_id("ws")
    await cargo.create(ws)
    with pytest.raises(error, match=why):
        await cargo.import_archive(ws, new_id("ckpt"), once(bytes(given)), limit_bytes=50 * MIB, check=check)
    assert (await cargo.list_checkpoints(), objects.objects(bucket)) == (set(), {})


@pytest.mark.parametrize("beside_others", [False, True])
async def test_parts_that_an_import_left_go_at_the_next_start_unless_another_bay_may_write_them(
    cargo: ClaimCheckpoints,
    carriers: HostCarriers,
    reopen: Callable[[], ClaimCheckpoints],
    objects: ObjectServer,
    bucket: str,
    database: str,
    beside_others: bool,
) -> None:
    ws, _ = await noisy(cargo, carriers)
    ckpt = new_id("ckpt")
    await cargo.checkpoint(ws, ckpt)
    left = f"some/prefix/claims/{database}/{new_id('ckpt')}/0123abcd-00001"
    objects.write(bucket, left, b"x")
    again = reopen()
    await again.open(beside_others=beside_others)
    running = asyncio.create_task(again.run())
    async with asyncio.timeout(20):
        if not beside_others:
            while left in objects.objects(bucket):  # noqa: ASYNC110 - the object store tells nobody
                await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.wait([running])
    assert (left in objects.objects(bucket)) == beside_others
    assert await cargo.list_checkpoints() == {ckpt}


async def test_parts_of_a_checkpoint_that_is_made_again_meanwhile_stay(
    cargo: ClaimCheckpoints,
    objects: ObjectServer,
    bucket: str,
    database: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ckpt = new_id("ckpt")
    left = f"some/prefix/claims/{database}/{ckpt}/0123abcd-00001"
    objects.write(bucket, left, b"x")
    archives = cargo._archives  # pyright: ignore[reportPrivateUsage]
    look = archives.unfinished

    async def then_begun() -> set[str]:
        found = await look()
        archives._writing.add(ckpt)  # pyright: ignore[reportPrivateUsage]
        return found

    monkeypatch.setattr(archives, "unfinished", then_begun)
    await archives.remove_unfinished()
    assert left in objects.objects(bucket)
    archives._writing.discard(ckpt)  # pyright: ignore[reportPrivateUsage]
    monkeypatch.undo()
    await archives.remove_unfinished()
    assert left not in objects.objects(bucket)


async def test_bays_with_other_databases_do_not_see_one_anothers_checkpoints(
    cargo: ClaimCheckpoints, carriers: HostCarriers, reopen: Callable[[], ClaimCheckpoints]
) -> None:
    ws, _ = await noisy(cargo, carriers)
    ckpt = new_id("ckpt")
    await cargo.checkpoint(ws, ckpt)
    other = reopen()
    other.belong_to("another")
    assert (await other.list_checkpoints(), await cargo.list_checkpoints()) == (set(), {ckpt})
    await other.remove_checkpoint(ckpt)
    assert await cargo.list_checkpoints() == {ckpt}


@pytest.mark.parametrize(
    "change",
    [
        {"parts": []},
        {"size": 1},
        {"entries": -1},
        {"file_bytes": "1"},
        {"sha256": "0" * 63},
        {"cargo_id": "../x"},
        {"more": 1},
        {"parts": [{"name": "../../x", "size": 1, "sha256": "0" * 64}]},
    ],
)
def test_a_manifest_that_no_bay_wrote_is_refused(change: dict[str, object]) -> None:
    ckpt = new_id("ckpt")
    part = {"name": "0123abcd-00001", "size": 7, "sha256": "0" * 64}
    good = {
        "format": 1, "bay": "0.1", "checkpoint_id": ckpt, "cargo_id": new_id("ws"), "sha256": "0" * 64, "size": 7,
        "file_bytes": 0, "entries": 1, "parts": [part],
    }  # fmt: skip
    assert ArchiveManifest.from_json(json.dumps(good).encode(), ckpt).size == 7
    with pytest.raises(BadRequest, match="is damaged"):
        ArchiveManifest.from_json(json.dumps(good | change).encode(), ckpt)
    with pytest.raises(BadRequest, match="newer Bay"):
        ArchiveManifest.from_json(json.dumps(good | {"format": 2}).encode(), ckpt)
