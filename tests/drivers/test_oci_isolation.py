"""What a sandbox of the `oci` driver cannot do, beside the suite of the walls.

Refusals are not enough on a kernel that lacks the thing: where a line of the seccomp profile is the
protection, the same attempt is made once with that line taken out, and must then get further.
"""

import errno
import os
import secrets
import shlex
import shutil
import subprocess
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from oci_bench import opening

from bay.drivers.base import Handle
from bay.drivers.oci import seccomp
from bay.drivers.oci.driver import OciDriver
from bay.linux.btrfs import are_quotas_on
from bay.places import directory_of
from bay.testing.driver_bench import DriverBench, run
from bay.testing.walls import REFUSED, errno_of
from bay.units import MIB

pytestmark = [pytest.mark.host, pytest.mark.anyio, pytest.mark.long]

# What removes one protection; and the attempt that it stops. Each is seen to get further without it.
TEETH: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "add_key": lambda profile: _allowing(profile, "add_key"),
    "btrfs subvolume create": lambda profile: _allowing(profile, "ioctl"),
    "btrfs ioctl with bit 32 set": lambda profile: _allowing(profile, "ioctl"),
    "clone of a user namespace": lambda profile: _allowing(profile, "clone"),
    "keyctl": lambda profile: _allowing(profile, "keyctl"),
    "open_by_handle_at": lambda profile: _allowing(profile, "open_by_handle_at"),
    "personality of 32 bits": lambda profile: _allowing(profile, "personality"),
    "socket of AF_ALG": lambda profile: _allowing(profile, "socket"),
    "socket of AF_VSOCK": lambda profile: _allowing(profile, "socket"),
    "socket of nftables": lambda profile: _allowing(profile, "socket"),
    "unshare of a user namespace": lambda profile: _allowing(profile, "unshare"),
    "userfaultfd": lambda profile: _allowing(profile, "userfaultfd"),
}


@pytest.fixture
def btrfs(tmp_path: Path) -> Generator[Path]:
    """A small btrfs with simple quotas, on a loop device."""
    if shutil.which("mkfs.btrfs") is None:
        pytest.skip("needs btrfs-progs")
    image, mount = tmp_path / "image", tmp_path / "btrfs"
    mount.mkdir()
    with image.open("wb") as file:
        file.truncate(2 << 30)
    _do("mkfs.btrfs", "-q", str(image))
    _do("mount", "-o", "loop", str(image), str(mount))
    try:
        _do("btrfs", "quota", "enable", "--simple", str(mount))
        yield mount
    finally:
        _do("umount", str(mount))


@pytest.mark.parametrize("name", TEETH)
async def test_without_its_line_of_the_profile_the_attempt_gets_further(oci: DriverBench, name: str) -> None:
    async with _weaker(oci, TEETH[name]) as handle:
        assert await errno_of(handle, REFUSED[name]) != errno.EPERM


@pytest.fixture
async def of_the_host(oci: DriverBench) -> AsyncGenerator[Handle]:
    """A running session of the host's own image."""
    async with oci.session() as handle:
        yield handle


async def test_nothing_of_the_host_but_usr_is_there(of_the_host: Handle, workspaces: Path) -> None:
    inside = of_the_host
    canary = f"canary-{secrets.token_hex(8)}"
    (workspaces / canary).touch()
    names = set((await run(inside, "ls -A /", user="root")).stdout.split())
    assert names == {
        *[
            ".ship",
            ".ship-run",
            "bin",
            "dev",
            "etc",
            "home",
            "lib",
            "lib64",
            "mnt",
            "opt",
            "proc",
            "root",
            "run",
            "sbin",
            "srv",
            "sys",
            "tmp",
            "usr",
            "var",
            "workspace",
        ]
    }
    found = await run(
        inside, f"find / -xdev -name '{canary}'; ls -A /sys /home /mnt /opt /srv /root", user="root"
    )
    assert canary not in found.stdout
    assert "\n\n" in found.stdout
    assert (await run(inside, "cat /etc/machine-id; ls /etc/ssl/private", user="root")).stdout == ""
    shadow = (await run(inside, "cat /etc/shadow", user="root")).stdout.splitlines()
    assert {line.partition(":")[2] for line in shadow} == {"*:::::::"}  # no hash of anybody's password


