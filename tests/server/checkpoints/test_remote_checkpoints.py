"""Checkpoints that go to an object store and come back, on a real server with the S3 API."""

import asyncio
import hashlib
import io
import json
import os
import tarfile
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import object_server
import pytest
import zstandard
from object_server import FaultyFront, ObjectServer
from server_harness import (
    Json,
    World,
    assert_error,
    clear,
    create,
    eventually,
    settings_in,
    short_dir,
    until,
    within,
    world,
)

from bay.ids import new_id
from bay.object_store.archive import PART_BYTES
from bay.object_store.base import ObjectMissing
from bay.object_store.manifest import PushManifest
from bay.server.backends import object_store_of
from bay.server.checkpoints.bucket import CheckpointBucket
from bay.store import pushes

pytestmark = [pytest.mark.anyio, pytest.mark.host]

WAIT = {"wait": 60}


@dataclass
class Place:
    """A bucket of the test, and what is in it."""

    server: ObjectServer
    bucket: str

    @property
    def objects(self) -> dict[str, int]:
        """Sizes by key, without the salt."""
        return {
            key: size
            for key, size in self.server.objects(self.bucket).items()
            if not key.endswith("bay.json")
        }

    def key_of(self, name: str) -> str:
        """The key of the one object with that in its name."""
        (found,) = (key for key in self.objects if name in key)
        return found

    def settings(self, **given: Any) -> Json:
        return self.server.settings(self.bucket, **given)

    def read(self, name: str) -> bytes:
        return self.server.read(self.bucket, self.key_of(name))

    def write(self, name: str, data: bytes) -> None:
        self.server.write(self.bucket, self.key_of(name), data)


@pytest.fixture
def place() -> Place:
    server = object_server.shared()
    return Place(server, server.bucket())


@pytest.fixture
def front(place: Place) -> Generator[FaultyFront]:
    with object_server.faulty(place.server) as found:
        yield found


@asynccontextmanager
async def bays(place: Place, root: Path, **given: Any) -> AsyncGenerator[World]:
    """A Bay that uses the bucket."""
    try:
        async with world(root, object_store=place.settings(**given)) as running:
            yield running
    finally:
        await clear(root)


@pytest.fixture
async def bay(place: Place, root: Path) -> AsyncGenerator[World]:
    async with bays(place, root) as running:
        yield running


@pytest.fixture
async def fronted(place: Place, front: FaultyFront, root: Path) -> AsyncGenerator[World]:
    """A Bay that reaches the bucket through the proxy, and waits for it a second."""
    async with bays(place, root, endpoint=front.endpoint, timeout=1) as running:
        yield running


async def made(bay: World, client: httpx.AsyncClient, size: int = 1000, **body: Any) -> tuple[Json, Json]:
    """A sandbox with a file of noise, which no compression makes smaller, and a checkpoint of it."""
    box = await create(client, wait=10)
    (bay.workspace(box) / "noise").write_bytes(os.urandom(size))
    answer = await client.post(f"/v1/sandboxes/{box['id']}/checkpoints", json=body)
    assert answer.status_code == 201, answer.text
    return box, answer.json()


async def push(client: httpx.AsyncClient, kept: Json, **params: Any) -> Json:
    path = f"/v1/sandboxes/{kept['sandbox_id']}/checkpoints/{kept['id']}/push"
    answer = await within(client.post(path, params=params or WAIT), 90)
    assert answer.status_code == 201, answer.text
    return answer.json()


async def pull(client: httpx.AsyncClient, box: Json, key: str, **body: Any) -> httpx.Response:
    path = f"/v1/sandboxes/{box['id']}/checkpoints/pull"
    return await within(client.post(path, json={"key": key, **body}), 90)


async def noise_in(bay: World, client: httpx.AsyncClient, kept: Json) -> bytes:
    """The file of a new sandbox that begins with that checkpoint."""
    box = await create(client, from_checkpoint=kept["id"], wait=10)
    return (bay.workspace(box) / "noise").read_bytes()


