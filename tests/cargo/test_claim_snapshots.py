"""Checkpoints of volume claims as snapshots: claims and snapshots in memory, their files on this host."""

import asyncio
import secrets
from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import asynccontextmanager, nullcontext, suppress
from pathlib import Path

import pytest
from claim_carriers import HostCarriers
from snapshot_api import CREATED, SnapshotServer, ready

from bay.cargo.base import CheckpointsInTwoSteps, CopiesBySessions, Weight
from bay.cargo.claim_archives import ClaimArchives
from bay.cargo.claim_checkpoints import ClaimCheckpoints
from bay.cargo.claim_snapshots import ClaimSnapshots, NoArchives
from bay.cargo.volume_claims import ClaimSettings
from bay.drivers.kubernetes.kube import VOLUME_SNAPSHOT, Json
from bay.errors import Conflict, DriverUnavailable, NotFound
from bay.ids import new_id
from bay.object_store.base import LARGEST
from bay.testing.cargo import *  # noqa: F403 - the suite is the module's functions
from bay.testing.cargo import MIB, WorkspaceFiles
from bay.units import GIB

pytestmark = pytest.mark.anyio

SETTINGS = ClaimSettings(install="bay1", read_write_once_pod=True)


class FakeTime:
    """A clock that the pauses of the backend move."""

    def __init__(self) -> None:
        self.now = 0.0
        self.asleep = asyncio.Event()

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.asleep.set()
        await asyncio.sleep(0)


@pytest.fixture
def server(tmp_path: Path) -> SnapshotServer:
    made = SnapshotServer(tmp_path)
    made.storage_class("standard", default=True, grows=True)
    made.objects["StorageClass", "standard"]["volumeBindingMode"] = "WaitForFirstConsumer"
    return made


@pytest.fixture
def carriers(server: SnapshotServer, tmp_path: Path) -> HostCarriers:
    return HostCarriers(server, tmp_path)


@pytest.fixture
def reopen(server: SnapshotServer, carriers: HostCarriers) -> Callable[[], ClaimSnapshots]:
    database = secrets.token_hex(8)

    def made() -> ClaimSnapshots:
        time = FakeTime()
        backend = ClaimSnapshots(
            lambda: nullcontext(server),
            SETTINGS,
            ClaimArchives(NoArchives, are_kept=False),
            carriers,
            snapshot_class="fast",
            clock=time.clock,
            sleep=time.sleep,
        )
        backend.belong_to(database)
        return backend

    return made


@pytest.fixture
async def cargo(reopen: Callable[[], ClaimSnapshots]) -> ClaimSnapshots:
    backend = reopen()
    await backend.open()
    return backend


@pytest.fixture
def files(carriers: HostCarriers) -> WorkspaceFiles:
    return carriers


async def kept(cargo: ClaimSnapshots, files: WorkspaceFiles) -> tuple[str, str]:
    """A cargo with the file `then`, and a checkpoint of it."""
    ws, ckpt = new_id("ws"), new_id("ckpt")
    await cargo.create(ws)
    await files.put(cargo.place(ws), "file", "then")
    await cargo.checkpoint(ws, ckpt)
    await cargo.complete(ckpt)
    return ws, ckpt


@asynccontextmanager
async def running(cargo: ClaimSnapshots) -> AsyncGenerator[None]:
    task = asyncio.create_task(cargo.run())
    try:
        yield
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.wait([task])


async def until(fact: Callable[[], bool]) -> None:
    """Return once it is so."""
    async with asyncio.timeout(20):
        while not fact():  # noqa: ASYNC110 - the server of the tests has no events
            await asyncio.sleep(0)


async def test_a_checkpoint_is_a_snapshot_of_the_class_with_this_bays_labels(
    cargo: ClaimSnapshots, files: WorkspaceFiles, server: SnapshotServer
) -> None:
    ws, ckpt = await kept(cargo, files)
    made = server.snapshots()[f"bay-{ckpt}"]
    assert made["spec"] == {
        "volumeSnapshotClassName": "fast",
        "source": {"persistentVolumeClaimName": f"bay-{ws}"},
    }
    assert made["metadata"]["labels"] == server.claim(f"bay-{ws}")["metadata"]["labels"]
    assert made["metadata"]["annotations"]["bay.dev/cargo"] == ws
    expected = Weight(used_bytes=10 * GIB, used_inodes=None, exclusive_bytes=None)
    assert await cargo.weigh([ws, ckpt, new_id("ckpt")]) == {ckpt: expected}
    assert isinstance(cargo, CheckpointsInTwoSteps)
    assert not isinstance(cargo, CopiesBySessions)


