"""The images that `bay doctor` counts are those of the server, and a prune frees what it said."""

import asyncio
import os
import sqlite3
from collections.abc import AsyncGenerator
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path

import httpx
import object_server
import pytest
from server_harness import Json, World, clear, create, empty_database, eventually, settings_in, world

from bay.drivers.host_check import HostCheck
from bay.images.fetch_probe import caged_version
from bay.images.layer_cage import UnpackerBroken
from bay.images.layer_probe import try_unpacker
from bay.server.data_dir import DATABASE
from bay.server.offline import doctor
from bay.store.image_totals import ImageTotals, totals
from bay.store.sqlite import SqliteDatabase

pytestmark = [pytest.mark.anyio, pytest.mark.sqlite]

LAYER = 1024
PROFILES = {"machine": {"persist": "machine", "start": "eager", "max_memory_mb": 4096}}


@pytest.fixture
async def bay(root: Path) -> AsyncGenerator[World]:
    try:
        async with world(root, profiles=PROFILES) as running:
            running.driver.capabilities = replace(
                running.driver.capabilities, persist=("workspace", "machine")
            )
            yield running
    finally:
        await clear(root)


def rows(root: Path) -> dict[str, HostCheck]:
    return {row.name: row for row in doctor._images(settings_in(root))}


async def shown(bay: World, root: Path) -> Json:
    """The numbers beside a Bay that runs, whose clock may be far from this one's."""
    async with SqliteDatabase(root / "data" / DATABASE).reading() as db:
        return asdict(await totals(db, bay.clock()))


async def pull(client: httpx.AsyncClient, ref: str) -> None:
    answer = await client.post("/v1/images", json={"ref": ref}, params={"wait": 10})
    assert answer.json()["state"] == "ready", answer.text


def nothing(**counts: int) -> Json:
    return {**dict.fromkeys(ImageTotals.__dataclass_fields__, 0), **counts}


async def test_a_layer_counts_once_and_a_prune_frees_what_was_said(bay: World, root: Path) -> None:
    admin = await bay.client("root", "admin")
    bay.library.contents = {
        f"docker.io/library/{ref}:1": layers
        for ref, layers in {"a": ("one", "two"), "b": ("one", "three"), "c": ("three",)}.items()
    }
    assert await shown(bay, root) == nothing()
    for ref in ("a:1", "b:1", "c:1"):
        await pull(admin, ref)
    box = await create(admin, image="a:1", profile="machine", wait=10)
    answer = await admin.post("/v1/templates", json={"name": "t", "sandbox": box["id"]}, params={"wait": 10})
    assert answer.json()["state"] == "ready", answer.text
    there = nothing(images=3, templates=1, layers=4, layer_bytes=3 * LAYER)
    assert await shown(bay, root) == {**there, "unused": 2, "unused_bytes": LAYER}
    pruned = (await admin.post("/v1/images/prune", json={})).json()["items"]
    assert len(pruned) == 2
    assert await shown(bay, root) == {**there, "images": 1, "layers": 3, "layer_bytes": 2 * LAYER}
    assert bay.library.layers >= {"one", "two"}
    assert "three" not in bay.library.layers


async def test_a_pull_that_is_under_way_is_counted_apart(bay: World, root: Path) -> None:
    admin = await bay.client("root", "admin")
    bay.library.let_go.clear()
    await admin.post("/v1/images", json={"ref": "a:1"})

    async def is_seen() -> bool:
        return await shown(bay, root) == nothing(pulling=1)

    await eventually(is_seen)
    bay.library.let_go.set()


async def test_images_of_profiles_are_not_for_an_owner_to_prune(root: Path) -> None:
    profile = {"image": "debian:13", "start": "lazy", "max_memory_mb": 4096}
    try:
        async with world(root, profiles={"of-image": profile}) as bay:

            async def is_there() -> bool:
                return (await shown(bay, root))["images"] == 1

            await eventually(is_there)
            assert (await shown(bay, root))["unused"] == 0
    finally:
        await clear(root)


@pytest.mark.usefixtures("bay")
async def test_beside_a_server_the_row_has_words_and_numbers(root: Path) -> None:
    row = (await asyncio.to_thread(rows, root))["images"]
    assert (row.ok, row.required, row.numbers) == (True, False, nothing())
    assert row.found.startswith("0 of registries and archives, 0 of templates, 0 layers with 0.0 MiB; ")


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """The root of a Bay that never ran."""
    (tmp_path / "data").mkdir()
    return tmp_path


