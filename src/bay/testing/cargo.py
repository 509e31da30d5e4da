"""The suite that every cargo backend passes: a test is a sentence of the contract in `bay.cargo.base`.

A test module imports it whole, and gives it two fixtures:

    from bay.testing.cargo import *

    @pytest.fixture
    async def cargo(tmp_path: Path) -> AsyncGenerator[CargoBackend]:
        backend = MyBackend(tmp_path / "cargo")
        await backend.open()
        yield backend
        await backend.aclose()

    @pytest.fixture
    def reopen(tmp_path: Path) -> Callable[[], CargoBackend]:
        return lambda: MyBackend(tmp_path / "cargo")      # the same files, after a crash

A backend whose places are no directories of this host gives a third fixture, `files`, a `WorkspaceFiles`.
Tests of an optional protocol, and those that look at directories, are skipped for a backend without them. The
suite needs root, for the owners of files.
"""

import asyncio
import errno
import io
import os
import socket
import stat
import subprocess
import tarfile
from collections.abc import AsyncGenerator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import pytest

from bay.cargo.base import (
    CargoBackend,
    CheckpointArchives,
    CheckpointFiles,
    CheckpointStore,
    CopiesBySessions,
    DiskUsage,
    Fence,
    MachineLayers,
    SizeLimits,
    StaleGeneration,
)
from bay.cargo.checkpoint_archives import checkpoint_archives
from bay.cargo.manifest import Manifest
from bay.errors import BadRequest, CapabilityNotSupported, InvalidArgument, NotFound
from bay.ids import new_id
from bay.places import Place, directory_of

MIB = 1 << 20

pytestmark = pytest.mark.anyio


class WorkspaceFiles(Protocol):
    """The way into a cargo's workspace that a session has: it writes and reads a text file `name`."""

    async def put(self, place: Place, name: str, text: str) -> None: ...

    async def get(self, place: Place, name: str) -> str: ...


class HostFiles:
    """The workspaces of a backend whose places are directories of this host."""

    async def put(self, place: Place, name: str, text: str) -> None:
        await asyncio.to_thread((directory_of(place) / name).write_text, text)

    async def get(self, place: Place, name: str) -> str:
        return await asyncio.to_thread((directory_of(place) / name).read_text)


@pytest.fixture
def files() -> WorkspaceFiles:
    return HostFiles()


async def test_a_cargo_has_an_open_workspace_of_the_sandboxs_user_and_a_closed_machine(
    cargo: CargoBackend,
) -> None:
    if not isinstance(cargo, MachineLayers):
        pytest.skip("this backend keeps no layers")
    ws = new_id("ws")
    await cargo.create(ws)
    top = here(cargo, ws)
    workspace, machine = top.stat(), cargo.machine(ws).stat()
    assert (stat.S_IMODE(workspace.st_mode), stat.S_IMODE(machine.st_mode)) == (0o755, 0o700)
    assert os.geteuid() != 0 or (workspace.st_uid, machine.st_uid) == (1000, 0)
    assert {stat.S_IMODE(above.stat().st_mode) for above in top.parents[:2]} == {0o700}
    assert os.listdir(top) == os.listdir(cargo.machine(ws)) == []


async def test_a_cargo_keeps_its_files_until_it_is_removed(
    cargo: CargoBackend, files: WorkspaceFiles, reopen: Callable[[], CargoBackend]
) -> None:
    ws, other = new_id("ws"), new_id("ws")
    await cargo.create(ws, limit_bytes=50 * MIB)
    await cargo.create(other)
    await files.put(cargo.place(ws), "file", "kept")
    await files.put(cargo.place(other), "file", "elsewhere")
    await cargo.create(ws, limit_bytes=50 * MIB)  # as a Bay does that did not hear the answer
    if isinstance(cargo, SizeLimits):
        await cargo.set_limit(ws, 50 * MIB)
    again = reopen()
    await again.open()
    assert again.place(ws) == cargo.place(ws) != cargo.place(other)
    assert await again.list_ids() == {ws, other}
    assert await files.get(again.place(ws), "file") == "kept"
    for _ in range(2):
        await cargo.remove(ws)
        assert await cargo.list_ids() == {other}
    assert await files.get(cargo.place(other), "file") == "elsewhere"
    await cargo.remove(other)
    assert await cargo.list_ids() == set()


