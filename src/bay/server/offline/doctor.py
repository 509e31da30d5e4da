"""The checks of `bay doctor`: the host's requirements, the images of the data directory, the object store; or
the cluster in place of the host.

The images are read from the database, read-only, so a Bay may be running, or none: the pool that holds the
files need not be mounted for it.
"""

import asyncio
import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from bay.clock import utc_now
from bay.drivers.host_check import HostCheck
from bay.drivers.oci import probe
from bay.drivers.oci.driver import OciDriver
from bay.errors import BayError, DriverUnavailable, ObjectStoreUnavailable
from bay.images import fetch_cage
from bay.images.fetch_probe import caged_version
from bay.images.layer_probe import try_unpacker
from bay.images.layer_store import LayerLimits
from bay.images.library import ImageLimits
from bay.linux.directories import nearest_directory
from bay.object_store.base import ObjectMissing, ObjectStore
from bay.server.backends import choose_cargo, cluster_checks, object_store_of
from bay.server.database import make_database, sqlite_file
from bay.server.settings import Settings
from bay.store.engine import Database
from bay.store.image_totals import ImageTotals, totals
from bay.units import GIB, MIB

_STORES = {
    "pool": "a btrfs of Bay's own, with quotas",
    "btrfs": "the data directory's btrfs, with quotas",
    "directory": "plain directories without quotas, so what a layer takes beside its bytes has no limit",
}


def checks(settings: Settings, *, canaries: bool = False, kubeconfig: Path | None = None) -> list[HostCheck]:
    """All checks of the place where the settings' driver runs sandboxes, in the order in which to mend them.
    Blocks for about a second, and leaves nothing. `canaries`: those of the settings' cluster, whatever the
    driver, with pods that try it for about a minute; `kubeconfig` is the one that they are made with.

    Raises InvalidArgument for settings that name no cluster where they must.
    """
    if is_of_cluster(settings, canaries=canaries):
        return [
            *cluster_checks(settings, canaries=canaries, kubeconfig=kubeconfig),
            *object_store(settings),
        ]
    found = probe.checks(
        settings.runc, runsc=settings.runsc, scratch=settings.data_dir, id_base=settings.id_range_start
    )
    if not found[0].ok:  # without root the others may fail for want of it
        return found
    return [
        *found,
        *_memory(settings),
        *_fetching(settings),
        _unpacking(settings),
        *_images(settings),
        *object_store(settings),
    ]


def is_of_cluster(settings: Settings, *, canaries: bool) -> bool:
    """Whether the checks are those of a cluster, and none of this machine."""
    return canaries or settings.driver == "kubernetes"


def _memory(settings: Settings) -> Iterator[HostCheck]:
    """Whether a sandbox can be saved with its memory and go on, where a profile asks for that."""
    if not any(profile.hibernate for profile in settings.profiles.values()):
        return
    tried = asyncio.run(_tried_memory(settings))
    for isolation, problem in tried.items():
        name = "memory" if isolation == "container" else f"memory-{isolation}"
        found = "a sandbox was saved and went on" if problem is None else problem
        yield HostCheck(name, problem is None, False, found, probe.FIXES_OF_MEMORY[isolation])


async def _tried_memory(settings: Settings) -> dict[str, str | None]:
    """The problem of each isolation, tried by a driver of its own, beside a Bay that may run."""
    with tempfile.TemporaryDirectory(prefix="bay-doctor-", dir="/run") as place:
        os.chmod(place, 0o711)  # noqa: S103 - the session's own root passes through
        driver = OciDriver(
            root=Path(place, "root"),
            run_dir=Path(place, "run"),
            cache=settings.cache_dir,
            runc=settings.runc,
            id_range_start=settings.id_range_start,
            fork_ships=False,
            criu=settings.criu,
            runsc_binary=settings.runsc,
        )
        try:
            await driver.open()
        except BayError as error:
            return {"container": error.message}
        await driver.aclose()
        able = driver.capabilities.isolation
        return {isolation: driver.memory_problems.get(isolation) for isolation in able}


def object_store(settings: Settings) -> Iterator[HostCheck]:
    """Whether the object store of the settings takes a small object, gives it back and removes it."""
    try:
        make = object_store_of(settings)
        if make is None:
            yield HostCheck("object-store", True, False, "none: no setting object_store", "-")
            return
        place = asyncio.run(_tried(make))
    except BayError as error:
        fix = "mend the settings object_store; until then no checkpoint can be pushed or pulled"
        yield HostCheck("object-store", False, False, error.message, fix)
        return
    yield HostCheck("object-store", True, False, f"{place} takes objects and gives them back", "-")


