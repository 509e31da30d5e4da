"""`bay doctor --fix` prints the commands that mend a host, and runs them when it is told to."""

import io
import os
import pty
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from bay.cli.commands.doctor import _agreed
from bay.drivers.host_check import HostCheck
from bay.linux import nftables
from bay.server.offline.repairs import Repairs, plan

pytestmark = pytest.mark.host

DEBIAN, UBUNTU = {"ID": "debian"}, {"ID": "linuxmint", "ID_LIKE": "ubuntu debian"}
FEDORA, ROCKY = {"ID": "fedora"}, {"ID": "rocky", "ID_LIKE": "rhel centos fedora"}
_SYSTEM = "/usr/sbin:/usr/bin"
NO_PACKAGES = (
    HostCheck("runc", False, True, "runc does not run", "install runc"),
    HostCheck(
        "disk-limits", False, False, "one sandbox can fill it: mkfs.btrfs is not installed", "apt install"
    ),
    HostCheck("network", False, False, f"{nftables.LIBRARY} is missing; install it", "fix it"),
    HostCheck("skopeo", False, False, "none", "apt install skopeo"),
    HostCheck("libseccomp", False, False, "no such file", "install libseccomp"),
)


def lines(repairs: Repairs) -> list[str]:
    return [" ".join(repair.command) for repair in repairs.commands]


@pytest.mark.pure
@pytest.mark.parametrize("release", [DEBIAN, UBUNTU], ids=["debian", "like-debian"])
def test_packages_are_installed_with_apt(release: dict[str, str]) -> None:
    assert lines(plan(NO_PACKAGES, release)) == [
        "apt-get update",
        "apt-get install -y --no-install-recommends btrfs-progs libseccomp2 nftables runc skopeo",
    ]


@pytest.mark.pure
@pytest.mark.parametrize("release", [FEDORA, ROCKY], ids=["fedora", "like-fedora"])
def test_packages_are_installed_with_dnf(release: dict[str, str]) -> None:
    assert lines(plan(NO_PACKAGES, release)) == ["dnf install -y btrfs-progs libseccomp nftables runc skopeo"]


@pytest.mark.pure
def test_packages_of_other_systems_are_named_and_left_to_a_person() -> None:
    found = plan(NO_PACKAGES, {"ID": "arch"})
    assert (lines(found), len(found.by_hand)) == ([], 5)
    assert found.by_hand[0] == "runc: install runc"


@pytest.mark.pure
@pytest.mark.parametrize(
    ("check", "commands"),
    [
        (
            HostCheck("inotify", False, False, "1", "sysctl -w fs.a=128 fs.b=2"),
            ["sysctl -w fs.a=128 fs.b=2", "sh -c echo fs.a=128 >> {s}; echo fs.b=2 >> {s}"],
        ),
        (
            HostCheck(
                "disk-limits", False, False, "the kernel has no btrfs; there is no /dev/loop-control", "-"
            ),
            ["modprobe btrfs", "sh -c echo btrfs >> {m}", "modprobe loop", "sh -c echo loop >> {m}"],
        ),
        (
            HostCheck("cgroups", False, True, "version 1 without cpu, memory, pids", "boot with them"),
            ["mount -t cgroup2 cgroup2 /sys/fs/cgroup"],
        ),
        (HostCheck("cgroups", False, True, "version 1 without memory", "boot with it"), []),
        (HostCheck("runc", False, True, "runc is 1.1.11", "install runc 1.1.12"), []),
        (HostCheck("kvm", True, False, "usable", "-"), []),
    ],
    ids=["sysctls", "modules", "mount", "boot", "too-old", "ok"],
)
def test_kernel_settings_are_set_and_kept_and_nothing_else_is_tried(
    check: HostCheck, commands: Sequence[str]
) -> None:
    found = plan([check], DEBIAN)
    places = {"s": "/etc/sysctl.d/60-bay.conf", "m": "/etc/modules-load.d/bay.conf"}
    assert lines(found) == [line.format(**places) for line in commands]
    assert len(found.by_hand) == (0 if commands or check.ok else 1)


@pytest.fixture
def programs() -> Iterator[Path]:
    """A PATH without runc, whose apt-get brings it. Commands that change a host are noted, and do nothing."""
    with tempfile.TemporaryDirectory(prefix="bay-d-", dir="/tmp") as name:
        Path(name).chmod(0o755)  # the probes run some as another user
        yield _filled(Path(name, "bin"))


def _filled(made: Path) -> Path:
    made.mkdir()
    real = shutil.which("runc", path=_SYSTEM)
    for name in ("apt-get", "sysctl", "sh", "modprobe", "mount", "dnf"):
        script = f'#!/bin/bash\necho "$(/usr/bin/basename $0) $*" >> {made.parent}/ran\n'
        if name == "sh":  # the probes of namespaces use it too
            script = script.replace("\necho", '\n[[ "$2" == *">> /etc/"* ]] || exec /bin/sh "$@"\necho')
        if name == "apt-get":
            script += f'[ "$1" != install ] && exit 0\n/usr/bin/ln -s {real} {made}/runc\n'
        (made / name).write_text(script)
        (made / name).chmod(0o755)
    for program in (one for place in _SYSTEM.split(":") for one in Path(place).iterdir()):
        if program.name != "runc" and not os.path.lexists(made / program.name):
            (made / program.name).symlink_to(program)
    return made


def doctor(
    programs: Path, *options: str, code: str = "", stdin: int = subprocess.DEVNULL
) -> "subprocess.CompletedProcess[str]":
    entry = f"import os, sys\n{code}\nfrom bay.cli.main import main\nsys.exit(main())"
    own = {name: value for name, value in os.environ.items() if not name.startswith("BAY_")}
    return subprocess.run(
        [sys.executable, "-c", entry, "doctor", "--fix", "--data-dir", str(programs.parent / "data"), *options],
        env={**own, "PATH": str(programs)}, stdin=stdin, capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip


def test_without_root_it_prints_what_is_missing_and_runs_nothing(programs: Path) -> None:
    done = doctor(programs, "--yes", code="os.geteuid = lambda: 1000")
    assert done.returncode == 1
    assert "as root `bay doctor --fix`" in done.stderr
    assert not (programs.parent / "ran").exists()


@pytest.mark.pure
def test_without_a_terminal_nobody_is_asked_and_the_answer_is_no(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    assert not _agreed(2)
    assert "--yes runs them" in capsys.readouterr().err


@pytest.mark.timeout(300)
@pytest.mark.skipif(
    os.geteuid() != 0 or not Path("/etc/debian_version").exists(), reason="needs root on Debian"
)
def test_root_is_asked_and_with_yes_the_commands_run_and_it_looks_again(programs: Path) -> None:
    ran = programs.parent / "ran"
    leader, terminal = pty.openpty()
    os.write(leader, b"n\n")
    asked = doctor(programs, stdin=terminal)
    os.close(leader)
    os.close(terminal)
    assert (asked.returncode, ran.exists()) == (1, False)
    assert "apt-get install -y --no-install-recommends runc\n" in asked.stdout
    assert "# runc: installs packages: runc starts containers\n" in asked.stdout
    assert "Run these " in asked.stderr
    done = doctor(programs, "--yes")
    assert done.returncode == 0, done.stderr
    assert ran.read_text().splitlines()[:2] == [
        "apt-get update",
        "apt-get install -y --no-install-recommends runc",
    ]
    assert "runc is" in done.stdout
