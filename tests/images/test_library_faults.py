"""Pulls that end in the middle, on a full disk or by a cancel, and leave nothing."""

import asyncio
import os
import subprocess
from collections.abc import Generator
from pathlib import Path

import pytest
from fetchers import MakeFetcher, assert_nothing_left
from image_files import ImageFile, Layer, layer_of
from libraries import bring, library_in, nothing
from registry import Registry

from bay.errors import StorageFull
from bay.images.base import ImageSource
from bay.images.library import HostLibrary
from bay.models import PullProgress
from bay.units import MIB

pytestmark = [pytest.mark.host, pytest.mark.anyio]


@pytest.fixture
def small_disk(short: Path) -> Generator[Path]:
    """A file system with room for 24 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounts")
    (short / "disk").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "none", short / "disk"], check=True)
    yield short / "disk"
    subprocess.run(["umount", short / "disk"], check=True)


# The first does not fit as it comes, the second not once it is unpacked.
FULL = {"fetched": {"random": os.urandom(40 * MIB)}, "unpacked": {"zeros": bytes(60 * MIB)}}


@pytest.mark.parametrize("when", FULL)
async def test_a_pull_that_fills_the_disk_leaves_nothing_and_succeeds_once_there_is_room(
    when: str,
    small_disk: Path,
    short: Path,
    closures: Path,
    make_fetcher: MakeFetcher,
    plain_registry: Registry,
) -> None:
    places = small_disk / "images", short, closures
    library = await library_in(*places, make_fetcher, plain_registry.host, largest=64 * MIB)
    layer = layer_of(FULL[when])
    ref = plain_registry.push(ImageFile(layers=(layer_of({"a": b"b"}), layer)), f"full/{when}", "1")
    with pytest.raises(StorageFull):
        await bring(library, "img-1", ref)
    assert_empty(library)
    assert_nothing_left(short)
    subprocess.run(["mount", "-o", "remount,size=200m", small_disk], check=True)  # noqa: ASYNC221 - takes no time
    assert layer.diff_id in (await bring(library, "img-1", ref)).diff_ids


async def test_a_pull_that_is_deleted_while_it_unpacks_leaves_nothing(
    library: HostLibrary, plain_registry: Registry, short: Path
) -> None:
    layers: tuple[Layer, ...] = (layer_of({"zeros": bytes(400 * MIB)}), layer_of({"more": bytes(400 * MIB)}))
    ref = plain_registry.push(ImageFile(layers=layers), "cut/unpacking", "1")
    begun = asyncio.Event()

    def note(progress: PullProgress) -> None:
        if progress.step == "unpacking" and progress.bytes_done:
            begun.set()

    async def cut() -> None:
        async with library.bring("img-1", ImageSource(ref=ref), nothing, note):
            raise AssertionError("it was to be cancelled before")

    pull = asyncio.create_task(cut())
    await asyncio.wait_for(begun.wait(), 60)
    pull.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pull
    assert_empty(library)
    assert_nothing_left(short)


def assert_empty(library: HostLibrary) -> None:
    """No part of a pull is there; a layer that was whole already stays, for the next attempt."""
    for name in ("tops", "spools", "tmp", "trash"):
        assert list((library.root_dir / name).iterdir()) == [], name