async def test_writers_go_on_once_the_moment_is_fixed_and_the_copy_is_waited_for_apart(
    cargo: ClaimSnapshots, files: WorkspaceFiles, server: SnapshotServer
) -> None:
    steps = [{}, {"creationTime": CREATED, "readyToUse": False}, {"readyToUse": False}, ready()]
    server.controller = lambda _before: steps.pop(0) if len(steps) > 1 else steps[0]
    ws, ckpt = new_id("ws"), new_id("ckpt")
    await cargo.create(ws)
    await files.put(cargo.place(ws), "file", "then")
    await cargo.checkpoint(ws, ckpt)
    assert [one.get("readyToUse") for one in steps] == [False, True]
    await cargo.complete(ckpt)
    assert len(steps) == 1


async def test_an_error_that_stays_is_the_reason_and_one_that_passes_is_none(
    cargo: ClaimSnapshots, files: WorkspaceFiles, server: SnapshotServer
) -> None:
    ws, ckpt, other = new_id("ws"), new_id("ckpt"), new_id("ckpt")
    await cargo.create(ws)
    await files.put(cargo.place(ws), "file", "then")
    broken: Json = {"error": {"message": "the object has been modified"}}
    steps = [broken, broken, {}, broken, ready()]
    server.controller = lambda _before: steps.pop(0) if len(steps) > 1 else steps[0]
    await cargo.checkpoint(ws, ckpt)
    server.controller = lambda _before: {"error": {"message": "class fast not found"}, "readyToUse": False}
    with pytest.raises(DriverUnavailable, match="class fast: class fast not found"):
        await cargo.checkpoint(ws, other)


async def test_an_api_server_that_is_away_for_a_while_fails_no_checkpoint(
    cargo: ClaimSnapshots, files: WorkspaceFiles, server: SnapshotServer
) -> None:
    ws, ckpt = new_id("ws"), new_id("ckpt")
    await cargo.create(ws)
    await files.put(cargo.place(ws), "file", "then")
    looks = 0

    def away(_before: Json) -> Json:
        nonlocal looks
        looks += 1
        if looks < 4:
            server.refuses["get"] = DriverUnavailable("it cannot be reached")
        return ready()

    server.controller = away
    server.loses = {"create"}  # the snapshot is made, and its answer lost
    await cargo.checkpoint(ws, ckpt)
    assert looks == 4
    assert server.calls.count(f"create bay-{ckpt}") == 2
    server.controller = lambda _before: server.refuses.update(get=DriverUnavailable("away")) or {}
    with pytest.raises(DriverUnavailable, match="away"):
        await cargo.complete(ckpt)


async def test_a_create_that_arrives_after_its_checkpoint_was_given_up_leaves_no_snapshot(
    reopen: Callable[[], ClaimSnapshots], files: WorkspaceFiles, server: SnapshotServer
) -> None:
    cargo = reopen()
    await cargo.open()
    ws, ckpt = await kept(cargo, files)
    late = new_id("ckpt")
    server.away = {"create"}
    with pytest.raises(DriverUnavailable, match="said nothing"):
        await cargo.checkpoint(ws, late)
    await cargo.remove_checkpoint(late)
    server.away = set()
    there = server.snapshots()[f"bay-{ckpt}"]
    await server.create(VOLUME_SNAPSHOT, {**there, "metadata": {**there["metadata"], "name": f"bay-{late}"}})
    async with running(cargo):
        await until(lambda: f"bay-{late}" not in server.snapshots())
    assert set(server.snapshots()) == {f"bay-{ckpt}"}


