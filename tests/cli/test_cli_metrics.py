"""`bay metrics`: a table in a pipe, and charts on a terminal."""

import json
import os
import pty
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cli_runner import Cli

from bay.cli.commands.metrics import charts
from bay.models import MetricsPoint, SandboxMetrics, SandboxUsage

BIN = Path(sys.executable).parent / "bay"
WAIT_S = 60
NOW = datetime(2030, 1, 1, 1, tzinfo=UTC)
USAGE = SandboxUsage(
    at=NOW, cpus=2, cpus_used=None, cpu_usec=None, memory_bytes=None, memory_cache_bytes=None,
    memory_limit_bytes=400 << 20, pids=None, pids_limit=None, disk_bytes=None, disk_limit_bytes=None,
    disk_measured_at=None,
)  # fmt: skip
HEADS = ["TIME", "CPUS", "MEMORY", "DISK", "READ", "WRITTEN", "RECEIVED", "SENT", "EXECS"]


def point(minute: int, cpus: float | None, received: float | None) -> MetricsPoint:
    return MetricsPoint(
        at=NOW - timedelta(minutes=60 - minute), seconds=0 if cpus is None else 60, cpus_used=cpus, cpus_max=cpus,
        memory_bytes=100 << 20, memory_max_bytes=100 << 20, memory_cache_bytes=0, disk_bytes=None, read_bytes=None,
        written_bytes=0, received_bytes=received, sent_bytes=0, execs=1, execs_max=1,
    )  # fmt: skip


def drawn(points: list[MetricsPoint], room: int = 200) -> dict[str, str]:
    found = SandboxMetrics(step=60, points=tuple(points))
    lines = list(charts(found, USAGE, NOW - timedelta(hours=1), room))
    return {line[:10].strip(): line[10:] for line in lines}


@pytest.mark.pure
def test_a_chart_has_a_column_for_each_step_a_blank_for_a_gap_and_the_figures_behind() -> None:
    lines = drawn([point(0, None, None), point(1, 1, 6 << 20), point(59, 2, 0)])
    assert lines["cpus"] == f" ▅{' ' * 57}█  1.5, most 2 of 2"
    assert lines["memory"] == f"▃▃{' ' * 57}▃  100M, most 100M of 400M"
    assert lines["received"] == f" █{' ' * 57}▁  51K/s, most 102K/s"
    assert lines["disk"] == f"{' ' * 60}  -"
    assert lines[""].split() == ["2030-01-01T00:00:00Z", "2030-01-01T01:00:00Z"]


@pytest.mark.pure
@pytest.mark.parametrize("room", [20, 60, 80, 500])
def test_charts_are_as_wide_as_the_terminal_lets_them_be(room: int) -> None:
    lines = drawn([point(minute, 1, 1) for minute in range(60)], room)
    assert max(len(line) for line in lines.values()) <= max(room, 54)


def test_a_pipe_has_a_row_for_each_point_and_json_the_form_of_the_api(bay: Cli, name: str) -> None:
    done = bay("metrics", name, "--since", "2h", "--step", "15m")
    head, *rows = done.stdout.decode().splitlines()
    assert (done.returncode, head.split(), rows) == (0, HEADS, [])
    assert json.loads(bay("metrics", name, "--step", "900", "--json").stdout) == {"step": 900, "points": []}
    assert bay("metrics", name, "--since", "31d").returncode == 0


@pytest.mark.parametrize(
    "option", [("--since", "40d"), ("--step", "45s"), ("--since", "soon"), ("--since", "0")]
)
def test_a_range_or_a_step_that_is_none_is_refused(bay: Cli, name: str, option: tuple[str, str]) -> None:
    done = bay("metrics", name, *option)
    assert (done.returncode, done.stdout) == (2, b"")


@pytest.mark.parametrize(("terminal", "wanted"), [("xterm", "memory    "), ("dumb", "TIME")])
def test_a_terminal_has_charts_unless_it_is_a_dumb_one(
    bay: Cli, name: str, terminal: str, wanted: str
) -> None:
    ours, theirs = pty.openpty()
    try:
        done = subprocess.run(
            [str(BIN), "metrics", name], stdout=theirs, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE,
            env=bay.environment | {"TERM": terminal}, timeout=WAIT_S, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, b"")
        assert wanted in os.read(ours, 65536).decode()
    finally:
        os.close(ours)
        os.close(theirs)
