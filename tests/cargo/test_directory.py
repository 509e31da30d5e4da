"""Cargos as plain directories."""

import asyncio
import os
from pathlib import Path

import pytest

from bay.cargo import base_backend
from bay.cargo.directory import DirectoryCargo
from bay.ids import new_id

pytestmark = pytest.mark.anyio


@pytest.fixture
async def cargo(tmp_path: Path) -> DirectoryCargo:
    backend = DirectoryCargo(tmp_path / "cargo")
    await backend.open()
    return backend


async def test_a_cargo_is_closed_to_other_users_and_owned_by_the_sandboxs_user(cargo: DirectoryCargo) -> None:
    cargo_id = new_id("ws")
    await cargo.create(cargo_id)
    for above in cargo.place(cargo_id).parents[:2]:
        assert above.stat().st_mode & 0o777 == 0o700
    assert os.geteuid() != 0 or cargo.place(cargo_id).stat().st_uid == 1000


async def test_a_directory_that_was_opened_to_others_is_closed_again(tmp_path: Path) -> None:
    (tmp_path / "cargo").mkdir(mode=0o755)
    await DirectoryCargo(tmp_path / "cargo").open()
    assert (tmp_path / "cargo").stat().st_mode & 0o777 == 0o700


async def test_making_a_cargo_again_keeps_its_files(cargo: DirectoryCargo) -> None:
    cargo_id = new_id("ws")
    await cargo.create(cargo_id)
    (cargo.place(cargo_id) / "kept").touch()
    await cargo.create(cargo_id)
    assert (cargo.place(cargo_id) / "kept").exists()


async def test_a_tree_deeper_than_pythons_recursion_limit_is_removed(cargo: DirectoryCargo) -> None:
    cargo_id = new_id("ws")
    await cargo.create(cargo_id)
    here = os.open(cargo.place(cargo_id), os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    await cargo.remove(cargo_id)
    await cargo.remove(cargo_id)
    assert await cargo.list_ids() == set()
    await emptied(cargo, cargo.place(cargo_id).parent.parent)


async def test_removing_a_cargo_follows_no_link_out_of_it(cargo: DirectoryCargo, tmp_path: Path) -> None:
    cargo_id = new_id("ws")
    await cargo.create(cargo_id)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/file").touch()
    (cargo.place(cargo_id) / "link").symlink_to(tmp_path / "outside")
    await cargo.remove(cargo_id)
    await emptied(cargo, cargo.place(cargo_id).parent.parent)
    assert (tmp_path / "outside/file").exists()


async def test_what_is_no_cargo_is_not_listed(cargo: DirectoryCargo) -> None:
    cargo_id = new_id("ws")
    await cargo.create(cargo_id)
    (cargo.place(cargo_id).parent.parent / "lost+found").mkdir()
    assert await cargo.list_ids() == {cargo_id}


async def emptied(cargo: DirectoryCargo, root: Path) -> None:
    """Let the trash be emptied, which also spares pytest a tree that it cannot remove."""
    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        running = tasks.create_task(cargo.run())
        while os.listdir(root / ".trash"):  # noqa: ASYNC110  turns of the loop, not time
            await asyncio.sleep(0)
        running.cancel()


async def test_one_that_shares_the_directory_opens_it_while_another_prepares_a_restore(
    cargo: DirectoryCargo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cargo_id, checkpoint_id = new_id("ws"), new_id("ckpt")
    await cargo.create(cargo_id)
    (cargo.place(cargo_id) / "kept").touch()
    await cargo.checkpoint(cargo_id, checkpoint_id)
    (cargo.place(cargo_id) / "kept").unlink()
    await cargo.prepare_restore(cargo_id, checkpoint_id, limit_bytes=None)
    await DirectoryCargo(tmp_path / "cargo", shared=True).open()
    await cargo.restore(cargo_id)
    assert (cargo.place(cargo_id) / "kept").exists()
    await cargo.prepare_restore(cargo_id, checkpoint_id, limit_bytes=None)
    monkeypatch.setattr(base_backend, "_ABANDONED_S", -60.0)
    await DirectoryCargo(tmp_path / "cargo", shared=True).open()
    assert os.listdir(tmp_path / "cargo/.making") == []
