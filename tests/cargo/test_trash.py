"""The trash of cargos: a removal is done for its caller at once, and for the disk when there is time."""

import asyncio
import os
from pathlib import Path

import pytest
from blockbuster import blockbuster_ctx

from bay.cargo.directory import DirectoryCargo
from bay.errors import DriverUnavailable
from bay.ids import new_id
from bay.linux import remove_tree

pytestmark = pytest.mark.anyio


@pytest.fixture
async def cargo(tmp_path: Path) -> DirectoryCargo:
    backend = DirectoryCargo(tmp_path / "cargo")
    await backend.open()
    return backend


async def test_a_removed_cargo_is_out_of_the_way_before_its_files_are_gone(
    cargo: DirectoryCargo, tmp_path: Path
) -> None:
    cargo_id = new_id("ws")
    with blockbuster_ctx(["bay.cargo"]):
        for _ in range(2):  # the same name again, while the first one's files are still there
            await cargo.create(cargo_id)
            (cargo.place(cargo_id) / "file").touch()
            await cargo.remove(cargo_id)
            assert await cargo.list_ids() == set()
    assert len(list((tmp_path / "cargo/.trash").glob("*/workspace/file"))) == 2
    assert (tmp_path / "cargo/.trash").stat().st_mode & 0o777 == 0o700


async def test_the_trash_is_emptied_while_bay_runs(cargo: DirectoryCargo, tmp_path: Path) -> None:
    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        running = tasks.create_task(cargo.run())
        for _ in range(2):
            cargo_id = new_id("ws")
            await cargo.create(cargo_id)
            (cargo.place(cargo_id) / "file").touch()
            await cargo.remove(cargo_id)
            await emptied(tmp_path / "cargo/.trash")
            assert not running.done()
        running.cancel()


async def test_what_an_earlier_bay_left_is_emptied_and_nobody_waits_for_it(
    cargo: DirectoryCargo, tmp_path: Path
) -> None:
    cargo_id = new_id("ws")
    await cargo.create(cargo_id)
    await cargo.remove(cargo_id)
    later = DirectoryCargo(tmp_path / "cargo")
    await later.open()
    assert len(os.listdir(tmp_path / "cargo/.trash")) == 1
    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        running = tasks.create_task(later.run())
        await emptied(tmp_path / "cargo/.trash")
        running.cancel()


async def test_what_the_host_refuses_to_remove_holds_up_nothing_else(
    cargo: DirectoryCargo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stubborn, other = new_id("ws"), new_id("ws")
    remove = remove_tree.remove

    async def refusing(tree: Path) -> None:
        if tree.name.startswith(stubborn):
            raise DriverUnavailable("busy")
        await remove(tree)

    monkeypatch.setattr(remove_tree, "remove", refusing)
    for cargo_id in (stubborn, other):
        await cargo.create(cargo_id)
        await cargo.remove(cargo_id)
    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        running = tasks.create_task(cargo.run())
        await emptied(tmp_path / "cargo/.trash", but=1)
        running.cancel()
    (left,) = os.listdir(tmp_path / "cargo/.trash")
    assert left.startswith(stubborn)


async def test_a_link_in_place_of_the_trash_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o755)
    (tmp_path / "cargo").mkdir()
    (tmp_path / "cargo/.trash").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DriverUnavailable, match="is a link"):
        await DirectoryCargo(tmp_path / "cargo").open()
    assert (tmp_path / "elsewhere").stat().st_mode & 0o777 == 0o755


async def test_a_cargo_that_cannot_be_moved_aside_says_so_and_stays(cargo: DirectoryCargo) -> None:
    cargo_id = new_id("ws")
    await cargo.create(cargo_id)
    cargo.place(cargo_id).parent.parent.joinpath(".trash").rmdir()
    with pytest.raises(DriverUnavailable, match=f"cannot remove .*{cargo_id}"):
        await cargo.remove(cargo_id)
    assert await cargo.list_ids() == {cargo_id}


async def emptied(directory: Path, but: int = 0) -> None:
    """Return once nothing is in `directory`, or only `but` things."""
    while len(os.listdir(directory)) > but:  # noqa: ASYNC110  turns of the loop, not time
        await asyncio.sleep(0)