async def test_a_late_snapshot_that_stays_keeps_no_other_from_its_removal(
    reopen: Callable[[], ClaimSnapshots], files: WorkspaceFiles, server: SnapshotServer
) -> None:
    cargo = reopen()
    await cargo.open()
    ws, ckpt = await kept(cargo, files)
    theirs, ours = new_id("ckpt"), new_id("ckpt")
    server.away = {"create"}
    for late in (theirs, ours):
        with pytest.raises(DriverUnavailable, match="said nothing"):
            await cargo.checkpoint(ws, late)
        await cargo.remove_checkpoint(late)
    server.away = set()
    there = server.snapshots()[f"bay-{ckpt}"]["metadata"]
    for late in (theirs, ours):
        metadata: Json = {**there, "name": f"bay-{late}"}
        if late == theirs:
            del metadata["labels"]
        await server.create(VOLUME_SNAPSHOT, {**server.snapshots()[f"bay-{ckpt}"], "metadata": metadata})
    async with running(cargo):
        await until(lambda: f"bay-{ours}" not in server.snapshots())
    assert set(server.snapshots()) == {f"bay-{ckpt}", f"bay-{theirs}"}


async def test_a_restore_gives_the_cargo_a_claim_from_the_snapshot_and_removes_the_former(
    cargo: ClaimSnapshots,
    files: WorkspaceFiles,
    server: SnapshotServer,
    carriers: HostCarriers,
    reopen: Callable[[], ClaimSnapshots],
) -> None:
    ws, ckpt = await kept(cargo, files)
    sandbox = new_id("sandbox")
    await files.put(cargo.place(ws), "file", "now")
    for turn, name in enumerate((f"bay-{ws}-b", f"bay-{ws}"), 1):
        await cargo.fence(ws, sandbox, turn, f"sess-{turn}")
        await cargo.prepare_restore(ws, ckpt, limit_bytes=None)
        assert await files.get(cargo.place(ws), "file") == "now"
        assert len(server.claims()) == 2
        await cargo.restore(ws)
        assert server.claims() == {name} == {cargo.place(ws).name}
        made = server.claim(name)
        assert made["spec"]["dataSource"] == {
            "apiGroup": "snapshot.storage.k8s.io",
            "kind": "VolumeSnapshot",
            "name": f"bay-{ckpt}",
        }
        assert made["spec"]["resources"]["requests"]["storage"] == "10240Mi"
        assert await files.get(cargo.place(ws), "file") == "then"
        fence = await cargo.fenced(ws, sandbox)
        assert fence is not None
        assert fence.session_id == f"sess-{turn}"
        other = reopen()  # another replica, which looks before it starts a session
        await other.open(beside_others=True)
        await other.fence(ws, sandbox, turn, f"sess-{turn}")
        assert other.place(ws) == cargo.place(ws)
        assert await other.list_ids() == {ws}
        await files.put(cargo.place(ws), "file", "now")
    assert carriers.opened == [ws, ws]
    await cargo.remove(ws)
    assert server.claims() == set()


@pytest.mark.parametrize("verb", ["create", "patch", "delete"])
async def test_a_bay_that_ends_at_any_step_of_a_restore_leaves_one_claim_and_its_files(
    cargo: ClaimSnapshots,
    files: WorkspaceFiles,
    server: SnapshotServer,
    reopen: Callable[[], ClaimSnapshots],
    verb: str,
) -> None:
    ws, ckpt = await kept(cargo, files)
    await files.put(cargo.place(ws), "file", "now")
    with suppress(DriverUnavailable):  # a former claim that stays is no failure
        server.loses = {verb} - {"delete"}
        await cargo.prepare_restore(ws, ckpt, limit_bytes=None)
        if verb == "delete":
            server.refuses["delete"] = DriverUnavailable("ended")
        await cargo.restore(ws)
    assert len(server.claims()) == 2
    again = reopen()
    await again.open()
    assert len(server.claims()) == 1
    await again.create(ws)
    text = await files.get(again.place(ws), "file")
    assert text == ("now" if verb == "create" else "then")
    await again.prepare_restore(ws, ckpt, limit_bytes=None)
    await again.restore(ws)
    assert await files.get(again.place(ws), "file") == "then"
    assert len(server.claims()) == 1


async def test_a_claim_that_cannot_be_made_or_bound_leaves_the_present_files(
    cargo: ClaimSnapshots, files: WorkspaceFiles, server: SnapshotServer
) -> None:
    ws, ckpt = await kept(cargo, files)
    server.objects["StorageClass", "standard"]["volumeBindingMode"] = "Immediate"
    server.makes_volumes = False
    server.events = [{"message": "no room"}, {"message": "the driver has no such snapshot"}]
    with pytest.raises(DriverUnavailable, match="no volume after 300 s: the driver has no such"):
        await cargo.prepare_restore(ws, ckpt, limit_bytes=None)
    server.makes_volumes = server.drops_sources = True
    for call in (
        cargo.prepare_restore(ws, ckpt, limit_bytes=None),
        cargo.create(new_id("ws"), origin=ckpt),
    ):
        with pytest.raises(DriverUnavailable, match="makes no claims from snapshots"):
            await call
    with pytest.raises(NotFound, match="nothing is prepared"):
        await cargo.restore(ws)
    assert server.claims() == {f"bay-{ws}"}
    assert await files.get(cargo.place(ws), "file") == "then"


