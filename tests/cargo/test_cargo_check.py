"""`check` sees what is wrong with what keeps the cargos, and says the way out."""

import asyncio
import os
import subprocess
from collections.abc import Generator
from pathlib import Path

import pytest

from bay.cargo import backend_detection
from bay.cargo.backend_detection import DirectoryFacts, Kind, Setting, decide
from bay.cargo.fsck import check
from bay.errors import DriverUnavailable
from bay.ids import new_id
from pools import make, needs_btrfs, unmounted_after

CAN, CANNOT = None, "there is no btrfs"


@pytest.fixture
def data_dir(tmp_path: Path) -> Generator[Path]:
    made = tmp_path / "data"
    made.mkdir()
    with unmounted_after(made):
        yield made


@needs_btrfs
def test_a_sound_pool_has_nothing_but_good_findings_whether_bay_runs_or_not(data_dir: Path) -> None:
    cargo = make("btrfs", data_dir)
    asyncio.run(cargo.open())
    asyncio.run(cargo.create(new_id("ws")))
    assert levels(data_dir) == {"ok"}
    asyncio.run(cargo.aclose())
    assert levels(data_dir) == {"ok"}
    assert any("btrfs check found nothing" in finding.seen for finding in check(data_dir))


@needs_btrfs
def test_a_damaged_pool_a_lost_one_and_a_strange_mount_are_errors_with_a_way_out(data_dir: Path) -> None:
    cargo = make("btrfs", data_dir)
    asyncio.run(cargo.open())
    asyncio.run(cargo.aclose())
    backend_detection.record(data_dir, "pool")
    with (data_dir / "pool.img").open("r+b") as file:
        file.seek(65536)
        file.write(os.urandom(4096))
    assert "copy" in error_of(data_dir, "file system")
    subprocess.run(["mount", "-t", "tmpfs", "none", str(data_dir / "cargo")], check=True, timeout=30)
    assert "umount" in error_of(data_dir, "mount")
    subprocess.run(["umount", str(data_dir / "cargo")], check=True, timeout=30)
    (data_dir / "pool.img").unlink()
    assert "put the file back" in error_of(data_dir, "pool")


@needs_btrfs
def test_the_files_of_a_stopped_bay_are_seen_and_nothing_stays_mounted(data_dir: Path) -> None:
    cargo, ws = make("btrfs", data_dir), new_id("ws")
    asyncio.run(cargo.open())
    asyncio.run(cargo.create(ws))
    asyncio.run(cargo.aclose())
    with backend_detection.files_of(data_dir) as files:
        assert ws in os.listdir(files)
    assert os.listdir(data_dir / "cargo") == []


@pytest.mark.parametrize(
    ("setting", "facts", "kind"),
    [
        ("auto", DirectoryFacts(lacking=CAN), "pool"),
        ("auto", DirectoryFacts(lacking=CANNOT), "directory"),
        ("auto", DirectoryFacts(lacking=CAN, on_btrfs=True), "btrfs"),
        ("auto", DirectoryFacts(lacking=CANNOT, on_btrfs=True), "directory"),
        ("auto", DirectoryFacts(lacking=CAN, has_cargos=True), "directory"),
        ("auto", DirectoryFacts(lacking=CANNOT, has_pool=True), "pool"),
        ("auto", DirectoryFacts(lacking=CAN, recorded="directory"), "directory"),
        ("btrfs", DirectoryFacts(lacking=CAN), "pool"),
        ("btrfs", DirectoryFacts(lacking=CAN, recorded="btrfs"), "btrfs"),
        ("directory", DirectoryFacts(lacking=CAN, on_btrfs=True), "directory"),
        ("directory", DirectoryFacts(lacking=CAN, recorded="pool"), None),
        ("btrfs", DirectoryFacts(lacking=CAN, has_cargos=True), None),
        ("btrfs", DirectoryFacts(lacking=CANNOT), None),
    ],
)
def test_a_data_directory_has_the_backend_it_once_had(
    setting: Setting, facts: DirectoryFacts, kind: Kind | None
) -> None:
    if kind is None:
        with pytest.raises(DriverUnavailable, match="set it to auto"):
            decide(setting, facts)
    else:
        assert decide(setting, facts) == kind


def test_what_was_chosen_is_read_again_and_nonsense_says_the_way_out(tmp_path: Path) -> None:
    for kind in ("pool", "directory"):
        backend_detection.record(tmp_path, kind)
        assert backend_detection.look(tmp_path).recorded == kind
    (tmp_path / "cargo.json").write_text("{")
    with pytest.raises(DriverUnavailable, match="names no backend; put"):
        backend_detection.look(tmp_path)
    assert {finding.level for finding in check(tmp_path)} == {"error"}


def levels(data_dir: Path) -> set[str]:
    return {finding.level for finding in check(data_dir)}


def error_of(data_dir: Path, what: str) -> str:
    """The way out of the error of that name."""
    (found,) = [finding for finding in check(data_dir) if finding.level == "error" and finding.what == what]
    return found.way_out