async def test_cargos_that_are_made_and_removed_at_once_do_not_disturb_each_other(
    cargo: CargoBackend, files: WorkspaceFiles
) -> None:
    ids = [new_id("ws") for _ in range(4)]
    await asyncio.gather(*map(cargo.create, ids))
    await files.put(cargo.place(ids[0]), "file", "kept")
    await asyncio.gather(*map(cargo.remove, ids[1:]), cargo.create(ids[0]))
    assert await cargo.list_ids() == {ids[0]}
    assert await files.get(cargo.place(ids[0]), "file") == "kept"


async def test_a_backend_without_checkpoints_forks_none(cargo: CargoBackend) -> None:
    if isinstance(cargo, CheckpointStore):
        pytest.skip("this backend has checkpoints")
    with pytest.raises(CapabilityNotSupported, match=cargo.name) as refused:
        await cargo.create(new_id("ws"), origin=new_id("ckpt"))
    assert refused.value.details == {"capability": "checkpoints", "available": []}
    assert await cargo.list_ids() == set()


async def test_each_call_may_be_repeated(cargo: CargoBackend, files: WorkspaceFiles) -> None:
    store = with_checkpoints(cargo)
    ws, ckpt, fork = new_id("ws"), new_id("ckpt"), new_id("ws")
    for text in ("first", "second"):
        await cargo.create(ws, limit_bytes=50 * MIB)
        await files.put(cargo.place(ws), "file", text)
        await store.checkpoint(ws, ckpt)
        await cargo.create(fork, origin=ckpt)
        if isinstance(cargo, SizeLimits):
            await cargo.set_limit(ws, 60 * MIB)
        await store.settle(ws)
        if isinstance(cargo, CheckpointFiles):
            await cargo.drop_import(new_id("ckpt"))
    assert await files.get(cargo.place(ws), "file") == "second"
    assert await files.get(cargo.place(fork), "file") == "first"
    assert await cargo.list_ids() == {ws, fork}
    assert await store.list_checkpoints() == {ckpt}
    for _ in range(2):
        await store.remove_checkpoint(ckpt)
        await cargo.remove(ws)
        await cargo.remove(fork)
    assert await cargo.list_ids() == await store.list_checkpoints() == set()


async def test_a_restore_puts_back_what_the_checkpoint_has_and_forks_go_their_own_way(
    cargo: CargoBackend, files: WorkspaceFiles
) -> None:
    store = with_checkpoints(cargo)
    ws, ckpt, fork = new_id("ws"), new_id("ckpt"), new_id("ws")

    async def put(one: str, text: str) -> None:
        await files.put(cargo.place(one), "file", text)

    async def got(one: str) -> str:
        return await files.get(cargo.place(one), "file")

    await cargo.create(ws)
    await put(ws, "then")
    if isinstance(cargo, MachineLayers):
        (cargo.machine(ws) / "layer").mkdir()
    await store.checkpoint(ws, ckpt)
    await put(ws, "now")
    if isinstance(cargo, MachineLayers):
        (cargo.machine(ws) / "layer").rmdir()
    await cargo.create(fork, origin=ckpt)
    await put(fork, "elsewhere")
    for _ in range(2):
        await store.prepare_restore(ws, ckpt, limit_bytes=None)
    assert await got(ws) == "now"
    await store.restore(ws)
    assert await got(ws) == "then"
    if isinstance(cargo, MachineLayers):
        assert os.listdir(cargo.machine(ws)) == ["layer"]
    assert await got(fork) == "elsewhere"
    await put(ws, "later")
    await store.remove_checkpoint(ckpt)
    assert (await got(ws), await got(fork)) == ("later", "elsewhere")


