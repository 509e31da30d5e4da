"""A driver `oci` with real runc to test, for every folder of tests that needs one."""

import asyncio
import os
import platform
import secrets
import shutil
import tempfile
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import pytest
import shared_cache
from blockbuster import blockbuster_ctx
from image_roots import TestImage

from bay.drivers.base import ImageRoot
from bay.drivers.oci import closure, seccomp
from bay.drivers.oci.driver import OciDriver
from bay.drivers.oci.memory_image import fingerprint
from bay.drivers.oci.zygote import Zygote
from bay.linux.threads import in_new_thread
from bay.network.manager import NetworkManager
from bay.testing.driver_bench import DriverBench

B = TypeVar("B", bound=DriverBench)


@dataclass(frozen=True, slots=True)
class OciBench(DriverBench):
    """A bench whose driver shares this network with others of the same Bay."""

    driver: OciDriver
    network: NetworkManager | None = None


@pytest.fixture(scope="session")
def oci_root() -> Generator[Path]:
    """The data directory of every OciDriver of this worker, with Ship's closure and the image."""
    root = Path(tempfile.mkdtemp(prefix="bay-test-"))
    if _can_run():
        for name in ("closures", "images"):
            (root / name).symlink_to(shared_cache.filled() / name)
    yield root
    shutil.rmtree(root)


class LentZygote(Zygote):
    """A zygote that outlives the drivers that have it."""

    def close(self) -> None:
        """A driver that ends returns it."""

    def end(self) -> None:
        """End it."""
        super().close()


@pytest.fixture(scope="module")
def lent_zygote(oci_root: Path) -> Generator[LentZygote | None]:
    """A zygote for all drivers of a file of tests, which would start one for each test."""
    if not _can_run():
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="bay-z-") as stage:
        machine = platform.machine()
        bundle = closure.build(oci_root / "closures")
        zygote = LentZygote(bundle, Path(stage), machine, seccomp.profile(machine))
        yield zygote
        zygote.end()


@pytest.fixture
def workspaces() -> Generator[Path]:
    """Where workspaces are made; short, because a socket's path may be 107 bytes at most."""
    directory = Path(tempfile.mkdtemp(prefix="bay-ws-"))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
async def oci(workspaces: Path, oci_root: Path, lent_zygote: LentZygote | None) -> AsyncGenerator[OciBench]:
    """An OciDriver with real runc, on the real host."""
    async for bench in real_oci(workspaces, oci_root, fork_ships=True, zygote=lent_zygote):
        yield bench


@pytest.fixture
async def oci_criu(
    workspaces: Path, oci_root: Path, lent_zygote: LentZygote | None, criu_program: str
) -> AsyncGenerator[OciBench]:
    """The same with sessions that can hibernate."""
    async for bench in real_oci(workspaces, oci_root, fork_ships=True, zygote=lent_zygote, criu=criu_program):
        assert bench.driver.capabilities.memory == ("container",)
        yield bench


@pytest.fixture
async def oci_debian(
    workspaces: Path, oci_root: Path, lent_zygote: LentZygote | None, debian_image: TestImage
) -> AsyncGenerator[OciBench]:
    """The same with sessions of a Debian image."""
    root = debian_image.root()
    async for bench in real_oci(workspaces, oci_root, fork_ships=True, zygote=lent_zygote, root=root):
        yield bench


@pytest.fixture(params=["oci", "oci_debian"])
def any_image(request: pytest.FixtureRequest) -> OciBench:
    """An OciDriver with sessions of the host's image, and of a Debian one."""
    chosen: OciBench = request.getfixturevalue(request.param)
    return chosen


@pytest.fixture
async def oci_musl(workspaces: Path, oci_root: Path, musl_image: TestImage) -> AsyncGenerator[OciBench]:
    """The same with sessions of a small image, and runc starts each Ship."""
    async for bench in real_oci(workspaces, oci_root, fork_ships=False, root=musl_image.root()):
        yield bench


@pytest.fixture
async def oci_by_runc(workspaces: Path, oci_root: Path) -> AsyncGenerator[OciBench]:
    """An OciDriver as on a host that has no zygote: runc starts each Ship."""
    async for bench in real_oci(workspaces, oci_root, fork_ships=False):
        yield bench


@pytest.fixture
async def oci_gvisor(workspaces: Path, oci_root: Path) -> AsyncGenerator[OciBench]:
    """An OciDriver whose sessions run in gVisor."""
    if shutil.which("runsc") is None:
        pytest.skip("needs runsc; apt-get install runsc")
    async for bench in real_oci(workspaces, oci_root, fork_ships=False, isolation="gvisor"):
        yield bench


@pytest.fixture
async def oci_gvisor_memory(workspaces: Path, oci_root: Path) -> AsyncGenerator[OciBench]:
    """The same, whose memory can be saved, as after a trial."""
    if shutil.which("runsc") is None:
        pytest.skip("needs runsc; apt-get install runsc")
    async for bench in real_oci(workspaces, oci_root, fork_ships=False, isolation="gvisor"):
        driver = bench.driver
        driver._memory.hosts["gvisor"] = await in_new_thread(lambda: fingerprint("gvisor", "runsc"))
        driver.capabilities = replace(driver.capabilities, memory=("gvisor",))
        yield bench


def _can_run() -> bool:
    return os.getuid() == 0 and shutil.which("runc") is not None


async def real_oci(
    workspaces: Path,
    oci_root: Path,
    *,
    fork_ships: bool,
    zygote: LentZygote | None = None,
    root: ImageRoot | None = None,
    isolation: str = "container",
    criu: str | None = None,
) -> AsyncGenerator[OciBench]:
    """An OciDriver with real runc, for a fixture of any scope, and nothing left of it afterwards."""
    if not _can_run():
        pytest.skip("the oci driver needs root and runc")
    run_dir = Path("/run/bay") / f"t-{secrets.token_hex(4)}"
    ids = run_dir.with_suffix(".ids")
    network = NetworkManager(instance=run_dir.name[2:6])
    driver = OciDriver(
        root=oci_root,
        run_dir=run_dir,
        ids_dir=ids,
        network=network,
        fork_ships=fork_ships,
        runsc_binary="runsc" if isolation == "gvisor" else None,
        criu=criu,
    )
    driver._zygote = zygote
    async for bench in opened(
        OciBench(
            driver, workspaces, (oci_root, run_dir, ids), run_dir.name, 1000, root, isolation, network=network
        )
    ):
        yield bench


@asynccontextmanager
async def opening(driver: OciDriver) -> AsyncGenerator[OciDriver]:
    """A second driver of a test, open. It ends its zygote alone: it shares all else with the first."""
    await driver.open()
    try:
        yield driver
    finally:
        if (zygote := driver._zygote) is not None:
            await in_new_thread(zygote.close)


async def opened(bench: B) -> AsyncGenerator[B]:
    """The bench with its driver open, and nothing left of it afterwards."""
    async with asyncio.timeout(60):
        await bench.driver.open()
    try:
        with blockbuster_ctx(
            "bay", excluded_modules=["bay.testing"]
        ):  # a call that blocks the event loop fails the test
            yield bench
    finally:
        async with asyncio.timeout(60):
            await bench.clear()
            await bench.driver.aclose()
        for directory in bench.kept[-2:] if len(bench.kept) > 1 else bench.kept:
            shutil.rmtree(directory, ignore_errors=True)