async def _tried(make: Callable[[], ObjectStore]) -> str:
    store = make()
    key, content = f"trial-{secrets.token_hex(8)}/object", secrets.token_bytes(16)
    await store.put(key, content)
    try:
        if await store.get(key, 1024) != content or key not in await store.keys(key):
            raise ObjectStoreUnavailable(f"{store.place} does not give back what was written")
    except ObjectMissing:
        raise ObjectStoreUnavailable(f"{store.place} does not give back what was written") from None
    finally:
        await store.delete([key])
    return store.place


def _fetching(settings: Settings) -> Iterator[HostCheck]:
    fix = "apt install skopeo, for images from registries and archives"
    place = shutil.which("skopeo", path=fetch_cage.PATH)
    if place is None:
        yield HostCheck("skopeo", False, False, "none", fix)
        return
    try:
        version = caged_version(nearest_directory(settings.data_dir), settings.id_range_start)
    except (OSError, DriverUnavailable) as error:
        yield HostCheck("skopeo", True, False, place, fix)
        fix = "see the lines above; until then only the image `host` and those that are here can be used"
        yield HostCheck("fetch-cage", False, False, str(error), fix)
        return
    yield HostCheck("skopeo", True, False, f"{place} is {version}", fix)
    yield HostCheck("fetch-cage", True, False, "works: skopeo runs in it", "-")


def _unpacking(settings: Settings) -> HostCheck:
    try:
        try_unpacker(
            settings.cache_dir / "closures", nearest_directory(settings.data_dir), settings.id_range_start
        )
    except (OSError, ImportError, subprocess.SubprocessError, DriverUnavailable) as error:
        fix = "mend that; until then no image can be imported, pulled, built or made of a template"
        return HostCheck("layer-cage", False, False, str(error), fix)
    return HostCheck("layer-cage", True, False, "works: layers are unpacked in it", "-")


def _images(settings: Settings) -> Iterator[HostCheck]:
    yield _limits(settings)
    file = sqlite_file(settings)
    if file is not None and not file.exists():
        yield HostCheck("images", True, False, f"none: there is no database {file}", "-")
        return
    try:
        found = asyncio.run(_totals(make_database(settings)))
    except BayError as error:
        yield HostCheck("images", False, False, error.message, "mend the database, or start `bay serve` once")
        return
    yield HostCheck("images", True, False, _in_words(found), "-", numbers=asdict(found))


async def _totals(database: Database) -> ImageTotals:
    async with database.reading() as db:
        return await totals(db, utc_now())


def _in_words(found: ImageTotals) -> str:
    pulling = f" ({found.pulling} more on the way)" if found.pulling else ""
    steps = f", and {found.cached_steps} steps of builds in the cache" if found.cached_steps else ""
    files = f", and {_size(found.workspace_bytes)} of files" if found.templates else ""
    return (
        f"{found.images} of registries and archives{pulling}, {found.templates} of templates, "
        f"{found.layers} layers with {_size(found.layer_bytes)}{files}{steps}; "
        f"`bay image prune` would remove {found.unused}, and free {_size(found.unused_bytes)}"
    )


def _limits(settings: Settings) -> HostCheck:
    fix = "apt install btrfs-progs; modprobe btrfs loop; then use a new data directory"
    try:
        kind = choose_cargo(settings)
    except DriverUnavailable as error:
        return HostCheck("image-limits", False, False, error.message, fix)
    largest = settings.images_max_mb * MIB
    limits = ImageLimits(archive_bytes=largest, layer=LayerLimits(max_bytes=largest))
    numbers = {"layer_bytes": limits.layer.max_bytes, "image_bytes": limits.unpacked_bytes}
    quota = settings.quotas.disk_mb if settings.quotas else None
    if quota is None:
        owner = "no quota `disk_mb` for each owner"
    else:
        numbers["owner_bytes"] = quota * MIB
        owner = f"{_size(quota * MIB)} for the files of each owner"
    found = f"{_STORES[kind]}; {_size(largest)} a layer, {_size(limits.unpacked_bytes)} an image, {owner}"
    return HostCheck("image-limits", kind != "directory", False, found, fix, numbers=numbers)


def _size(count: int) -> str:
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{count / MIB:.1f} MiB"
