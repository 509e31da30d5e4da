"""The writable layers of the root file system, where they outlive the session: what root changed is there the
next time.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from debian_package import build_package

from bay.drivers.base import Handle
from bay.drivers.oci.rootfs import Layer, Rootfs, prepare_writable
from bay.errors import DriverUnavailable
from bay.places import directory_of
from bay.testing.driver_bench import DriverBench, run

pytestmark = [pytest.mark.host, pytest.mark.anyio]


@pytest.fixture
def machine(workspaces: Path) -> Path:
    """A directory for the layers, as a cargo backend gives it."""
    directory = workspaces / "machine"
    directory.mkdir(mode=0o700)
    return directory


def only(layer: Layer) -> Rootfs:
    return Rootfs((layer,), (), "options")


async def root(handle: Handle, command: str) -> str:
    """What root inside got, of a command that must succeed."""
    answer = await run(handle, command, user="root")
    assert answer.exit_code == 0, answer
    return answer.stdout


async def test_what_root_installed_edited_and_deleted_is_there_after_a_stop(
    oci: DriverBench, machine: Path
) -> None:
    first = oci.spec(machine=machine)
    build_package(directory_of(first.workspace))
    handle = await oci.start(first)
    await root(handle, "echo 'deb [trusted=yes] file:/workspace/repo ./' > /etc/apt/sources.list.d/own.list")
    await root(handle, "apt-get -q update && apt-get -qy install bay-probe")
    await root(handle, "echo more >> /etc/profile && rm /etc/inputrc /usr/bin/yes && mkdir -p /opt/ann/x")
    await root(handle, "mv /etc/fonts /etc/letters && ln /opt/ann/x/../../../etc/profile /etc/profile.link")
    await oci.driver.stop(handle, 2)
    await oci.driver.destroy(handle)
    async with oci.session(machine=machine, workspace=first.workspace) as again:
        answer = await run(
            again, "bay-probe; tail -n1 /etc/profile; ls /etc/letters /opt/ann; ls /etc/inputrc"
        )
        assert answer.stdout.split()[:2] == ["installed", "more"]
        assert "x" in answer.stdout.split()
        assert "No such file" in answer.stderr
        assert (await run(again, "command -v yes")).stdout == ""
        assert await root(again, "stat -c %h /etc/profile") == "2\n"
        assert "bay-probe" in await root(again, "dpkg -l bay-probe | tail -n1; apt-get -qy remove bay-probe")


async def test_without_a_machine_nothing_but_the_workspace_outlives_a_session(oci: DriverBench) -> None:
    spec = oci.spec()
    handle = await oci.start(spec)
    await root(handle, "touch /etc/changed /workspace/kept")
    await oci.driver.destroy(handle)
    async with oci.session(workspace=spec.workspace) as again:
        assert (await run(again, "ls /workspace /etc/changed")).stdout.split() == ["/workspace:", "kept"]


async def test_a_root_that_was_made_unbootable_starts_all_the_same(oci: DriverBench, machine: Path) -> None:
    """Root may do what it likes to its own layer, also what the next start would stumble over or wait for."""
    upper = machine / "root/upper"
    upper.mkdir(parents=True)
    for name in ("dev", "proc", "tmp", "workspace", ".ship"):
        (upper / name).symlink_to("/etc")
    os.mknod(upper / "usr", 0o600 | 0o020000, os.makedev(0, 0))  # a deleted directory
    (upper / "etc").mkdir()
    os.mkfifo(upper / "etc/passwd")
    async with oci.session(machine=machine) as handle:
        assert (await run(handle, "id -un; ls -d /usr/bin; ls /dev/null")).stdout.split() == [
            "ship", "/usr/bin", "/dev/null",
        ]  # fmt: skip


@pytest.mark.parametrize("place", ["root", "root/upper", "usr"])
async def test_a_layer_that_is_a_link_shows_nothing_of_the_host(
    oci: DriverBench, machine: Path, place: str
) -> None:
    """As an imported checkpoint could have it."""
    secret = oci.workspaces / "host-secret"
    (secret / "upper").mkdir(parents=True)
    (machine / place).parent.mkdir(exist_ok=True)
    (machine / place).symlink_to(secret)
    spec = oci.spec(machine=machine)
    with pytest.raises(DriverUnavailable, match=r"Not a directory|is no directory"):
        await oci.start(spec)
    await oci.driver.destroy(oci.handle(spec.session_id))
    assert sorted(os.listdir(secret)) == ["upper"]
    assert os.listdir(secret / "upper") == []


def test_a_lasting_layer_loses_its_work_however_deep_it_is(tmp_path: Path) -> None:
    layer = Layer("/usr", (tmp_path / "lower",), tmp_path / "writable", lasting=True)
    (layer.writable / "upper").mkdir(parents=True)
    dig = "import os\nos.mkdir('work')\nos.chdir('work')\nfor i in range(1500): os.mkdir('d'); os.chdir('d')"
    subprocess.run([sys.executable, "-c", dig], cwd=layer.writable, check=True, timeout=30)
    prepare_writable(only(layer))
    assert os.listdir(layer.writable / "work") == []


def test_a_link_in_place_of_a_lasting_layers_work_leads_nowhere(tmp_path: Path) -> None:
    layer = Layer("/usr", (tmp_path / "lower",), tmp_path / "writable", lasting=True)
    (layer.writable / "upper").mkdir(parents=True)
    (tmp_path / "mine/kept").mkdir(parents=True)
    (layer.writable / "work").symlink_to(tmp_path / "mine")
    prepare_writable(only(layer))
    assert (tmp_path / "mine/kept").is_dir()
    assert not (layer.writable / "work").is_symlink()


def test_a_lasting_layer_keeps_its_upper_and_loses_its_work(tmp_path: Path) -> None:
    layer = Layer("/usr", (tmp_path / "lower",), tmp_path / "writable", lasting=True)
    prepare_writable(only(layer))
    (layer.writable / "upper/kept").touch()
    (layer.writable / "work/half").mkdir(mode=0)
    prepare_writable(only(layer))
    assert os.listdir(layer.writable / "upper") == ["kept"]
    assert os.listdir(layer.writable / "work") == []
