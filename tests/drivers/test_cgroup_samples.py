"""The counters of many control groups, of either version, as files."""

from pathlib import Path

import pytest

from bay.drivers.base import SessionSample
from bay.drivers.oci import cgroup_samples

pytestmark = pytest.mark.pure

PARENT = "/bay/x"
DISKS_1 = (
    "8:0 Read 4096\n8:0 Write 512\n8:0 Sync 4608\n8:0 Async 0\n8:0 Discard 9\n8:0 Total 4608\n"
    "7:1 Read 1\n7:1 Write 2\nTotal 4611\n"
)
DISKS_2 = "8:0 rbytes=4096 wbytes=512 rios=1 wios=2 dbytes=9 dios=1\n7:1\n259:0 rbytes=1 wbytes=2 rios=0\n"


def group(mount: Path, name: str, files: dict[str, str]) -> None:
    """A group of that name, and the one above it, which has the same files."""
    for directory in (mount / "bay/x", mount / "bay/x" / name):
        directory.mkdir(parents=True, exist_ok=True)
        for file, text in files.items():
            (directory / file).write_text(text)


def figures(sample: SessionSample) -> tuple[int | None, ...]:
    return (
        sample.cpu_usec, sample.memory_bytes, sample.memory_cache_bytes, sample.read_bytes, sample.written_bytes,
    )  # fmt: skip


def test_version_2_has_every_figure_in_one_group(tmp_path: Path) -> None:
    files = {
        "cpu.stat": "usage_usec 1234567\nuser_usec 1000000\n",
        "memory.current": "7000000\n",
        "memory.stat": "anon 1000000\nfile 5000000\nfile_mapped 3\nshmem 2000000\n",
        "io.stat": DISKS_2,
    }
    group(tmp_path, "a", files)
    group(tmp_path, "b", {**files, "cpu.stat": "user_usec 5\nusage_usec 7", "io.stat": ""})
    found = cgroup_samples.read_all(PARENT, ["a", "b", "gone"], tmp_path)
    assert {name: figures(sample) for name, sample in found.items()} == {
        "a": (1_234_567, 7_000_000, 3_000_000, 4097, 514),
        "b": (7, 7_000_000, 3_000_000, 0, 0),
    }
    assert found["a"].taken_s <= found["b"].taken_s


def test_version_1_has_them_in_several_hierarchies(tmp_path: Path) -> None:
    statistics = "cache 1\nshmem 1\ntotal_cache 5000000\ntotal_shmem 2000000\n"
    memory = {"memory.usage_in_bytes": "7000000\n", "memory.stat": statistics}
    group(tmp_path / "cpu,cpuacct", "a", {"cpuacct.usage": "1234567890\n", "cpu.stat": "nr_periods 9\n"})
    group(tmp_path / "memory", "a", memory)
    group(tmp_path / "blkio", "a", {"blkio.throttle.io_service_bytes_recursive": DISKS_1})
    group(tmp_path / "blkio", "b", {"blkio.throttle.io_service_bytes_recursive": "Total 0\n"})
    found = cgroup_samples.read_all(PARENT, ["a", "b"], tmp_path)
    assert figures(found["a"]) == (1_234_567, 7_000_000, 3_000_000, 4097, 514)
    assert figures(found["b"]) == (None, None, None, None, None)  # it counts no device


def test_figures_that_are_missing_are_unknown(tmp_path: Path) -> None:
    group(tmp_path, "a", {"cpu.stat": "nr_periods 9\n", "memory.stat": "anon 1\n"})
    (found,) = cgroup_samples.read_all(PARENT, ["a"], tmp_path).values()
    assert figures(found) == (None, None, None, None, None)
    assert cgroup_samples.read_all("/bay/none", ["a"], tmp_path) == {}