async def test_a_prepared_claim_that_somebody_removed_is_no_restore(
    cargo: ClaimSnapshots, files: WorkspaceFiles, server: SnapshotServer
) -> None:
    ws, ckpt = await kept(cargo, files)
    await cargo.prepare_restore(ws, ckpt, limit_bytes=None)
    server.claim(f"bay-{ws}-b")["metadata"]["deletionTimestamp"] = "2026-12-01T00:00:00Z"
    with pytest.raises(NotFound, match="somebody removed"):
        await cargo.restore(ws)
    assert cargo.place(ws).name == f"bay-{ws}"


async def test_a_snapshot_stays_until_the_forks_of_it_have_its_files(
    cargo: ClaimSnapshots, files: WorkspaceFiles, server: SnapshotServer
) -> None:
    ws, ckpt = await kept(cargo, files)
    fork, dropped = new_id("ws"), new_id("ws")
    await cargo.create(fork, limit_bytes=MIB, origin=ckpt)
    await cargo.create(dropped, origin=ckpt)
    assert server.claim(f"bay-{fork}")["spec"]["resources"]["requests"]["storage"] == "10240Mi"
    with pytest.raises(Conflict, match="no pod has used it"):
        await cargo.remove_checkpoint(ckpt)
    assert await files.get(cargo.place(fork), "file") == "then"
    with pytest.raises(Conflict, match="no pod has used it"):
        await cargo.remove_checkpoint(ckpt)
    await cargo.remove(dropped)
    await cargo.remove_checkpoint(ckpt)
    assert server.snapshots() == {}
    await cargo.create(fork, limit_bytes=MIB, origin=ckpt)  # as a Bay does that did not hear the answer
    assert server.claims() == {f"bay-{ws}", f"bay-{fork}"}


async def test_a_cargo_that_no_pod_has_used_is_bound_for_its_checkpoint(
    cargo: ClaimSnapshots, carriers: HostCarriers, server: SnapshotServer
) -> None:
    ws, ckpt = new_id("ws"), new_id("ckpt")
    await cargo.create(ws)
    await cargo.checkpoint(ws, ckpt)
    assert (carriers.opened, set(server.snapshots())) == ([ws], {f"bay-{ckpt}"})


async def test_what_a_restore_that_nobody_goes_on_with_prepared_is_removed_beside_others_when_it_is_old(
    cargo: ClaimSnapshots, files: WorkspaceFiles, server: SnapshotServer
) -> None:
    ws, ckpt = await kept(cargo, files)
    await cargo.prepare_restore(ws, ckpt, limit_bytes=None)
    async with running(cargo):
        await until(lambda: server.calls.count("list PersistentVolumeClaim") > 5)
        assert len(server.claims()) == 2
        server.claim(f"bay-{ws}-b")["metadata"]["creationTimestamp"] = "2020-01-01T00:00:00Z"
        await until(lambda: len(server.claims()) == 1)
    assert server.claims() == {f"bay-{ws}"}


async def test_bays_with_other_databases_do_not_see_one_anothers_snapshots(
    cargo: ClaimSnapshots, files: WorkspaceFiles, reopen: Callable[[], ClaimSnapshots]
) -> None:
    _, ckpt = await kept(cargo, files)
    other = reopen()
    other.belong_to("another")
    with pytest.raises(DriverUnavailable, match="another database"):
        await other.open()
    other = reopen()
    await other.open(beside_others=True)
    other.belong_to("another")
    assert (await other.list_checkpoints(), await cargo.list_checkpoints()) == (set(), {ckpt})
    for call in (other.remove_checkpoint(ckpt), other.create(new_id("ws"), origin=ckpt)):
        with pytest.raises(Conflict, match="is not this Bay's"):
            await call