async def test_a_cargo_that_is_gone_can_be_restored(cargo: CargoBackend, files: WorkspaceFiles) -> None:
    store = with_checkpoints(cargo)
    ws, ckpt = new_id("ws"), new_id("ckpt")
    await cargo.create(ws)
    await files.put(cargo.place(ws), "file", "then")
    await store.checkpoint(ws, ckpt)
    await cargo.remove(ws)
    await store.prepare_restore(ws, ckpt, limit_bytes=MIB)
    await store.restore(ws)
    assert await files.get(cargo.place(ws), "file") == "then"


async def test_what_is_not_there_is_not_found_and_leaves_nothing(cargo: CargoBackend) -> None:
    store = with_checkpoints(cargo)
    ws, nothing = new_id("ws"), new_id("ckpt")
    with pytest.raises(NotFound, match="no checkpoint"):
        await cargo.create(ws, origin=nothing)
    with pytest.raises(NotFound, match="no cargo"):
        await store.checkpoint(ws, nothing)
    await cargo.create(ws)
    with pytest.raises(NotFound, match="no checkpoint"):
        await store.prepare_restore(ws, nothing, limit_bytes=None)
    with pytest.raises(NotFound, match="nothing is prepared"):
        await store.restore(ws)
    if isinstance(cargo, CheckpointFiles):
        with pytest.raises(NotFound, match="no import"):
            await cargo.keep_import(nothing)
    assert (await cargo.list_ids(), await store.list_checkpoints()) == ({ws}, set())


@pytest.mark.parametrize("name", ["../ws", "", "ws-1", ".trash", "ws-" + "0" * 24 + "/x"])
async def test_what_is_no_id_is_refused_everywhere(cargo: CargoBackend, name: str) -> None:
    good = new_id("ws")
    for call in (
        cargo.create(name),
        *(of_checkpoints(cargo, good, name) if isinstance(cargo, CheckpointStore) else []),
        *(of_imports(cargo, name) if isinstance(cargo, CheckpointFiles) else []),
        *(
            [cargo.check_limit(name, 1), cargo.set_limit(name, 1), cargo.charged(name)]
            if isinstance(cargo, SizeLimits)
            else []
        ),
        *([cargo.weigh([name])] if isinstance(cargo, DiskUsage) else []),
        cargo.fence(good, name, 1, "s"),
        cargo.fenced(good, name),
        cargo.fence(name, new_id("sandbox"), 1, "s"),
        cargo.fenced(name, new_id("sandbox")),
        cargo.remove(name),
    ):
        with pytest.raises(InvalidArgument):
            await call
    if isinstance(cargo, CheckpointStore):
        with pytest.raises(InvalidArgument):
            await cargo.create(good, origin=name)


async def test_an_import_is_a_checkpoint_once_it_is_kept(cargo: CargoBackend, files: WorkspaceFiles) -> None:
    store, imports = with_checkpoints(cargo), with_imports(cargo)
    ckpt, dropped, ws = new_id("ckpt"), new_id("ckpt"), new_id("ws")
    for _ in range(2):
        target = await imports.begin_import(ckpt, limit_bytes=None)
        assert os.listdir(target) == []
        for part in ("workspace", "machine"):
            (target / part).mkdir()
        (target / "workspace/file").write_text("from elsewhere")
    (await imports.begin_import(dropped, limit_bytes=None) / "workspace").mkdir()
    assert await store.list_checkpoints() == set()
    await imports.drop_import(dropped)
    await imports.keep_import(ckpt)
    await imports.keep_import(ckpt)
    assert await store.list_checkpoints() == {ckpt}
    await cargo.create(ws, origin=ckpt)
    assert await files.get(cargo.place(ws), "file") == "from elsewhere"


