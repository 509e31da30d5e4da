"""The limits of control groups, of either version, as files."""

from pathlib import Path

import pytest

from bay.drivers.base import MemoryInUse
from bay.drivers.oci import cgroup_limits
from bay.models import Resources
from bay.units import MIB

pytestmark = pytest.mark.pure

V2 = {
    "cpu.max": "100000 100000\n",
    "memory.max": f"{256 * MIB}\n",
    "memory.high": "max\n",
    "memory.current": f"{100 * MIB}\n",
    "pids.max": "512\n",
}


def group(mount: Path, files: dict[str, str]) -> Path:
    made = mount / "bay/x/s"
    made.mkdir(parents=True)
    for name, text in files.items():
        (made / name).write_text(text)
    return made


def test_every_limit_of_version_2_is_changed(tmp_path: Path) -> None:
    made = group(tmp_path, V2)
    wanted = Resources(cpus=0.25, memory=128 * MIB, pids=20)
    cgroup_limits.change("/bay/x/s", wanted, tmp_path)
    assert (made / "cpu.max").read_text() == "25000 100000"
    assert (made / "memory.high").read_text() == "max"
    assert cgroup_limits.read("/bay/x/s", tmp_path) == wanted


def test_memory_of_version_2_that_is_in_use_is_not_taken_and_nothing_else_changes(tmp_path: Path) -> None:
    made = group(tmp_path, V2)
    with pytest.raises(MemoryInUse, match="100 MiB of memory, which leaves no way to give it 64 MiB"):
        cgroup_limits.change("/bay/x/s", Resources(cpus=3, memory=64 * MIB, pids=20), tmp_path)
    assert {name: (made / name).read_text().strip() for name in V2} == {n: t.strip() for n, t in V2.items()}


def test_a_group_of_version_1_without_accounting_of_swap_is_changed_too(tmp_path: Path) -> None:
    group(tmp_path / "memory", {"memory.limit_in_bytes": str(256 * MIB)})
    group(tmp_path / "cpu", {"cpu.cfs_quota_us": "100000"})
    group(tmp_path / "pids", {"pids.max": "512"})
    wanted = Resources(cpus=1.5, memory=512 * MIB, pids=33)
    cgroup_limits.change("/bay/x/s", wanted, tmp_path)
    assert cgroup_limits.read("/bay/x/s", tmp_path) == wanted


def test_no_group_has_no_limits_and_takes_any(tmp_path: Path) -> None:
    cgroup_limits.change("/bay/x/s", Resources(), tmp_path)
    assert cgroup_limits.read("/bay/x/s", tmp_path) is None


def test_a_group_without_a_limit_is_not_read_as_one_of_some(tmp_path: Path) -> None:
    group(tmp_path, {**V2, "pids.max": "max\n"})
    assert cgroup_limits.read("/bay/x/s", tmp_path) is None