async def remote(client: httpx.AsyncClient, **params: Any) -> list[Json]:
    answer = await client.get("/v1/remote-checkpoints", params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()["items"]


async def left_nothing(bay: World, before: set[str]) -> None:
    """No part of a pull is on the disk, once the trash is empty."""
    assert await bay.checkpoints.list_checkpoints() == before

    def is_clear() -> bool:
        try:
            return not list((bay.root / "data" / "cargo").rglob("ckpt-*.import*"))
        except FileNotFoundError:  # a directory of the trash, just now
            return False

    await until(is_clear)


async def test_a_checkpoint_goes_to_the_store_and_comes_back_on_another_bay(place: Place, root: Path) -> None:
    async with bays(place, root) as bay:
        alice = await bay.client("alice")
        box, kept = await made(bay, alice, 3 * PART_BYTES, name="out", comment="to travel")
        pushed = await push(alice, kept)
        assert (pushed["key"], pushed["state"], pushed["error"]) == (kept["id"], "ready", None)
        assert (pushed["sandbox_id"], pushed["name"], pushed["comment"]) == (box["id"], "out", "to travel")
        assert pushed["files"] >= 2
        expected = (bay.workspace(box) / "noise").read_bytes()
    parts = {key: size for key, size in place.objects.items() if not key.endswith("manifest.json")}
    assert len(parts) == 4
    assert max(parts.values()) == PART_BYTES
    archive = b"".join(place.server.read(place.bucket, key) for key in sorted(parts))
    assert (pushed["bytes"], pushed["sha256"]) == (len(archive), hashlib.sha256(archive).hexdigest())
    with short_dir() as elsewhere:
        async with bays(place, elsewhere) as bay:
            alice = await bay.client("alice")
            assert await remote(alice) == [pushed]
            target = await create(alice)
            answer = await pull(alice, target, kept["id"], name="in")
            assert answer.status_code == 201, answer.text
            came = answer.json()
            assert (came["name"], came["comment"], came["sandbox_id"]) == ("in", "to travel", target["id"])
            assert came["created_at"] == kept["created_at"]
            assert await noise_in(bay, alice, came) == expected


async def test_a_push_that_is_repeated_writes_nothing_again(place: Place, bay: World) -> None:
    alice = await bay.client("alice")
    _, kept = await made(bay, alice)
    first, objects = await push(alice, kept), place.objects
    assert await push(alice, kept) == first
    assert place.objects == objects


async def test_a_push_begins_again_once_its_objects_were_removed_by_others(place: Place, bay: World) -> None:
    alice = await bay.client("alice")
    box, kept = await made(bay, alice)
    await push(alice, kept)
    for key in place.objects:
        place.server.remove(place.bucket, key)
    assert await remote(alice) == []
    assert_error(await pull(alice, box, kept["id"]), 404, "not_found")
    assert (await push(alice, kept))["state"] == "ready"
    assert (await pull(alice, box, kept["id"])).status_code == 201


async def test_two_pushes_at_once_are_one(place: Place, front: FaultyFront, fronted: World) -> None:
    alice = await fronted.client("alice")
    _, kept = await made(fronted, alice)
    both = await asyncio.gather(push(alice, kept), push(alice, kept))
    assert both[0] == both[1]
    assert front.count("PUT", "manifest.json") == 1
    assert len(place.objects) == 2


async def test_of_two_bays_that_push_at_once_the_first_manifest_stays(place: Place, bay: World) -> None:
    """A Bay that lost its lease without knowing ends its push after the one that took over."""
    alice = await bay.client("alice")
    box, kept = await made(bay, alice)
    slow = bay.bay.bucket.begin("alice", kept["id"])
    await slow.add(b"old")
    await slow.finish()
    pushed = await push(alice, kept)
    text = json.loads(place.read("manifest.json"))
    late = PushManifest.from_json(json.dumps(text).encode(), kept["id"])
    assert (await bay.bay.bucket.publish("alice", late)).sha256 == pushed["sha256"]
    assert len(place.objects) == 2
    assert (await pull(alice, box, kept["id"])).status_code == 201


async def test_owners_see_and_touch_nothing_of_one_another(place: Place, bay: World) -> None:
    alice, bob = await bay.client("alice"), await bay.client("bob")
    _, kept = await made(bay, alice)
    await push(alice, kept)
    theirs = await create(bob)
    objects = place.objects
    assert await remote(bob) == []
    missing = new_id("ckpt")
    for key in (kept["id"], missing, "../x", "..%2Fx"):
        for method in ("GET", "DELETE"):
            assert_error(await bob.request(method, f"/v1/remote-checkpoints/{key}"), 404, "not_found")
    for key in (kept["id"], missing, "../x", f"../alice/{kept['id']}"):
        assert_error(await pull(bob, theirs, key), 404, "not_found")
    path = f"/v1/sandboxes/{kept['sandbox_id']}/checkpoints/{kept['id']}/push"
    assert_error(await bob.post(path), 404, "not_found")
    assert place.objects == objects
    assert not any("alice" in key for key in objects)


async def test_remote_checkpoints_are_listed_by_pages_and_by_sandbox(place: Place, bay: World) -> None:
    alice = await bay.client("alice")
    keys: list[str] = []
    for number in range(3):
        box = await create(alice, name=f"box-{number}")
        answer = await alice.post(f"/v1/sandboxes/{box['id']}/checkpoints", json={})
        keys.append((await push(alice, answer.json()))["key"])
    found: list[str] = []
    params: Json = {"limit": 2}
    while True:
        page = (await alice.get("/v1/remote-checkpoints", params=params)).json()
        found += [one["key"] for one in page["items"]]
        if not page["has_more"]:
            break
        params["cursor"] = page["next_cursor"]
    assert found == sorted(keys)
    assert [one["key"] for one in await remote(alice, sandbox="box-1")] == [keys[1]]


async def test_a_delete_leaves_nothing_in_the_store_and_the_checkpoint_here(place: Place, bay: World) -> None:
    alice = await bay.client("alice")
    box, kept = await made(bay, alice)
    await push(alice, kept)
    path = f"/v1/remote-checkpoints/{kept['id']}"
    assert (await alice.delete(path)).status_code == 204
    assert place.objects == {}
    assert await remote(alice) == []
    assert_error(await alice.get(path), 404, "not_found")
    assert_error(await pull(alice, box, kept["id"]), 404, "not_found")
    assert (await alice.delete(path)).status_code == 204
    assert (await alice.get(f"/v1/sandboxes/{box['id']}/checkpoints/{kept['id']}")).status_code == 200
    assert (await push(alice, kept))["state"] == "ready"


async def test_a_delete_cancels_a_push_and_removes_what_it_has_written(
    place: Place, front: FaultyFront, fronted: World
) -> None:
    alice = await fronted.client("alice")
    box, kept = await made(fronted, alice, 2 * PART_BYTES)
    front.fault = lambda method, path: "stall" if method == "PUT" and path.endswith("-00002") else None
    assert (await push(alice, kept, wait=0))["state"] == "pushing"
    await until(lambda: front.count("PUT", "-00002") == 1)
    shown = (await alice.get(f"/v1/remote-checkpoints/{kept['id']}")).json()
    assert (shown["state"], shown["bytes"], shown["sha256"]) == ("pushing", PART_BYTES, None)
    assert [one["key"] for one in await remote(alice)] == [kept["id"]]
    assert_error(await pull(alice, box, kept["id"]), 404, "not_found")
    assert (await alice.delete(f"/v1/remote-checkpoints/{kept['id']}")).status_code == 204
    front.fault = lambda method, path: None
    front.let_go.set()

    async def is_clear() -> bool:
        async with fronted.bay.store.read() as db:
            return not await pushes.littered(db)

    await within(eventually(is_clear), 30)
    assert place.objects == {}


async def test_a_checkpoint_that_is_deleted_during_its_push_is_pushed_whole(
    place: Place, front: FaultyFront, fronted: World
) -> None:
    alice = await fronted.client("alice")
    box, kept = await made(fronted, alice, 2 * PART_BYTES)
    expected = (fronted.workspace(box) / "noise").read_bytes()
    is_held = asyncio.Event()
    front.fault = lambda method, path: None if is_held.is_set() or not path.endswith("-00002") else "503"
    await push(alice, kept, wait=0)
    await until(lambda: front.count("PUT", "-00002") >= 1)
    assert (await alice.delete(f"/v1/sandboxes/{box['id']}/checkpoints/{kept['id']}")).status_code == 204
    await fronted.bay.discards.discard()
    path = fronted.checkpoint_path(kept["id"])
    assert path.exists()
    is_held.set()
    answer = await within(alice.get(f"/v1/remote-checkpoints/{kept['id']}", params=WAIT), 60)
    assert answer.json()["state"] == "ready", answer.text
    await until(lambda: not path.exists())
    came = (await pull(alice, box, kept["id"])).json()
    assert await noise_in(fronted, alice, came) == expected


@pytest.mark.parametrize("status", ["500", "503"])
async def test_a_store_that_fails_for_a_moment_is_asked_again(
    place: Place, front: FaultyFront, fronted: World, status: str
) -> None:
    alice = await fronted.client("alice")
    box, kept = await made(fronted, alice)

    def first_two(method: str, path: str) -> str | None:
        return status if front.seen.count((method, path)) <= 2 else None

    front.fault = first_two
    assert (await push(alice, kept))["state"] == "ready"
    assert (await pull(alice, box, kept["id"])).status_code == 201
    assert front.count("PUT", "-00001") == 3


async def test_a_store_that_stalls_is_given_up_within_its_time_and_tried_again_later(
    place: Place, front: FaultyFront, fronted: World
) -> None:
    alice = await fronted.client("alice")
    _, kept = await made(fronted, alice)
    front.fault = lambda method, path: "stall" if method == "PUT" and path.endswith("-00001") else None
    await push(alice, kept, wait=0)

    async def error() -> Json | None:
        return (await alice.get(f"/v1/remote-checkpoints/{kept['id']}")).json()["error"]

    async def has_failed() -> bool:
        return await error() is not None

    await within(eventually(has_failed), 60)
    found = await error()
    assert found is not None
    assert found["code"] == "object_store_unavailable"
    front.fault = lambda method, path: None
    fronted.clock.advance(10)
    fronted.bay.pusher.poke()
    answer = await within(alice.get(f"/v1/remote-checkpoints/{kept['id']}", params=WAIT), 60)
    assert answer.json()["state"] == "ready"
    assert len(place.objects) == 2


async def test_a_push_that_fails_for_good_leaves_nothing_and_may_be_asked_for_again(
    place: Place, front: FaultyFront, fronted: World
) -> None:
    alice = await fronted.client("alice")
    _, kept = await made(fronted, alice, 2 * PART_BYTES)
    is_wrong = True

    def fault(method: str, path: str) -> str | None:
        return "cut" if is_wrong and method == "PUT" and path.endswith("-00002") else None

    front.fault = fault
    await push(alice, kept, wait=0)
    key = f"/v1/remote-checkpoints/{kept['id']}"

    async def is_over() -> bool:
        fronted.clock.advance(200)
        fronted.bay.pusher.poke()
        return (await alice.get(key)).json()["state"] == "failed"

    await within(eventually(is_over), 110)
    shown = (await alice.get(key)).json()
    assert (shown["attempts"], shown["error"]["code"]) == (6, "object_store_unavailable")
    await until(lambda: place.objects == {})
    is_wrong = False
    assert (await push(alice, kept))["state"] == "ready"


async def test_a_pull_that_breaks_off_is_continued_at_the_part(
    place: Place, front: FaultyFront, fronted: World
) -> None:
    alice = await fronted.client("alice")
    box, kept = await made(fronted, alice, 2 * PART_BYTES)
    await push(alice, kept)

    def first(method: str, path: str) -> str | None:
        return (
            "cut"
            if method == "GET" and path.endswith("-00002") and front.seen.count((method, path)) == 1
            else None
        )

    front.fault = first
    came = await pull(alice, box, kept["id"])
    assert came.status_code == 201, came.text
    assert front.count("GET", "-00001") == 1
    assert front.count("GET", "-00002") == 2


async def test_a_pull_from_a_store_that_always_breaks_off_leaves_nothing(
    place: Place, front: FaultyFront, fronted: World
) -> None:
    alice = await fronted.client("alice")
    box, kept = await made(fronted, alice, 2 * PART_BYTES)
    await push(alice, kept)
    before = await fronted.checkpoints.list_checkpoints()
    front.fault = lambda method, path: "cut" if path.endswith("-00002") else None
    assert_error(await pull(alice, box, kept["id"]), 503, "object_store_unavailable")
    await left_nothing(fronted, before)


async def test_an_object_that_was_changed_is_refused_and_leaves_nothing(place: Place, bay: World) -> None:
    alice = await bay.client("alice")
    box, kept = await made(bay, alice, 2 * PART_BYTES)
    await push(alice, kept)
    before = await bay.checkpoints.list_checkpoints()
    key, first, data = place.key_of("-00002"), place.read("-00001"), place.read("-00002")
    flipped = data[:99] + bytes([data[99] ^ 1]) + data[100:]
    for harmed in (flipped, data[:-1], data + b"x", b"", first, None):
        if harmed is None:
            place.server.remove(place.bucket, key)
        else:
            place.server.write(place.bucket, key, harmed)
        answer = await pull(alice, box, kept["id"])
        assert_error(answer, 400, "validation_error")
        assert "part 2" in answer.json()["error"]["message"]
        await left_nothing(bay, before)
    place.server.write(place.bucket, key, data)
    assert (await pull(alice, box, kept["id"])).status_code == 201


LIES: dict[str, dict[str, Any]] = {
    "sha256": {"sha256": "0" * 64},
    "size": {"size": 1},
    "persist": {"persist": "machine"},
    "image": {"image": "other"},
    "sandbox": {"sandbox_id": "sandbox-" + "0" * 24},
    "another checkpoint": {"checkpoint_id": "ckpt-" + "0" * 24},
    "no parts": {"parts": []},
    "a way out": {"parts": [{"name": "../../bay.json", "size": 9, "sha256": "0" * 64}], "size": 9},
    "a huge part": {
        "parts": [{"name": "00000000-00001", "size": 1 << 40, "sha256": "0" * 64}],
        "size": 1 << 40,
    },
    "a part twice": {"parts": [{"name": "00000000-00001", "size": 1, "sha256": "0" * 64}] * 2, "size": 2},
    "strange time": {"created_at": "yesterday"},
    "NUL": {"name": "a\0b"},
    "no text": {"comment": 7},
}


async def test_a_manifest_that_lies_is_refused_and_leaves_nothing(place: Place, bay: World) -> None:
    alice = await bay.client("alice")
    box, kept = await made(bay, alice)
    await push(alice, kept)
    before = await bay.checkpoints.list_checkpoints()
    told = json.loads(place.read("manifest.json"))
    for lie, values in LIES.items():
        place.write("manifest.json", json.dumps({**told, **values}).encode())
        answer = await pull(alice, box, kept["id"])
        assert answer.status_code == 400, (lie, answer.text)
        await left_nothing(bay, before)
    place.write("manifest.json", json.dumps(told).encode())
    assert (await pull(alice, box, kept["id"])).status_code == 201


async def test_a_manifest_that_is_none_is_refused_and_hides_no_others(place: Place, bay: World) -> None:
    alice = await bay.client("alice")
    box, kept = await made(bay, alice)
    other = (await alice.post(f"/v1/sandboxes/{box['id']}/checkpoints", json={})).json()
    await push(alice, kept)
    await push(alice, other)
    key = next(key for key in place.objects if f"{kept['id']}/manifest" in key)
    for text in (b"", b"{", b"[]", b"null", b"[" * 100_000, b'{"format": 1}', b"\xff" * 10):
        place.server.write(place.bucket, key, text)
        assert_error(await pull(alice, box, kept["id"]), 400, "validation_error")
        assert [one["key"] for one in await remote(alice)] == [other["id"]]
    assert (await alice.delete(f"/v1/remote-checkpoints/{kept['id']}")).status_code == 204


async def test_a_manifest_of_a_newer_bay_is_refused_in_words(place: Place, bay: World) -> None:
    alice = await bay.client("alice")
    box, kept = await made(bay, alice)
    await push(alice, kept)
    told = json.loads(place.read("manifest.json"))
    place.write("manifest.json", json.dumps({**told, "format": 2}).encode())
    answer = await pull(alice, box, kept["id"])
    assert_error(answer, 400, "validation_error")
    assert "newer Bay" in answer.json()["error"]["message"]


def hostile(good: bytes, member: tarfile.TarInfo, content: bytes = b"") -> bytes:
    """An export with one more member, whose checksums are right."""
    raw = zstandard.ZstdDecompressor().decompressobj().decompress(good)
    out = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(raw)) as old, tarfile.open(fileobj=out, mode="w") as new:
        for one in old:
            if one.name != "sha256":
                new.addfile(one, old.extractfile(one) if one.isfile() else None)
        new.addfile(member, io.BytesIO(content))
        digest = hashlib.sha256(out.getvalue()).hexdigest().encode()
        last = tarfile.TarInfo("sha256")
        last.size = len(digest)
        new.addfile(last, io.BytesIO(digest))
    return zstandard.ZstdCompressor(write_checksum=True).compress(out.getvalue())


