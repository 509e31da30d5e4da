"""The usage of control groups, of either version, as files."""

from pathlib import Path

import pytest

from bay.drivers.oci import cgroup_usage
from bay.models import Resources
from ship_protocol import usage

pytestmark = pytest.mark.pure


def group(mount: Path, files: dict[str, str]) -> None:
    made = mount / "bay/x/s"
    made.mkdir(parents=True)
    for name, text in files.items():
        (made / name).write_text(text)


def figures(mount: Path) -> tuple[object, ...]:
    found = cgroup_usage.read("/bay/x/s", mount)
    assert found is not None
    return found.cpu_usec, found.memory_bytes, found.memory_cache_bytes, found.pids, found.limits


def test_version_2_has_every_figure_in_one_group(tmp_path: Path) -> None:
    group(
        tmp_path,
        {
            "cpu.stat": "usage_usec 1234567\nuser_usec 1000000\nnr_periods 9\n",
            "cpu.max": "50000 100000\n",
            "memory.current": "7000000\n",
            "memory.stat": "anon 1000000\nfile 5000000\nshmem 2000000\n",
            "memory.max": "9000000\n",
            "pids.current": "12\n",
            "pids.max": "64\n",
        },
    )
    limits = Resources(cpus=0.5, memory=9_000_000, pids=64)
    assert figures(tmp_path) == (1_234_567, 7_000_000, 3_000_000, 12, limits)


def test_version_1_has_them_in_several_hierarchies(tmp_path: Path) -> None:
    statistics = "cache 1\nshmem 1\ntotal_cache 5000000\ntotal_shmem 2000000\n"
    memory = {"memory.usage_in_bytes": "7000000\n", "memory.stat": statistics}
    group(tmp_path / "cpu,cpuacct", {"cpuacct.usage": "1234567890\n", "cpu.stat": "nr_periods 9\n"})
    group(tmp_path / "memory", memory)
    group(tmp_path / "pids", {"pids.current": "12\n"})
    assert figures(tmp_path) == (1_234_567, 7_000_000, 3_000_000, 12, None)


def test_figures_that_are_missing_are_unknown_and_a_missing_group_has_none(tmp_path: Path) -> None:
    assert cgroup_usage.read("/bay/x/s", tmp_path) is None
    group(tmp_path, {"pids.current": "12\n", "cpu.stat": "nr_periods 9\n", "memory.stat": "anon 1\n"})
    assert figures(tmp_path) == (None, None, None, 12, None)


def test_a_container_sees_its_own_groups_and_a_host_is_no_container(tmp_path: Path) -> None:
    first, second, host = (tmp_path / name for name in ("version-1", "version-2", "host"))
    for directory in (first / "cpuacct", first / "memory", first / "devices", second, host):
        directory.mkdir(parents=True)
    (first / "cpuacct/cpuacct.usage").write_text("5000\n")
    (first / "memory/memory.usage_in_bytes").write_text("70\n")
    for mount in (second, host):
        (mount / "cgroup.controllers").write_text("cpu memory\n")
        (mount / "cpu.stat").write_text("usage_usec 8\n")
    (second / "cgroup.events").write_text("populated 1\n")
    assert usage.read(usage.own_groups(first)) == (5, 70, None, None)
    assert usage.read(usage.own_groups(second)) == (8, None, None, None)
    assert usage.read(usage.own_groups(host)) == (None, None, None, None)