async def test_the_archive_of_a_checkpoint_comes_back_as_another(
    cargo: CargoBackend, files: WorkspaceFiles
) -> None:
    store, archives = with_checkpoints(cargo), with_archives(cargo)
    ws, first, second, third = new_id("ws"), new_id("ckpt"), new_id("ckpt"), new_id("ckpt")
    await cargo.create(ws)
    await files.put(cargo.place(ws), "file", "then")
    await store.checkpoint(ws, first)
    told = Manifest(
        bay="0.1",
        persist="workspace",
        image="host",
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        comment="kept",
    )
    counts: dict[str, int] = {}
    archive = b"".join([chunk async for chunk in archives.export_archive(first, told, counts)])
    assert counts["entries"] >= 2
    seen: list[Manifest] = []

    async def brought(data: bytes, checkpoint_id: str) -> Manifest:
        return await archives.import_archive(
            ws, checkpoint_id, _pieces(data), limit_bytes=None, check=seen.append
        )

    assert await brought(archive, second) == told
    assert seen == [told]
    with pytest.raises(BadRequest):
        await brought(archive[:-30], third)
    assert await store.list_checkpoints() == {first, second}
    await files.put(cargo.place(ws), "file", "now")
    await store.prepare_restore(ws, second, limit_bytes=None)
    await store.restore(ws)
    assert await files.get(cargo.place(ws), "file") == "then"


async def test_a_copy_that_a_session_gives_is_a_checkpoint(
    cargo: CargoBackend, files: WorkspaceFiles
) -> None:
    store = with_checkpoints(cargo)
    if not isinstance(cargo, CopiesBySessions):
        pytest.skip("this backend has the files of its cargos")
    ws, ckpt = new_id("ws"), new_id("ckpt")
    await cargo.create(ws)
    for _ in range(2):
        await cargo.checkpoint_by_session(ws, ckpt, PackedFile("file", b"then"))
    await store.prepare_restore(ws, ckpt, limit_bytes=None)
    await store.restore(ws)
    assert await files.get(cargo.place(ws), "file") == "then"


async def test_an_import_may_begin_as_a_copy_of_a_checkpoint(
    cargo: CargoBackend, files: WorkspaceFiles
) -> None:
    store, imports = with_checkpoints(cargo), with_imports(cargo)
    ws, ckpt, copy = new_id("ws"), new_id("ckpt"), new_id("ckpt")
    with pytest.raises(NotFound, match="no checkpoint"):
        await imports.begin_import(copy, limit_bytes=None, origin=ckpt)
    await cargo.create(ws)
    await files.put(cargo.place(ws), "file", "first")
    await store.checkpoint(ws, ckpt)
    for _ in range(2):
        target = await imports.begin_import(copy, limit_bytes=None, origin=ckpt)
        assert (target / "machine").is_dir()
        (target / "machine").rmdir()
    await imports.keep_import(copy)
    await store.remove_checkpoint(ckpt)
    fork = new_id("ws")
    await cargo.create(fork, origin=copy)
    assert await files.get(cargo.place(fork), "file") == "first"
    assert await store.list_checkpoints() == {copy}


async def test_opening_again_throws_away_what_is_half_made_and_keeps_the_rest(
    cargo: CargoBackend, files: WorkspaceFiles, reopen: Callable[[], CargoBackend]
) -> None:
    store = with_checkpoints(cargo)
    ws, ckpt = new_id("ws"), new_id("ckpt")
    await cargo.create(ws)
    await files.put(cargo.place(ws), "file", "kept")
    await store.checkpoint(ws, ckpt)
    await store.prepare_restore(ws, ckpt, limit_bytes=None)
    if isinstance(cargo, CheckpointFiles):
        await cargo.begin_import(new_id("ckpt"), limit_bytes=None)
    again = reopen()
    await again.open()
    opened = with_checkpoints(again)
    assert (await again.list_ids(), await opened.list_checkpoints()) == ({ws}, {ckpt})
    with pytest.raises(NotFound):
        await opened.restore(ws)
    assert await files.get(again.place(ws), "file") == "kept"


