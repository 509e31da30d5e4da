"""Cargos as plain directories."""

import asyncio
import os
from contextlib import suppress
from pathlib import Path

import pytest
from blockbuster import blockbuster_ctx

from bay.cargo.directory import DirectoryCargo
from bay.errors import DriverUnavailable
from bay.ids import new_id

pytestmark = pytest.mark.anyio


@pytest.fixture
async def cargo(tmp_path: Path) -> DirectoryCargo:
    made = DirectoryCargo(tmp_path / "cargo")
    await made.open()
    return made


async def test_a_cargo_is_made_once_and_removed_as_often_as_you_like(cargo: DirectoryCargo) -> None:
    cargo_id = new_id("ws")
    with blockbuster_ctx(["bay.cargo"]):
        await cargo.create(cargo_id)
        (cargo.place(cargo_id) / "kept").touch()
        await cargo.create(cargo_id)
        assert await cargo.list_ids() == {cargo_id}
        assert os.listdir(cargo.place(cargo_id)) == ["kept"]
        await cargo.remove(cargo_id)
        await cargo.remove(cargo_id)
        assert await cargo.list_ids() == set()


async def test_nobody_but_its_owner_gets_into_the_directory_above(
    cargo: DirectoryCargo, tmp_path: Path
) -> None:
    assert (tmp_path / "cargo").stat().st_mode & 0o777 == 0o700


async def test_what_a_sandbox_nested_deeper_than_any_stack_is_removed(cargo: DirectoryCargo) -> None:
    cargo_id = new_id("ws")
    await cargo.create(cargo_id)
    here = os.open(cargo.place(cargo_id), os.O_RDONLY)
    for _ in range(5000):
        os.mkdir("a", dir_fd=here)
        below = os.open("a", os.O_RDONLY, dir_fd=here)
        os.close(here)
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=below))
        here = below
    os.close(here)
    await cargo.remove(cargo_id)
    assert not cargo.place(cargo_id).parent.exists()
    await emptied(cargo, cargo.place(cargo_id).parent.parent)


async def test_no_link_is_followed_by_a_remove(cargo: DirectoryCargo, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    cargo_id = new_id("ws")
    await cargo.create(cargo_id)
    where = cargo.place(cargo_id)
    (where / "d" / "e").mkdir(parents=True)
    for link in (where / "link", where / "d" / "link", where / "d" / "e" / "link"):
        link.symlink_to(outside)
    os.mkfifo(where / "d" / "pipe")
    (where / "d" / "closed").mkdir(mode=0)
    (where / os.fsdecode(b"bad\xff")).mkdir()
    await cargo.remove(cargo_id)
    assert not where.exists()
    await emptied(cargo, where.parent.parent)
    assert os.listdir(outside) == ["kept"]


async def test_a_link_in_place_of_the_cargo_is_not_followed(cargo: DirectoryCargo, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    cargo_id = new_id("ws")
    cargo.place(cargo_id).parent.symlink_to(outside)
    with suppress(OSError):
        await cargo.remove(cargo_id)
    await emptied(cargo, tmp_path / "cargo")
    assert os.listdir(outside) == ["kept"]


async def test_what_is_no_cargo_is_not_listed_and_so_never_removed(
    cargo: DirectoryCargo, tmp_path: Path
) -> None:
    (tmp_path / "cargo" / "lost+found").mkdir()
    (tmp_path / "cargo" / "notes.txt").touch()
    assert await cargo.list_ids() == set()


async def test_a_cargo_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DriverUnavailable, match="cannot make"):
        await DirectoryCargo(tmp_path / "file").create(new_id("ws"))


async def emptied(cargo: DirectoryCargo, root: Path) -> None:
    """Let the trash be emptied, which also spares pytest a tree that it cannot remove."""
    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        running = tasks.create_task(cargo.run())
        while os.listdir(root / ".trash"):  # noqa: ASYNC110  turns of the loop, not time
            await asyncio.sleep(0)
        running.cancel()
