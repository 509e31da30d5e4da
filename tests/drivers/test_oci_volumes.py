"""Volumes of real containers: mounted where they were asked for, id-mapped, and past no link of a tenant."""

import os
from pathlib import Path

import pytest

from bay.drivers.base import MountedVolume
from bay.errors import Conflict
from bay.linux import mounts
from bay.places import directory_of
from bay.testing.driver_bench import DriverBench, run

pytestmark = [pytest.mark.host, pytest.mark.anyio]


def volume(bench: DriverBench, path: str, *, read_only: bool = False) -> MountedVolume:
    """A directory of uid 1000 inside, beside the workspaces."""
    source = bench.workspaces / f"volume{path.replace('/', '-')}"
    source.mkdir(exist_ok=True)
    os.chown(source, 1000, 1000)
    return MountedVolume(path=path, source=source, read_only=read_only)


async def test_volumes_are_at_their_paths_with_the_owners_that_are_on_the_disk(oci: DriverBench) -> None:
    paths = ("/data", "/srv/deep/er", "/usr/local/models", "/var/lib/cache")
    volumes = tuple(volume(oci, path) for path in paths)
    async with oci.session(volumes=volumes) as handle:
        for one in volumes:
            assert (await run(handle, f"echo hi > {one.path}/file; true")).exit_code == 0
            written = (directory_of(one.source) / "file").stat()
            assert ((directory_of(one.source) / "file").read_text(), written.st_uid, written.st_gid) == (
                "hi\n",
                1000,
                1000,
            )
        seen = await run(handle, "stat -c '%u %a' /data /srv/deep /srv; cat /proc/self/mountinfo")
        assert seen.stdout.startswith("1000 755\n0 755\n0 755\n")
        for path in paths:
            (line,) = (line for line in seen.stdout.splitlines() if f" {path} " in line)
            assert {"rw", "nosuid", "nodev", "idmapped"} <= set(line.split()[5].split(",")) | {"idmapped"}


async def test_a_read_only_volume_is_read_and_not_written_by_root_either(oci: DriverBench) -> None:
    one = volume(oci, "/data", read_only=True)
    (directory_of(one.source) / "file").write_text("hi\n")
    async with oci.session(volumes=(one,)) as handle:
        assert (await run(handle, "cat /data/file")).stdout == "hi\n"
        for user in ("ship", "root"):
            for command in (
                "echo x > /data/file",
                "touch /data/new",
                "mount -o remount,rw /data",
                "umount /data",
            ):
                assert (await run(handle, command, user=user)).exit_code != 0
        assert [path.name for path in directory_of(one.source).iterdir()] == ["file"]


async def test_two_sessions_see_each_others_files_in_a_volume(oci: DriverBench) -> None:
    writer, reader = volume(oci, "/data"), volume(oci, "/data", read_only=True)
    async with oci.session(volumes=(writer,)) as one, oci.session(volumes=(reader,)) as other:
        await run(one, "echo live > /data/file")
        assert (await run(other, "cat /data/file")).stdout == "live\n"


@pytest.mark.parametrize(
    "prepared",
    [
        "ln -s /etc /data",
        "ln -s /proc/1/root /data",
        "ln -s ../../../../../../tmp /data",
        "ln -s /workspace /data",
        "touch /data",
        "mkfifo /data",
    ],
)
async def test_what_a_tenant_put_at_the_mount_point_is_not_followed(
    oci: DriverBench, tmp_path: Path, prepared: str
) -> None:
    machine = oci.workspaces / "machine"
    machine.mkdir()
    first = oci.spec(machine=machine)
    handle = await oci.start(first)
    assert (await run(handle, f"{prepared}; ln -s /data /way", user="root")).exit_code == 0
    await oci.driver.destroy(handle)
    before = sorted(os.listdir("/etc")), sorted(os.listdir("/tmp"))
    for path in ("/data", "/data/below", "/way", "/way/below"):
        spec = oci.spec(machine=machine, volumes=(volume(oci, path),))
        with pytest.raises(Conflict, match="a symbolic link or a file is in the way"):
            await oci.start(spec)
        await oci.driver.destroy(oci.handle(spec.session_id))
    assert "below" not in os.listdir("/etc")
    assert "below" not in os.listdir("/tmp")
    assert before[0] == sorted(os.listdir("/etc"))
    assert not (directory_of(first.workspace) / "below").exists()
    handle = await oci.start(oci.spec(machine=machine, volumes=(volume(oci, "/other"),)))
    assert (await run(handle, "touch /other/fine")).exit_code == 0


async def test_the_path_of_an_images_own_link_is_refused_in_words(oci: DriverBench) -> None:
    spec = oci.spec(volumes=(volume(oci, "/lib/x"),))
    with pytest.raises(Conflict, match="the volume at /lib/x cannot be mounted"):
        await oci.start(spec)


async def test_a_mount_point_stays_an_empty_directory_where_the_root_is_kept(oci: DriverBench) -> None:
    machine = oci.workspaces / "machine"
    machine.mkdir()
    handle = await oci.start(oci.spec(machine=machine, volumes=(volume(oci, "/data"),)))
    await run(handle, "echo x > /data/file")
    await oci.driver.destroy(handle)
    handle = await oci.start(oci.spec(machine=machine))
    assert (await run(handle, "ls -la /data | wc -l; stat -c '%u %a' /data")).stdout == "3\n0 755\n"


async def test_without_the_guard_a_link_would_be_followed(
    oci: DriverBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = oci.workspaces / "machine"
    machine.mkdir()
    handle = await oci.start(oci.spec(machine=machine))
    await run(handle, "mkdir /target; ln -s target /data", user="root")
    await oci.driver.destroy(handle)
    real = mounts.openat2

    def following(root: int, path: bytes, flags: int, **options: bool) -> int:
        return real(root, path, flags, **{**options, "links": True})

    monkeypatch.setattr(mounts, "openat2", following)
    handle = await oci.start(oci.spec(machine=machine, volumes=(volume(oci, "/data"),)))
    assert (await run(handle, "touch /target/there")).exit_code == 0