def member(name: str, **changes: Any) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    for attribute, value in changes.items():
        setattr(made, attribute, value)
    return made


ENEMIES = {
    "traversal": member("workspace/../../../../escaped", size=1),
    "absolute": member("/escaped", size=1),
    "link": member("workspace/link", type=tarfile.LNKTYPE, linkname="../../../escaped"),
    "device": member("workspace/disk", type=tarfile.BLKTYPE, devmajor=8),
    "another place": member("other/x", size=1),
}


async def test_a_hostile_archive_behind_a_right_manifest_is_refused(place: Place, bay: World) -> None:
    alice = await bay.client("alice")
    box, kept = await made(bay, alice)
    await push(alice, kept)
    before = await bay.checkpoints.list_checkpoints()
    told, good = json.loads(place.read("manifest.json")), place.read("-00001")

    async def pull_instead(archive: bytes) -> httpx.Response:
        digest = hashlib.sha256(archive).hexdigest()
        part = {"name": told["parts"][0]["name"], "size": len(archive), "sha256": digest}
        manifest = {**told, "parts": [part], "size": len(archive), "sha256": digest}
        place.write("-00001", archive)
        place.write("manifest.json", json.dumps(manifest).encode())
        return await pull(alice, box, kept["id"])

    for name, enemy in ENEMIES.items():
        answer = await pull_instead(hostile(good, enemy, b"x" * enemy.size))
        assert answer.status_code == 400, (name, answer.text)
        await left_nothing(bay, before)
        assert not list(bay.root.rglob("escaped"))
    harmless = await pull_instead(hostile(good, member("workspace/x", size=1), b"x"))
    assert harmless.status_code == 201, harmless.text