def test_without_a_database_there_are_no_images_and_none_is_made(stopped: Path) -> None:
    settings = settings_in(stopped)
    (settings.data_dir / DATABASE).unlink()
    (row,) = [row for row in doctor._images(settings) if row.name == "images"]
    assert (row.ok, row.numbers) == (True, {})
    assert row.found == f"none: there is no database {settings.data_dir / DATABASE}"
    assert list(settings.data_dir.iterdir()) == []


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        ("UPDATE alembic_version SET version_num = '0001'", "is of another version of Bay"),
        ("DROP TABLE alembic_version", "no such table"),
        (None, "is not a database"),
    ],
)
def test_a_database_that_this_bay_cannot_read_is_said_in_words(
    stopped: Path, spoil: str | None, said: str
) -> None:
    path = settings_in(stopped).data_dir / DATABASE
    if spoil is None:
        path.write_bytes(b"x" * 5000)
    else:
        with closing(sqlite3.connect(path)) as db, db:
            db.execute(spoil)
    before = path.read_bytes()
    row = rows(stopped)["images"]
    assert (row.ok, row.required) == (False, False)
    assert said in row.found
    assert path.read_bytes() == before


async def test_a_reader_of_the_database_can_change_nothing(tmp_path: Path) -> None:
    (tmp_path / DATABASE).write_bytes(empty_database())
    with pytest.raises(doctor.DriverUnavailable, match="readonly"):
        async with SqliteDatabase(tmp_path / DATABASE).reading() as db:
            await db.exec_driver_sql("DELETE FROM images")


def test_the_limits_are_those_of_the_settings(stopped: Path) -> None:
    row = rows(stopped)["image-limits"]
    assert row.numbers == {"layer_bytes": 20 << 30, "image_bytes": 80 << 30}
    assert row.found.endswith("20.0 GiB a layer, 80.0 GiB an image, no quota `disk_mb` for each owner")
    given = settings_in(stopped, images_max_mb=100, quotas={"disk_mb": 2048}, cargo_backend="directory")
    row = doctor._limits(given)
    assert row.numbers == {"layer_bytes": 100 << 20, "image_bytes": 400 << 20, "owner_bytes": 2 << 30}
    assert not row.ok
    assert "without quotas" in row.found


def test_without_skopeo_that_alone_is_said_of_fetches(stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.fetch_cage, "PATH", str(stopped))
    (row,) = doctor._fetching(settings_in(stopped))
    assert (row.name, row.ok, row.found) == ("skopeo", False, "none")
    assert "apt install skopeo" in row.fix


@pytest.mark.skipif(os.geteuid() != 0 or not doctor.fetch_cage.is_installed(), reason="needs root and skopeo")
def test_skopeo_says_its_version_from_a_cage_that_leaves_nothing(stopped: Path) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    assert caged_version(stopped / "data", 1_879_048_192)[0].isdigit()
    assert list((stopped / "data").iterdir()) == []
    assert Path("/proc/self/mountinfo").read_text() == before


@pytest.mark.host
@pytest.mark.skipif(os.geteuid() != 0, reason="makes namespaces and mounts")
def test_a_layer_is_unpacked_in_a_cage_that_leaves_nothing(stopped: Path) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    try_unpacker(stopped / "none", stopped / "data", 1_879_048_192)
    assert list((stopped / "data").iterdir()) == []
    assert Path("/proc/self/mountinfo").read_text() == before


def test_a_host_that_unpacks_no_layer_is_told_of(stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    def refused(_closures: Path, _scratch: Path, _id_base: int) -> None:
        raise UnpackerBroken("layers cannot be unpacked on this host: no libpthread.so.0")

    monkeypatch.setattr(doctor, "try_unpacker", refused)
    found = doctor._unpacking(settings_in(stopped))
    assert (found.name, found.ok, found.required) == ("layer-cage", False, False)
    assert "libpthread" in found.found


@pytest.mark.skipif(os.geteuid() != 0 or not doctor.fetch_cage.is_installed(), reason="needs root and skopeo")
def test_a_host_that_gives_no_cage_is_told_of(stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    def refused(_scratch: Path, _id_base: int) -> str:
        raise OSError(1, "not permitted")

    monkeypatch.setattr(doctor, "caged_version", refused)
    found, cage = doctor._fetching(settings_in(stopped))
    assert (found.name, found.ok) == ("skopeo", True)
    assert (cage.name, cage.ok, cage.required) == ("fetch-cage", False, False)
    assert "not permitted" in cage.found


@pytest.mark.host
def test_the_object_store_is_tried_with_an_object_that_is_removed_again(root: Path) -> None:
    server = object_server.shared()
    bucket = server.bucket()
    (found,) = doctor.object_store(settings_in(root, object_store=server.settings(bucket)))
    assert (found.name, found.ok, found.found) == (
        "object-store", True, f"s3://{bucket}/some/prefix takes objects and gives them back",
    )  # fmt: skip
    assert server.objects(bucket) == {}
    wrong = server.settings(bucket, secret_access_key="open-sesame")
    (found,) = doctor.object_store(settings_in(root, object_store=wrong))
    assert not found.ok
    assert "object_store.secret_access_key" in found.found
    assert "sesame" not in str(found)
    (found,) = doctor.object_store(settings_in(root))
    assert found.ok