async def test_opening_beside_others_leaves_their_work_alone(
    cargo: CargoBackend, files: WorkspaceFiles, reopen: Callable[[], CargoBackend]
) -> None:
    store = with_checkpoints(cargo)
    ws, ckpt = new_id("ws"), new_id("ckpt")
    await cargo.create(ws)
    await files.put(cargo.place(ws), "file", "old")
    await store.checkpoint(ws, ckpt)
    await files.put(cargo.place(ws), "file", "new")
    await store.prepare_restore(ws, ckpt, limit_bytes=None)
    again = reopen()
    await again.open(beside_others=True)
    assert await again.list_ids() == {ws}
    await store.restore(ws)
    assert await files.get(cargo.place(ws), "file") == "old"


async def test_every_kind_of_file_comes_back_exactly(cargo: CargoBackend) -> None:
    store = with_checkpoints(cargo)
    ws, ckpt, fork = new_id("ws"), new_id("ckpt"), new_id("ws")
    await cargo.create(ws)
    top = here(cargo, ws)
    fill(top)
    before = facts(top)
    await store.checkpoint(ws, ckpt)
    await cargo.create(fork, origin=ckpt)
    await store.prepare_restore(ws, ckpt, limit_bytes=None)
    await store.restore(ws)
    assert facts(here(cargo, fork)) == facts(top) == before
    if isinstance(cargo, CheckpointFiles):
        assert facts(cargo.checkpoint_path(ckpt) / "workspace") == before
    assert (top / "sparse").stat().st_blocks < 64
    assert (top / "one").stat().st_ino == (top / "far/two").stat().st_ino


async def test_a_hundred_levels_and_names_that_are_no_text_come_back(cargo: CargoBackend) -> None:
    store, fork = with_checkpoints(cargo), new_id("ws")
    ws, ckpt = new_id("ws"), new_id("ckpt")
    await cargo.create(ws)
    name = os.fsdecode(b"\xff" + b"n" * 199)
    bottom = dig(here(cargo, ws), name, 120)
    os.close(os.open("bottom", os.O_CREAT | os.O_WRONLY, dir_fd=bottom))
    os.close(bottom)
    await store.checkpoint(ws, ckpt)
    await cargo.create(fork, origin=ckpt)
    found = dig(here(cargo, fork), name, 120)
    assert os.listdir(found) == ["bottom"]
    os.close(found)


async def test_a_link_in_place_of_a_directory_leads_nowhere(cargo: CargoBackend, tmp_path: Path) -> None:
    store, fork = with_checkpoints(cargo), new_id("ws")
    ws, ckpt = new_id("ws"), new_id("ckpt")
    await cargo.create(ws)
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/key").write_text("secret")
    (here(cargo, ws) / "link").symlink_to(tmp_path / "secret")
    await store.checkpoint(ws, ckpt)
    await cargo.create(fork, origin=ckpt)
    assert (here(cargo, fork) / "link").is_symlink()
    if isinstance(cargo, DiskUsage):
        weights = await cargo.weigh([ws, ckpt])
        assert weights[ws].used_inodes == weights[ckpt].used_inodes == 4


async def test_a_fence_is_raised_by_newer_generations_alone(
    cargo: CargoBackend, reopen: Callable[[], CargoBackend]
) -> None:
    ws, sandbox = new_id("ws"), new_id("sandbox")
    await cargo.create(ws)
    assert await cargo.fenced(ws, sandbox) is None
    for _ in range(2):
        await cargo.fence(ws, sandbox, 4, "sess-a")
    for generation, session in ((3, "sess-a"), (4, "sess-b")):
        with pytest.raises(StaleGeneration, match="older than") as refused:
            await cargo.fence(ws, sandbox, generation, session)
        assert refused.value.details == {"generation": 4}
    again = reopen()
    await again.open()
    assert await again.fenced(ws, sandbox) == Fence(sandbox_id=sandbox, generation=4, session_id="sess-a")
    await again.fence(ws, sandbox, 5, "sess-b")
    assert await cargo.fenced(ws, sandbox) == Fence(sandbox_id=sandbox, generation=5, session_id="sess-b")