async def test_a_pull_keeps_to_the_limit_of_the_cargo(place: Place, bay: World) -> None:
    alice = await bay.client("alice")
    _, kept = await made(bay, alice, 20 << 20)
    await push(alice, kept)
    small = await create(alice, disk_mb=16)
    before = await bay.checkpoints.list_checkpoints()
    assert_error(await pull(alice, small, kept["id"]), 507, "storage_full")
    await left_nothing(bay, before)


async def test_a_pull_is_refused_before_a_byte_is_read_when_its_name_is_taken(
    front: FaultyFront, fronted: World
) -> None:
    alice = await fronted.client("alice")
    box, kept = await made(fronted, alice, name="taken")
    await push(alice, kept)
    assert_error(await pull(alice, box, kept["id"], name="taken"), 409, "conflict")
    assert_error(await pull(alice, box, kept["id"], name="No Name"), 422, "validation_error")
    assert front.count("GET", "-00001") == 0


async def test_what_is_pushed_counts_against_the_quota_of_files(place: Place, root: Path) -> None:
    async with world(root, object_store=place.settings(), quotas={"disk_mb": 4}) as bay:
        alice = await bay.client("alice")
        _, kept = await made(bay, alice, 5 << 20)
        box = await create(alice)
        second = (await alice.post(f"/v1/sandboxes/{box['id']}/checkpoints", json={})).json()
        await push(alice, kept)
        path = f"/v1/sandboxes/{box['id']}/checkpoints/{second['id']}/push"
        assert_error(await alice.post(path), 429, "quota_exceeded")
        assert_error(await pull(alice, box, kept["id"]), 429, "quota_exceeded")
        assert (await push(alice, kept))["state"] == "ready"
        await alice.delete(f"/v1/remote-checkpoints/{kept['id']}")
        assert (await push(alice, second))["state"] == "ready"
    await clear(root)


