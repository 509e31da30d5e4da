"""Image libraries on this host, in directories of a test."""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from fetchers import MakeFetcher, ranges_in

from bay.images.base import BroughtImage, HeldLayer, ImageSource
from bay.images.layer_cage import CageParts
from bay.images.layer_store import LayerStore
from bay.images.library import HostLibrary, ImageLimits
from bay.images.registries import RegistryAccess
from bay.models import PullProgress
from bay.units import MIB


async def library_in(
    root: Path, short: Path, closures: Path, make_fetcher: MakeFetcher, *hosts: str, largest: int = 4 * MIB
) -> HostLibrary:
    """A library below `root` that pulls from plain registries; its claims are in `short`."""
    (short / "stage").mkdir(exist_ok=True)
    parts = CageParts(stage=short / "stage", closures=closures, ids=ranges_in(short))
    made = HostLibrary(
        root_dir=root,
        fetcher=make_fetcher(*(RegistryAccess(host=host, insecure=True) for host in hosts)),
        store=LayerStore(root, parts),
        limits=ImageLimits(archive_bytes=largest),
    )
    await made.open()
    return made


async def nothing() -> Sequence[HeldLayer]:
    return ()


async def no_rows() -> tuple[set[str], set[str]]:
    """What rows need, where there are none."""
    return set(), set()


def unseen(_progress: PullProgress) -> None:
    pass


async def bring(library: HostLibrary, image_id: str, ref: str, *held: HeldLayer) -> BroughtImage:
    async def these() -> Sequence[HeldLayer]:
        return held

    async with library.bring(image_id, ImageSource(ref=ref), these, unseen) as brought:
        return brought


async def pieces(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 65_536):
        yield data[start : start + 65_536]
