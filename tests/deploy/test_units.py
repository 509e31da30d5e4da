"""The units of systemd in deploy/: systemd finds nothing wrong with them, they say why they leave an option
out, and Bay works as they confine it.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import confined
import pytest
import shared_cache
from image_files import ImageFile, layer_of_tree
from image_roots import busybox_root
from serving import KEY, Server, serving

import bay

pytestmark = pytest.mark.docs

DEPLOY = Path(__file__).parents[2] / "deploy"
UNITS = sorted(path.name for path in DEPLOY.glob("bay*.*") if path.suffix in (".service", ".timer"))
EXPOSURE = {"bay.service": 6.6, "bay-backup.service": 1.8}
"""The most that `systemd-analyze security` may find, of 10."""
MOUNT_NAMESPACE = (
    "BindPaths", "BindReadOnlyPaths", "DynamicUser", "ExecPaths", "InaccessiblePaths", "MountFlags", "NoExecPaths",
    "PrivateDevices", "PrivateMounts", "PrivateTmp", "ProcSubset", "ProtectControlGroups", "ProtectHome",
    "ProtectKernelLogs", "ProtectKernelModules", "ProtectKernelTunables", "ProtectProc", "ProtectSystem",
    "ReadOnlyPaths", "ReadWritePaths", "RootDirectory", "RootImage", "TemporaryFileSystem",
)  # fmt: skip


def analyze(*arguments: str) -> str:
    done = subprocess.run(
        ["systemd-analyze", "--no-pager", *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_there_are_a_service_and_a_backup_on_a_timer() -> None:
    assert UNITS == ["bay-backup.service", "bay-backup.timer", "bay.service"]


def test_systemd_finds_nothing_wrong_with_a_unit(tmp_path: Path) -> None:
    for name in UNITS:
        text = (DEPLOY / name).read_text(encoding="utf-8")
        assert ("/usr/local/bin/bay" in text) == name.endswith(".service")
        (tmp_path / name).write_text(text.replace("/usr/local/bin/bay", "/bin/true"))  # it must be there
    assert (
        analyze("verify", "--man=no", "--recursive-errors=no", *(str(tmp_path / name) for name in UNITS))
        == ""
    )


@pytest.mark.parametrize("name", sorted(EXPOSURE))
def test_a_service_is_exposed_no_more_than_it_must_and_says_why(name: str) -> None:
    text = (DEPLOY / name).read_text(encoding="utf-8")
    found = json.loads(analyze("security", "--offline=true", "--json=short", str(DEPLOY / name)))
    table = analyze("security", "--offline=true", str(DEPLOY / name))
    exposure = float(table.rpartition("Overall exposure level for ")[2].split()[1])
    assert exposure <= EXPOSURE[name]
    relaxed = [row["name"] for row in found if row["set"] is False and row["exposure"]]
    assert [option for option in relaxed if not is_explained(option, text)] == []


def is_explained(option: str, text: str) -> bool:
    """Whether the unit names the option, and of system calls the group, in a line or in a comment."""
    name, _, group = option.partition("=~")
    names = [group] if name == "SystemCallFilter" else name.split("/")
    return all(one.rstrip("=") in text for one in names)


def test_bay_has_the_hosts_mounts() -> None:
    lines = (DEPLOY / "bay.service").read_text(encoding="utf-8").splitlines()
    assert {line.partition("=")[0] for line in lines} & {*MOUNT_NAMESPACE} == set()


@contextmanager
def confined_bay() -> Generator[tuple[Path, Server]]:
    """A Bay that has what its unit leaves it, with runc, and a btrfs of its own; and its directory."""
    through = [sys.executable, confined.__file__, str(DEPLOY / "bay.service")]
    with tempfile.TemporaryDirectory(prefix="bay-u-", dir="/tmp") as name:
        Path(name).chmod(0o711)
        settings = {
            "BAY_DRIVER": "oci", "BAY_CARGO_BACKEND": "btrfs", "BAY_POOL_MAX_GB": "1",
            "BAY_CACHE_DIR": str(shared_cache.filled()),
        }  # fmt: skip
        try:
            with serving(Path(name), through=through, **settings) as served:
                yield Path(name), served
                assert served.end() == 0
        finally:
            if os.path.ismount(f"{name}/data/cargo"):  # it was killed
                subprocess.run(["umount", f"{name}/data/cargo"], check=True)


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_sandboxes_images_and_backups_work_as_the_units_confine_them(tmp_path: Path) -> None:
    layout, archive = tmp_path / "layout", tmp_path / "image.tar"
    busybox_root(tmp_path / "root")
    ImageFile(layers=(layer_of_tree(tmp_path / "root"),)).write(layout)
    subprocess.run(["tar", "-C", layout, "-cf", archive, "."], check=True)
    with confined_bay() as (root, served), bay.Client(served.url, KEY) as client:
        status = Path(f"/proc/{served.process.pid}/status").read_text()
        assert "NoNewPrivs:\t1\nSeccomp:\t2\n" in status
        client.images.import_archive(archive, "small:1")
        with client.sandbox(image="small:1") as small:
            assert small.run(["cat", "/etc/os-release"]).stdout == 'PRETTY_NAME="Small"\n'
        with client.sandbox() as box:
            box.files.write("a", b"1")
            made = box.checkpoint()
            box.files.write("a", b"2")
            box.restore(made)
            assert box.run("cat a; id -u").stdout == "11000\n"
            box.pause()
            assert box.run("ip -brief address show lo || true; echo thawed").stdout.endswith("thawed\n")
            backed_up(root)


def backed_up(root: Path) -> None:
    """Back up with the files, as the unit of the backup confines it."""
    command = [Path(sys.executable).with_name("bay"), "admin", "backup", "--with-files", "--keep", "1", root]
    done = subprocess.run(
        [
            sys.executable,
            confined.__file__,
            DEPLOY / "bay-backup.service",
            *command,
            "--data-dir",
            root / "data",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "with 1 workspaces" in done.stdout