async def test_a_push_goes_on_when_bay_starts_again(place: Place, front: FaultyFront, root: Path) -> None:
    front.fault = lambda method, path: "stall" if method == "PUT" and path.endswith("-00002") else None
    async with bays(place, root, endpoint=front.endpoint) as first:
        alice = await first.client("alice")
        box, kept = await made(first, alice, 2 * PART_BYTES)
        expected = (first.workspace(box) / "noise").read_bytes()
        await push(alice, kept, wait=0)
        await until(lambda: front.count("PUT", "-00002") == 1)
    left = set(place.objects)
    assert len(left) == 1
    front.fault = lambda method, path: None
    async with bays(place, root, endpoint=front.endpoint) as second:
        alice = await second.client("alice")
        answer = await within(alice.get(f"/v1/remote-checkpoints/{kept['id']}", params=WAIT), 60)
        assert answer.json()["state"] == "ready", answer.text
        assert not left & set(place.objects)
        came = (await pull(alice, await create(alice), kept["id"])).json()
        assert await noise_in(second, alice, came) == expected


async def test_a_bay_that_ended_between_the_manifest_and_its_row_finds_the_push_done(
    place: Place, front: FaultyFront, root: Path
) -> None:
    async with bays(place, root, endpoint=front.endpoint) as first:
        alice = await first.client("alice")
        _, kept = await made(first, alice)
        await push(alice, kept)
        async with first.bay.store.write() as db:
            await db.exec_driver_sql("UPDATE pushes SET state = 'pushing'")
    async with bays(place, root, endpoint=front.endpoint) as second:
        alice = await second.client("alice")
        answer = await within(alice.get(f"/v1/remote-checkpoints/{kept['id']}", params=WAIT), 60)
        assert answer.json()["state"] == "ready"
        assert front.count("PUT", "-00001") == 1


