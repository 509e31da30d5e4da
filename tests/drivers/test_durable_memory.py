"""Memory that was made durable outlives a boot of the host, once; all other memory is lost with it.

A boot is had by another boot id, a run directory that is gone, and clocks that begin anew.
"""

import json
import os
import platform
import secrets
import shutil
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from oci_bench import OciBench, opening

from bay.drivers.base import Handle, Hibernated, MemoryLost, SessionSpec
from bay.drivers.oci import durable_memory, memory_image
from bay.drivers.oci.driver import OciDriver
from bay.drivers.oci.kept_memory import KeptMemory
from bay.drivers.oci.memory_image import ImageDirectory
from bay.linux import processes
from bay.linux.threads import in_new_thread
from bay.testing.driver_bench import run

pytestmark = [pytest.mark.host, pytest.mark.anyio]

_UP_S = 1_000_000
"""How long the host had run before its boot, in the images."""


class Host:
    """Boots, as far as a driver can see that."""

    def __init__(self, bench: OciBench, boot_id: Path) -> None:
        self.bench = bench
        self.boot_id = boot_id

    @asynccontextmanager
    async def booted(self) -> AsyncGenerator[OciDriver]:
        """A driver after the next boot of the host. Nothing of a session may run."""
        first = self.bench.driver
        self.boot_id.write_text(f"{secrets.token_hex(16)}\n")
        shutil.rmtree(first._layout.run_dir)
        for manifest in first._layout.memories.rglob("manifest.json"):
            found = json.loads(manifest.read_text())
            clocks = {name: value + _UP_S for name, value in found["clocks"].items()}
            manifest.write_text(json.dumps({**found, "clocks": clocks}))
        second = OciDriver(
            root=first._layout.root,
            run_dir=first._layout.run_dir,
            ids_dir=first._ids.directory,
            fork_ships=False,
            criu=first._criu.binary if first._criu else None,
        )
        async with opening(second):
            yield second