async def test_sandboxes_that_share_a_cargo_have_a_fence_each(cargo: CargoBackend) -> None:
    ws, one, other = new_id("ws"), new_id("sandbox"), new_id("sandbox")
    await cargo.create(ws)
    await cargo.fence(ws, one, 5, "sess-a")
    await cargo.fence(ws, other, 1, "sess-b")
    with pytest.raises(StaleGeneration):
        await cargo.fence(ws, one, 4, "sess-c")
    assert await cargo.fenced(ws, one) == Fence(sandbox_id=one, generation=5, session_id="sess-a")
    await cargo.remove(ws)
    assert await cargo.fenced(ws, other) is None


async def test_a_weight_counts_a_file_once_and_says_what_is_shared(cargo: CargoBackend) -> None:
    if not isinstance(cargo, DiskUsage):
        pytest.skip("this backend measures nothing")
    store = with_checkpoints(cargo)
    ws, ckpt, absent = new_id("ws"), new_id("ckpt"), new_id("ws")
    await cargo.create(ws)
    top = here(cargo, ws)
    write(top / "a", 4 * MIB)
    os.link(top / "a", top / "b")
    await store.checkpoint(ws, ckpt)
    write(top / "own", 2 * MIB)
    found = await cargo.weigh([ws, ckpt, absent])
    assert set(found) == {ws, ckpt}
    assert 6 * MIB <= found[ws].used_bytes < 7 * MIB
    assert (found[ws].used_inodes, found[ckpt].used_inodes) == (5, 4)
    assert 4 * MIB <= found[ckpt].used_bytes < 5 * MIB
    assert 2 * MIB <= (found[ws].exclusive_bytes or 0) <= found[ws].used_bytes


async def test_a_limit_holds_and_can_be_changed(cargo: CargoBackend) -> None:
    if not isinstance(cargo, SizeLimits) or not cargo.enforced:
        pytest.skip("this backend enforces no limits")
    ws = new_id("ws")
    await cargo.create(ws, limit_bytes=10 * MIB)
    top = here(cargo, ws)
    assert full(top / "a", 20 * MIB)
    assert (await cargo.charged(ws) or 0) <= 10 * MIB
    await cargo.check_limit(ws, 40 * MIB)
    await cargo.set_limit(ws, 40 * MIB)
    write(top / "b", 20 * MIB)
    await cargo.set_limit(ws, None)
    write(top / "c", 20 * MIB)
    await cargo.set_limit(ws, MIB)
    assert full(top / "d", MIB)
    for name in "abc":
        (top / name).unlink()


def here(cargo: CargoBackend, ws: str) -> Path:
    """The workspace as a directory of this host; the test is skipped where it is none."""
    place = cargo.place(ws)
    if not isinstance(place, Path):
        pytest.skip("the places of this backend are no directories of this host")
    return place


def with_checkpoints(cargo: CargoBackend) -> CheckpointStore:
    if not isinstance(cargo, CheckpointStore):
        pytest.skip("this backend has no checkpoints")
    return cargo


def with_archives(cargo: CargoBackend) -> CheckpointArchives:
    if not isinstance(cargo, CheckpointArchives | CheckpointFiles):
        pytest.skip("this backend has no archives of checkpoints")
    return checkpoint_archives(cargo)


async def _pieces(data: bytes) -> AsyncGenerator[bytes]:
    for at in range(0, len(data), 1000):
        yield data[at : at + 1000]


class PackedFile:
    """A workspace with one file, as a session gives it."""

    def __init__(self, name: str, content: bytes) -> None:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
            top = tarfile.TarInfo("workspace")
            top.type, top.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(top)
            file = tarfile.TarInfo(f"workspace/{name}")
            file.size = len(content)
            tar.addfile(file, io.BytesIO(content))
            self._members = out.getvalue()
        self._bytes = len(content)

    async def pack(self, counts: dict[str, int]) -> AsyncGenerator[bytes]:
        """See `PackedFiles`."""
        yield self._members
        counts |= {"entries": 2, "bytes": self._bytes}


