"""The sizes of sandboxes bite: real runc on a real pool, called through `bay` and the SDK."""

import json
import os
import time
from pathlib import Path

import pytest
from pool_server import Shell

import bay

pytestmark = [pytest.mark.host, pytest.mark.long]

MIB = 1 << 20
HOLD = "import sys\nx = b'x' * (int(sys.argv[1]) << 20)\nprint(len(x) >> 20)"
FORKS = """
import os, sys
made = []
try:
    while len(made) < 1000:
        pid = os.fork()
        if not pid:
            sys.stdin.read()
            os._exit(0)
        made.append(pid)
except OSError as error:
    print(len(made), error.strerror, flush=True)
for pid in made:
    os.kill(pid, 9)
"""


def used_s(box: bay.Box) -> float:
    """Seconds of processor time that the sandbox has had, as the kernel counts them for its control group."""
    pid = next(pid for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))) if _is_ship_of(pid, box))
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        if names == "cpuacct" or "cpuacct" in names.split(","):
            return int(Path(f"/sys/fs/cgroup/{names}{path}/cpuacct.usage").read_text()) / 1e9
        if not names and (file := Path(f"/sys/fs/cgroup{path}/cpu.stat")).exists():
            return int(file.read_text().split()[1]) / 1e6
    raise AssertionError("it has no control group for the processor")


def had_in(box: bay.Box, window_s: float) -> tuple[float, float]:
    """The processor time that the sandbox has in a window, and how long that really was."""
    begun, before = time.monotonic(), used_s(box)
    time.sleep(window_s)
    had, ended = used_s(box) - before, time.monotonic()
    return had, ended - begun


def most(cpus: float, window_s: float) -> float:
    """What a quota lets through in a window, which may cut a period at each end."""
    return cpus * (window_s + 0.2) + 0.05


def _is_ship_of(pid: int, box: bay.Box) -> bool:
    try:
        mounts = Path(f"/proc/{pid}/mountinfo").read_text()
        return f"/{box.info.cargo_id}/workspace /workspace" in mounts
    except OSError:
        return False


def test_processor_time_is_held_to_the_quota_and_to_the_next_one(shell: Shell, client: bay.Client) -> None:
    name = shell("create", "--cpus", "0.1", "--wait", "60").strip()
    box = client.sandboxes.get(name)
    assert box.info.cpus == 0.1
    spinning = [box.spawn(["sh", "-c", "while :; do :; done"]) for _ in range(3)]
    had, window = had_in(box, 3)
    assert had <= most(0.1, window)
    assert json.loads(shell("update", name, "--cpus", "2", "--json"))["cpus"] == 2
    until = time.monotonic() + 60
    while (more := had_in(box, 1))[0] <= most(0.1, more[1]):
        assert time.monotonic() < until, "it has no more than before"
    box.update(cpus=0.2)
    had, window = had_in(box, 3)
    assert had <= most(0.2, window)
    for one in spinning:
        one.kill()
    box.delete()


def test_a_program_is_killed_at_the_limit_of_memory_and_not_below(shell: Shell, client: bay.Client) -> None:
    name = shell("create", "--memory", "160m", "--wait", "60").strip()
    shell("exec", name, "--", "python3", "-c", HOLD, "100")
    shell("exec", name, "--", "python3", "-c", HOLD, "200", code=137)
    box = client.sandboxes.get(name)
    assert box.update(memory_mb=320).memory_mb == 320
    assert box.run(["python3", "-c", HOLD, "200"]).stdout == "200\n"
    assert box.run(["python3", "-c", HOLD, "400"]).signal == 9
    assert box.run("echo alive").stdout == "alive\n"
    box.update(memory_mb=None)
    assert box.info.memory_mb == 256
    assert box.run(["python3", "-c", HOLD, "280"]).signal == 9
    box.delete()


def test_less_memory_than_is_in_use_is_refused_and_nothing_is_killed(
    shell: Shell, client: bay.Client
) -> None:
    box = client.sandboxes.create(memory_mb=512, wait=60)
    holding = box.spawn(
        ["python3", "-c", "x = b'x' * (200 << 20); print('held', flush=True); input()"], stdin_open=True
    )
    assert next(iter(holding.output())).data == b"held\n"
    said = shell("update", box.id, "--memory", "128", code=2)
    assert "MiB of memory, which leaves no way to give it 128 MiB; end some of them, or ask for more" in said
    assert box.refresh().memory_mb == 512
    box.pause()
    with pytest.raises(bay.Conflict):
        box.update(memory_mb=128)
    assert box.refresh().compute == "warm"
    assert box.update(memory_mb=300).memory_mb == 300  # frozen as it is
    assert box.run("echo alive").stdout == "alive\n"
    holding.write("\n")
    assert holding.wait().exit_code == 0
    assert box.update(memory_mb=128).memory_mb == 128
    box.delete()


def test_forks_stop_at_the_limit_of_processes(shell: Shell, client: bay.Client) -> None:
    name = shell("create", "--pids", "40", "--wait", "60").strip()
    box = client.sandboxes.get(name)

    def most() -> int:
        made, _, why = box.run(["python3", "-c", FORKS]).stdout.partition(" ")
        assert why == "Resource temporarily unavailable\n"
        return int(made)

    assert 20 < most() < 40
    shell("update", name, "--pids", "100")
    assert 80 < most() < 100
    assert box.run("echo alive").stdout == "alive\n"
    box.delete()


def test_files_end_at_the_limit_of_the_disk(shell: Shell, client: bay.Client) -> None:
    name = shell("create", "--disk", "32m", "--wait", "60").strip()
    box = client.sandboxes.get(name)
    assert box.info.disk_mb == 32

    def flood(path: str, user: str | None = None) -> int:
        done = box.run(["dd", "if=/dev/urandom", f"of={path}", "bs=1M", "count=400"], user=user)
        assert "Disk quota exceeded" in done.stderr or "No space left" in done.stderr
        return int(box.run(["stat", "-c", "%s", path], user=user).stdout)

    assert 24 * MIB < flood("/workspace/flood") <= 33 * MIB
    assert 24 * MIB < flood("/opt/flood", "root") <= 33 * MIB
    assert client.cargos.update(box.info.cargo_id, size_limit_mb=96).size_limit_mb == 96
    assert 80 * MIB < flood("/workspace/flood") <= 97 * MIB
    assert box.refresh().disk_mb == 96
    box.delete()


def test_run_takes_the_same_options(shell: Shell) -> None:
    sizes = ("--cpus", "0.5", "--memory", "128m", "--disk", "16", "--pids", "50")
    shell("run", *sizes, "python3", "-c", HOLD, "60")
    shell("run", *sizes, "python3", "-c", HOLD, "200", code=137)
    assert "allows 2 at most" in shell("run", "--cpus", "2.5", "true", code=2)


@pytest.mark.parametrize(
    ("text", "said"),
    [("2x", "it takes MiB or a size such as 512m or 2g"), ("0", "it takes MiB"), ("0.3m", "it takes MiB")],
)
def test_a_size_that_is_none_is_refused_in_words(shell: Shell, text: str, said: str) -> None:
    assert said in shell("create", "--memory", text, code=2)