@pytest.fixture
def host(oci_criu: OciBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """The host of a bench, whose boot id can be changed."""
    boot_id = tmp_path / "boot_id"
    boot_id.write_text(processes.boot_id())
    monkeypatch.setattr(processes, "_BOOT_ID", boot_id)
    return Host(oci_criu, boot_id)


async def hibernated(bench: OciBench) -> tuple[SessionSpec, Handle]:
    """A session that hibernates, with a word in its memory."""
    spec = bench.spec(savable=True)
    handle = await bench.start(spec)
    await run(handle, "echo in memory > /tmp/file; cat /proc/uptime > /tmp/uptime")
    await bench.driver.hibernate(handle, spec.token)
    return spec, handle


async def woken(driver: OciDriver, spec: SessionSpec, handle: Handle) -> Handle:
    return [one async for one in driver.start(spec, handle)][-1]


def image_of(host: Host, spec: SessionSpec) -> ImageDirectory:
    return ImageDirectory(host.bench.driver._layout.session(spec.session_id).memory)


async def is_durable(image: ImageDirectory) -> bool:
    return await in_new_thread(lambda: image.is_durable)


async def test_what_was_made_durable_goes_on_after_a_boot_and_what_was_not_is_lost(host: Host) -> None:
    kept, kept_handle = await hibernated(host.bench)
    assert await host.bench.driver.make_durable([]) == {kept.session_id}
    assert await host.bench.driver.make_durable([host.bench.workspaces]) == {kept.session_id}
    crashed, crashed_handle = await hibernated(host.bench)
    async with host.booted() as driver:
        assert isinstance(await driver.observe(kept_handle), Hibernated)
        with pytest.raises(MemoryLost, match=r"differs from the one that saved it: boot$"):
            await woken(driver, crashed, crashed_handle)
        await driver.destroy(crashed_handle)
        handle = await woken(driver, kept, kept_handle)
        assert (await run(handle, "cat /tmp/file")).stdout == "in memory\n"
        clock = await run(handle, 'python3 -c "import time; print(time.monotonic())"')
        assert float(clock.stdout) >= _UP_S  # it goes on where it stood, on a host that began anew
        # Used once: the next memory is another one, which nobody made durable.
        await driver.hibernate(handle, kept.token)
        assert not await is_durable(image_of(host, kept))
    async with host.booted() as driver:
        with pytest.raises(MemoryLost, match="boot"):
            await woken(driver, kept, handle)
        await driver.destroy(handle)


def altered(image: Path) -> None:
    with (image / "pages-1.img").open("r+b") as file:
        file.seek(8192)
        file.write(b"altered")


def of_another_build(image: Path) -> None:
    manifest = json.loads((image / "manifest.json").read_text())
    manifest["fingerprint"]["kernel"] += " another build"
    (image / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(("change", "words"), [(altered, r"altered"), (of_another_build, r": kernel$")])
async def test_a_mark_makes_up_for_nothing_but_the_boot(
    host: Host, change: Callable[[Path], None], words: str
) -> None:
    spec, handle = await hibernated(host.bench)
    await host.bench.driver.make_durable([])
    await in_new_thread(lambda: change(image_of(host, spec).path))
    async with host.booted() as driver:
        with pytest.raises(MemoryLost, match=words):
            await woken(driver, spec, handle)
        await driver.destroy(handle)


async def test_memory_that_a_crash_of_the_host_has_cost_is_not_made_good_by_a_mark(host: Host) -> None:
    spec, handle = await hibernated(host.bench)
    async with host.booted() as driver:
        assert await driver.make_durable([]) == set()
        with pytest.raises(MemoryLost, match="boot"):
            await woken(driver, spec, handle)
        await driver.destroy(handle)


async def nothing() -> None:
    """In place of the copy of files."""


async def test_the_memory_of_a_checkpoint_outlives_a_boot_and_what_begins_with_it_does_not(
    host: Host,
) -> None:
    first = host.bench.driver
    spec = host.bench.spec(savable=True)
    handle = await host.bench.start(spec)
    await run(handle, "echo in memory > /tmp/file")
    await first.save_memory(handle, spec.token, "ckpt-durable", nothing)
    assert await first.make_durable([]) == {"ckpt-durable"}  # and not the session, which goes on
    await first.destroy(handle)
    begun = host.bench.spec(savable=True, memory="ckpt-durable")
    async with host.booted() as driver:
        await driver.check_memory("ckpt-durable")
        kept = KeptMemory.of(driver._layout, "ckpt-durable")
        await in_new_thread(
            lambda: kept.lay_down(driver._layout.session(begun.session_id), begun.sandbox_id, None)
        )
        image = image_of(host, begun)
        assert await in_new_thread(lambda: image.is_valid)
        assert not await is_durable(image)
        again = await woken(driver, begun, host.bench.handle(begun.session_id))
        assert (await run(again, "cat /tmp/file")).stdout == "in memory\n"
        await driver.check_memory("ckpt-durable")
        await driver.destroy(again)
        await driver.remove_memory("ckpt-durable")


async def test_the_image_of_a_session_that_goes_on_is_not_marked(host: Host) -> None:
    """It is on its way to a checkpoint, whose layers may be copied after the sync."""
    driver = host.bench.driver
    spec = host.bench.spec(savable=True)
    handle = await host.bench.start(spec)
    marked: list[set[str]] = []
    take = KeptMemory.take

    def taken(kept: KeptMemory, places: object) -> None:
        assert image_of(host, spec).is_valid
        marked.append(
            durable_memory.make_durable(driver._layout, driver._memory.hosts, [], driver._hibernates)
        )
        take(kept, driver._layout.session(spec.session_id))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(KeptMemory, "take", taken)
        await driver.save_memory(handle, spec.token, "ckpt-under-way", nothing)
    assert marked == [set()]
    assert not await is_durable(KeptMemory.of(driver._layout, "ckpt-under-way").image)
    await driver.remove_memory("ckpt-under-way")


async def test_a_mark_comes_after_the_sync_and_without_it_there_is_none(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Bay that is killed half-way leaves the memory as good as it was."""
    spec, handle = await hibernated(host.bench)
    seen: list[bool] = []

    def failing(_: Path) -> None:
        seen.append(image_of(host, spec).is_durable)
        raise OSError(5, os.strerror(5))

    monkeypatch.setattr(durable_memory, "sync_file_system", failing)
    with pytest.raises(Exception, match="outlive a restart"):
        await host.bench.driver.make_durable([])
    assert seen == [False]
    assert not await is_durable(image_of(host, spec))
    again = await woken(host.bench.driver, spec, handle)
    assert (await run(again, "cat /tmp/file")).stdout == "in memory\n"


def test_a_manifest_with_a_mark_is_taken_away_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a crash of the host could bring it back, and the memory would be used twice."""
    synced: list[bool] = []

    def sync(path: Path) -> None:
        synced.append((path / "manifest.json").exists())

    monkeypatch.setattr(memory_image, "sync_directory", sync)
    image = ImageDirectory(tmp_path)
    for is_marked, expected in ((False, []), (True, [False])):
        (tmp_path / "manifest.json").write_text("{}")
        assert not is_marked or image.mark_durable("{}")
        image.take()
        assert synced == expected


def test_the_build_of_the_kernel_is_compared() -> None:
    assert platform.version() in memory_image.fingerprint("container", "4.2").kernel


def test_an_image_that_was_taken_or_made_anew_since_the_sync_gets_no_mark(tmp_path: Path) -> None:
    image = ImageDirectory(tmp_path / "image")
    assert not image.mark_durable("{}")
    image.path.mkdir()
    (image.path / "manifest.json").write_text("{}")
    assert not image.mark_durable("of the one before")
    assert image.mark_durable("{}")
    image.take()
    assert not image.mark_durable("{}")
    image.make(0)
    assert not image.is_durable