async def test_what_root_does_to_usr_stays_inside(oci: DriverBench) -> None:
    host = Path("/usr/bin/env").read_bytes()
    async with oci.session() as first, oci.session() as second:
        done = await run(
            first,
            "echo evil > /usr/bin/env; rm -rf /usr/share; touch /usr/new && cat /usr/bin/env",
            user="root",
        )
        assert done.stdout == "evil\n"
        assert Path("/usr/bin/env").read_bytes() == host
        assert Path("/usr/share").is_dir()
        assert not Path("/usr/new").exists()
        assert (await run(second, "/usr/bin/env true && ls -d /usr/share")).exit_code == 0


async def test_files_are_owned_by_inside_ids_on_disk_and_hidden_from_the_hosts_users(
    oci: DriverBench, oci_root: Path
) -> None:
    spec = oci.spec()
    handle = await oci.start(spec)
    await run(handle, "touch mine")
    await run(handle, "touch roots; chmod 4755 roots", user="root")
    assert (directory_of(spec.workspace) / "mine").stat().st_uid == 1000
    assert (directory_of(spec.workspace) / "roots").stat().st_uid == 0
    assert (oci_root / "sessions").stat().st_mode & 0o777 == 0o700


async def test_a_flood_of_the_root_file_system_stops_at_the_layers_limit(
    oci: DriverBench, btrfs: Path
) -> None:
    run_dir, ids = oci.kept[1:]
    driver = OciDriver(root=btrfs, cache=oci.kept[0], run_dir=run_dir, ids_dir=ids)
    bench = DriverBench(driver, oci.workspaces, (btrfs, run_dir, ids), oci.instance, 1000)
    assert are_quotas_on(btrfs)
    async with opening(driver), bench.session(layer_bytes=64 * MIB) as handle:
        flood = (
            "dd if=/dev/zero of=/usr/flood bs=1M count=10240; dd if=/dev/zero of=/opt/flood bs=1M count=10240"
        )
        await run(handle, f"{flood}; sync", user="root")
        sizes = await run(handle, "stat -c %s /usr/flood /opt/flood", user="root")
        assert sum(map(int, sizes.stdout.split())) <= 65 * MIB
        assert (await run(handle, "echo alive > /workspace/x; cat /workspace/x")).stdout == "alive\n"
    assert os.listdir(btrfs / "sessions") == []


async def test_a_deep_tree_of_odd_modes_is_removed(oci: DriverBench) -> None:
    spec = oci.spec()
    handle = await oci.start(spec)
    dig = "import os\nos.chdir('/opt')\nfor i in range(3000):\n os.mkdir('d'); os.chdir('d')\n"
    made = await run(
        handle,
        f"python3 -c {shlex.quote(dig)}; mkdir -m 0 /opt/none; ln -s / /opt/link; mkfifo /opt/fifo",
        user="root",
    )
    assert made.exit_code == 0, made
    await oci.driver.destroy(handle)
    assert Path("/usr/bin").is_dir()
    assert [one async for one in oci.driver.list_owned()] == []


def _do(*command: str) -> None:
    subprocess.run(command, check=True, timeout=60, capture_output=True)


def _allowing(profile: dict[str, Any], name: str) -> dict[str, Any]:
    lines = [line for line in profile["syscalls"] if line["names"] != [name]]
    return {**profile, "syscalls": [*lines, {"names": [name], "action": "SCMP_ACT_ALLOW"}]}


@asynccontextmanager
async def _weaker(
    bench: DriverBench, change: Callable[[dict[str, Any]], dict[str, Any]]
) -> AsyncGenerator[Handle]:
    """A session of a driver whose profile lacks a line."""
    root, run_dir, ids = bench.kept
    driver = OciDriver(
        root=root,
        run_dir=run_dir,
        ids_dir=ids,
        seccomp_profile=lambda machine: change(seccomp.profile(machine)),
    )
    weaker = DriverBench(driver, bench.workspaces, bench.kept, bench.instance, 1000)
    async with opening(driver), weaker.session() as handle:
        yield handle