async def test_a_server_that_dies_in_the_middle_of_a_push_gets_it_when_it_is_back(root: Path) -> None:
    with object_server.running() as server, object_server.faulty(server) as front:
        place = Place(server, server.bucket())
        async with bays(place, root, endpoint=front.endpoint, timeout=1) as bay:
            alice = await bay.client("alice")
            box, kept = await made(bay, alice, 2 * PART_BYTES)
            expected = (bay.workspace(box) / "noise").read_bytes()

            def die(method: str, path: str) -> str | None:
                if method == "PUT" and path.endswith("-00002"):
                    server.kill()
                return None

            front.fault = die
            await push(alice, kept, wait=0)
            key = f"/v1/remote-checkpoints/{kept['id']}"

            async def has_failed() -> bool:
                async with bay.bay.store.read() as db:
                    found = await pushes.get(db, kept["id"])
                return found is not None and found.attempts > 0

            await within(eventually(has_failed), 60)
            front.fault = lambda method, path: None
            await asyncio.to_thread(server.start)
            bay.clock.advance(10)
            bay.bay.pusher.poke()
            answer = await within(alice.get(key, params=WAIT), 60)
            assert answer.json()["state"] == "ready", answer.text
            assert len(place.objects) == 4
            came = (await pull(alice, box, kept["id"])).json()
            assert await noise_in(bay, alice, came) == expected