def with_imports(cargo: CargoBackend) -> CheckpointFiles:
    if not isinstance(cargo, CheckpointFiles):
        pytest.skip("this backend has no imports")
    return cargo


def of_checkpoints(store: CheckpointStore, good: str, name: str) -> list[Awaitable[None]]:
    """Calls with `name` in the place of an id."""
    return [
        store.checkpoint(name, new_id("ckpt")),
        store.checkpoint(good, name),
        store.prepare_restore(name, new_id("ckpt"), limit_bytes=None),
        store.prepare_restore(good, name, limit_bytes=None),
        store.restore(name),
        store.remove_checkpoint(name),
        store.settle(name),
    ]


def of_imports(files: CheckpointFiles, name: str) -> list[Awaitable[object]]:
    """Calls with `name` in the place of an id."""
    return [
        files.begin_import(name, limit_bytes=None), files.keep_import(name), files.drop_import(name),
    ]  # fmt: skip


def fill(top: Path) -> None:
    """One of everything that a sandbox can make."""
    (top / "one").write_text("linked")
    (top / "far").mkdir(mode=0o2770)
    os.link(top / "one", top / "far/two")
    (top / "set-uid").write_text("#!")
    os.chown(top / "set-uid", 1000, 1001)
    (top / "set-uid").chmod(0o6751)
    os.setxattr(
        top / "set-uid", "security.capability", bytes.fromhex("0100000200040000000000000000000000000000")
    )
    with (top / "sparse").open("wb") as file:
        file.seek(64 * MIB)
        file.write(b"end")
        file.truncate(80 * MIB)
    os.mkfifo(top / "fifo", 0o640)
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.open(top, os.O_RDONLY)
        listener.bind(f"/proc/self/fd/{here}/socket")
        os.close(here)
    os.mknod(top / "whiteout", stat.S_IFCHR, os.makedev(0, 0))
    os.link(top / "whiteout", top / "far/whiteout")
    (top / "link").symlink_to("nowhere")
    os.chown(top / "link", 1000, 1000, follow_symlinks=False)
    for name in ("user.colour", "trusted.overlay.opaque"):
        os.setxattr(top / "far", name, b"y\0z")
    subprocess.run(
        ["touch", "-h", "-d", "2001-02-03 04:05:06.789", str(top / "link")], check=True, timeout=10
    )
    os.utime(top / "far", ns=(10**18, 123_456_789_012_345_678))


def facts(top: Path) -> dict[str, object]:
    """All that is to be the same of a copy, by path."""
    return {str(path.relative_to(top)): facts_of(path) for path in [top, *sorted(top.rglob("*"))]}


def facts_of(path: Path) -> object:
    found = path.lstat()
    xattrs = {
        name: os.getxattr(path, name, follow_symlinks=False)
        for name in os.listxattr(path, follow_symlinks=False)
    }
    content = path.read_bytes() if stat.S_ISREG(found.st_mode) else None
    target = os.readlink(path) if path.is_symlink() else None
    links = None if path.is_dir() else found.st_nlink
    return (
        found.st_mode, found.st_uid, found.st_gid, found.st_rdev, links, found.st_mtime_ns, hash(content),
        target, xattrs,
    )  # fmt: skip


def dig(top: Path, name: str, levels: int) -> int:
    """The directory that many levels below, which is made when it is not there."""
    here = os.open(top, os.O_RDONLY)
    for _ in range(levels):
        if name not in os.listdir(here):
            os.mkdir(name, dir_fd=here)
        below = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    return here


def full(path: Path, size: int, number: int = errno.EDQUOT) -> bool:
    """Whether writing that much is refused."""
    try:
        write(path, size)
    except OSError as error:
        if error.errno != number:
            raise
        return True
    return False


def write(path: Path, size: int) -> None:
    """Write that many bytes that cannot be compressed, and have them on the disk. Raises OSError."""
    with path.open("wb") as file:
        for _ in range(0, size, MIB):
            file.write(os.urandom(MIB))
            file.flush()
            os.fsync(file.fileno())
