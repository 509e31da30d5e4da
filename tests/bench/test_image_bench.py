"""The benchmarks of images: what they measure with, and each of them with next to nothing."""

import os
import shutil
import subprocess
import sys
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import pytest
from bench.__main__ import _bytes
from bench.base import Bench
from bench.figures import Figure, Ratio, Result
from bench.images import builds, pulls, shared_pages, starts, templates
from bench.spending import Spent
from examples.own_server import own_server

from bench import host, spending

pytestmark = [pytest.mark.host, pytest.mark.long]
HAS_TOOLS = all(map(shutil.which, ("skopeo", "docker-registry", "busybox")))
real = pytest.mark.skipif(
    os.geteuid() != 0 or not HAS_TOOLS, reason="needs root, skopeo, docker-registry and busybox"
)

BUSY = "import time\nkept = bytearray(64 << 20)\nwhile time.process_time() < 0.5: pass"


def test_a_size_has_a_unit() -> None:
    assert [_bytes(text) for text in ("6g", "200M", "77")] == [6 << 30, 200 << 20, 77]
    with pytest.raises(ValueError, match="invalid literal"):
        _bytes("g")


def test_a_program_is_measured_with_its_children() -> None:
    nested = ["sh", "-c", f"{sys.executable} -c '{BUSY}'; true"]
    spent = spending.by_program(nested)
    assert 0.4 < spent.processor_s < 20
    assert spent.wall_s > 0.4
    assert 64 < spent.mib < 200
    with pytest.raises(subprocess.CalledProcessError):
        spending.by_program(["false"])


def test_a_daemon_is_measured_with_what_it_started_and_without_what_it_had() -> None:
    serving = f"held = bytearray(100 << 20)\nprint(flush=True)\ninput()\n{BUSY}\nprint(flush=True)\ninput()"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", serving], stdin=pipe, stdout=pipe, bufsize=0) as daemon:
        assert daemon.stdin is not None
        assert daemon.stdout is not None
        daemon.stdout.readline()

        def ask() -> None:
            daemon.stdin.write(b"\n")  # pyright: ignore[reportOptionalMemberAccess]
            daemon.stdout.readline()  # pyright: ignore[reportOptionalMemberAccess]

        spent = spending.by_daemon(daemon.pid, ask)
        daemon.stdin.write(b"\n")
    assert 0.3 < spent.processor_s < 20
    assert 50 < spent.mib < 90


def test_two_tools_are_compared_by_wall_and_by_processor_time() -> None:
    found = spending.ratios("bay", [Spent(1, 2, 0)], "other", [Spent(4, 4, 0)])
    assert [(one.of.name, one.value) for one in found if isinstance(one, Ratio)] == [
        ("bay", 0.25),
        ("processor time: bay", 0.5),
    ]


def test_the_pages_of_a_mapped_file_are_found(tmp_path: Path) -> None:
    path = tmp_path / "mapped"
    path.write_bytes(b"x" * (8 << 20))
    program = f"import mmap\nfile = open({str(path)!r}, 'rb')\ndata = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)\nsum(data[::4096])\nprint(flush=True)\ninput()"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", program], stdin=pipe, stdout=pipe) as reader:
        assert reader.stdout is not None
        reader.stdout.readline()
        resident, share = host.mapped_mib(reader.pid, "/mapped")
        reader.kill()
    assert 7.5 < share <= resident < 8.5


def names(found: list[Result]) -> list[str]:
    return [one.name for one in found if isinstance(one, Figure)]


@pytest.fixture
def bench() -> Generator[Bench]:
    """Next to nothing of each."""
    with own_server("bay-bench-") as server, server.client() as client:
        yield Bench(server, client, None, scale=0.02, size=4 << 20)


@real
def test_a_pull_is_measured_beside_skopeo(bench: Bench) -> None:
    found = pulls(bench)
    assert "skopeo copy into containers-storage" in names(found)
    assert sum(isinstance(one, Ratio) for one in found) == 2


@real
def test_starts_from_images_are_measured_beside_the_host(bench: Bench) -> None:
    found = names(starts(bench))
    assert [name.rpartition(", ")[2] for name in found] == [
        "host", "an image of 1 layer", "an image of 10 layers", "an image of 60 layers",
    ]  # fmt: skip


@real
def test_templates_are_frozen_and_started_from(bench: Bench) -> None:
    found = templates(bench)
    assert sum("2 of 2 answered" in one.note for one in found if isinstance(one, Figure)) == 2
    assert sum(name.startswith("freeze") for name in names(found)) == 2


@real
def test_what_sandboxes_map_is_counted_once_in_a_layer_and_for_each_in_a_workspace(bench: Bench) -> None:
    bench = replace(bench, scale=0.1)
    found = {one.name: one.samples[0] for one in shared_pages(bench) if isinstance(one, Figure)}
    memory = {name.split()[3]: mib for name, mib in found.items() if name.endswith("memory for it")}
    assert memory == {
        "/opt/data,": pytest.approx(100, abs=5), "/workspace/data,": pytest.approx(200, abs=10),
    }  # fmt: skip


@real
def test_a_build_is_measured_twice(bench: Bench) -> None:
    found = names(builds(bench))
    assert {"build of a small Dockerfile", "the same build again"} <= set(found)