WRONG: dict[str, tuple[dict[str, Any], int, str, str]] = {
    "key": ({"access_key_id": "nobody"}, 502, "object_store_refused", "access_key_id"),
    "secret": ({"secret_access_key": "sesame-sesame"}, 502, "object_store_refused", "secret_access_key"),
    "bucket": ({"url": "s3://not-there/x"}, 502, "object_store_refused", "bucket"),
    "endpoint": (
        {"endpoint": "http://127.0.0.1:9"},
        503,
        "object_store_unavailable",
        "object_store.endpoint",
    ),
    "scheme": ({"endpoint": None}, 502, "object_store_refused", "ca_file"),
}


@pytest.mark.parametrize("what", WRONG)
async def test_wrong_settings_are_told_in_one_line_with_the_way_out_and_no_secret(
    place: Place, root: Path, what: str
) -> None:
    given, status, code, word = WRONG[what]
    if what == "scheme":
        given = {"endpoint": place.server.endpoint.replace("http:", "https:")}
    async with bays(place, root, **{"timeout": 1, **given}) as bay:
        alice = await bay.client("alice")
        answer = await within(alice.get("/v1/remote-checkpoints"), 60)
        assert_error(answer, status, code)
        message = answer.json()["error"]["message"]
        assert word in message
        assert "\n" not in message
        assert object_server.SECRET not in answer.text
        assert "sesame" not in answer.text