class KeptObjects(NoArchives):
    """An object store in memory."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    async def put(self, key: str, data: bytes, *, only_new: bool = False) -> bool:
        self.objects[key] = data
        return True

    async def get(self, key: str, most: int = LARGEST) -> bytes:
        return self.objects[key] if key in self.objects else await super().get(key)

    async def keys(self, prefix: str) -> dict[str, int]:
        return {key: len(data) for key, data in self.objects.items() if key.startswith(prefix)}

    async def delete(self, keys: Collection[str]) -> None:
        for key in keys:
            self.objects.pop(key, None)


async def test_archives_of_before_are_restored_and_forked_beside_snapshots(
    server: SnapshotServer, carriers: HostCarriers, files: WorkspaceFiles
) -> None:
    objects = KeptObjects()
    archives = ClaimArchives(lambda: objects)
    before = ClaimCheckpoints(lambda: nullcontext(server), SETTINGS, archives, carriers)
    await before.open()
    ws, fork, old, new = new_id("ws"), new_id("ws"), new_id("ckpt"), new_id("ckpt")
    await before.create(ws)
    await files.put(before.place(ws), "file", "old")
    await before.checkpoint(ws, old)
    cargo = ClaimSnapshots(lambda: nullcontext(server), SETTINGS, archives, carriers, snapshot_class="fast")
    await cargo.open()
    await files.put(cargo.place(ws), "file", "new")
    await cargo.checkpoint(ws, new)
    assert await cargo.list_checkpoints() == {old, new}
    assert set(server.snapshots()) == {f"bay-{new}"}
    await cargo.prepare_restore(ws, new, limit_bytes=None)
    await cargo.restore(ws)
    assert cargo.place(ws).name == f"bay-{ws}-b"
    await cargo.prepare_restore(ws, new, limit_bytes=None)  # of which the next one takes the place
    for _ in range(2):
        await cargo.prepare_restore(ws, old, limit_bytes=None)
        await cargo.restore(ws)
        assert await files.get(cargo.place(ws), "file") == "old"
        await files.put(cargo.place(ws), "file", "later")
    await cargo.create(fork, origin=old)
    assert await files.get(cargo.place(fork), "file") == "old"
    await cargo.complete(old)
    for one in (old, new):
        await cargo.remove_checkpoint(one)
    assert (objects.objects, server.snapshots()) == ({}, {})


async def test_a_checkpoint_of_a_kind_that_the_settings_left_out_says_which_and_comes_back_with_it(
    server: SnapshotServer, carriers: HostCarriers, files: WorkspaceFiles
) -> None:
    objects = KeptObjects()
    kept, none = ClaimArchives(lambda: objects), ClaimArchives(NoArchives, are_kept=False)
    given = lambda: nullcontext(server), SETTINGS
    archiving = ClaimCheckpoints(*given, kept, carriers)
    snapping = ClaimSnapshots(*given, none, carriers, snapshot_class="fast")
    both = ClaimSnapshots(*given, kept, carriers, snapshot_class="fast")
    for one in (archiving, snapping, both):
        await one.open()
    assert [sorted(one.seen_kinds) for one in (archiving, snapping, both)] == [
        ["archive"], ["snapshot"], ["archive", "snapshot"],
    ]  # fmt: skip
    ws, archive, snapshot = new_id("ws"), new_id("ckpt"), new_id("ckpt")
    await both.create(ws)
    await files.put(both.place(ws), "file", "then")
    await archiving.checkpoint(ws, archive)
    await both.checkpoint(ws, snapshot)
    with pytest.raises(NotFound, match="set snapshot_class of"):
        await archiving.prepare_restore(ws, snapshot, limit_bytes=None)
    with pytest.raises(NotFound, match="set object_store again"):
        await snapping.prepare_restore(ws, archive, limit_bytes=None)
    with pytest.raises(NotFound, match="set object_store again"):
        await snapping.complete(archive)
    assert await both.list_checkpoints() == {archive, snapshot}
    await both.prepare_restore(ws, archive, limit_bytes=None)


async def test_a_cluster_without_snapshots_is_one_line_at_the_start(
    reopen: Callable[[], ClaimSnapshots], server: SnapshotServer
) -> None:
    server.has_snapshots = False
    with pytest.raises(DriverUnavailable, match=r"snapshot_class: .*no VolumeSnapshots.*unset it"):
        await reopen().open()