async def test_without_an_object_store_the_calls_say_who_can_set_one(root: Path) -> None:
    async with world(root) as bay:
        alice = await bay.client("alice")
        box, kept = await made(bay, alice)
        path = f"/v1/sandboxes/{box['id']}/checkpoints"
        answers = [
            await alice.post(f"{path}/{kept['id']}/push"),
            await alice.post(f"{path}/pull", json={"key": kept["id"]}),
            await alice.get("/v1/remote-checkpoints"),
            await alice.get(f"/v1/remote-checkpoints/{kept['id']}"),
            await alice.delete(f"/v1/remote-checkpoints/{kept['id']}"),
        ]
        for answer in answers:
            assert_error(answer, 409, "conflict")
            assert "[object_store]" in answer.json()["error"]["message"]
    await clear(root)


async def test_the_salt_of_a_store_is_made_once_by_however_many_bays(place: Place, root: Path) -> None:
    make = object_store_of(settings_in(root, object_store=place.settings()))
    buckets = [CheckpointBucket(make) for _ in range(4)]
    folders = await asyncio.gather(*(bucket._folder("alice") for bucket in buckets))
    assert len({folder for _, folder in folders}) == 1
    store, folder = folders[0]
    assert (await buckets[0]._folder("bob"))[1] != folder
    with pytest.raises(ObjectMissing):
        await store.get("not-there")
