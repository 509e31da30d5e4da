"""`bay doctor --runtime` tells which OCI runtimes keep what Bay promises, and leaves nothing behind."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from bay.errors import DriverUnavailable
from bay.server import settings
from bay.server.offline import runtime_trial
from bay.testing.driver_bench import mounts_of_the_host

pytestmark = [
    pytest.mark.host,
    pytest.mark.skipif(os.geteuid() != 0 or shutil.which("runc") is None, reason="needs root and runc"),
    pytest.mark.long,
]

BAY = [sys.executable, "-m", "bay", "doctor", "--runtime"]
FORGETFUL = """#!/usr/bin/env python3
import json, os, sys
arguments = sys.argv[1:]
if "--bundle" in arguments:
    path = os.path.join(arguments[arguments.index("--bundle") + 1], "config.json")
    with open(path) as file:
        config = json.load(file)
    del config["linux"]["seccomp"], config["linux"]["maskedPaths"]
    config["process"]["noNewPrivileges"] = False
    with open(path, "w") as file:
        json.dump(config, file)
os.execvp("runc", ["runc", *arguments])
"""
# crun refuses a host that has control groups of both versions; version 2 is then in a place of its own.
CRUN = """#!/bin/sh
[ "$1" = --version ] && exec crun --version
[ -d /sys/fs/cgroup/unified ] || exec crun "$@"
exec unshare --mount --propagation unchanged sh -c 'umount /sys/fs/cgroup/unified; exec crun "$@"' sh "$@"
"""


@pytest.fixture
def program(tmp_path: Path) -> Callable[[str], Path]:
    """Makes a runtime of a script."""

    def make(text: str) -> Path:
        path = tmp_path / "runtime"
        path.write_text(text)
        path.chmod(0o755)
        return path

    return make


def doctor(runtime: Path | str, *options: str) -> subprocess.CompletedProcess[str]:
    # Options of a pytest around it, such as this one's, are none of the suites.
    environment = {**os.environ, "PYTEST_ADDOPTS": "--collect-only"}
    return subprocess.run(
        [*BAY, str(runtime), *options], env=environment,
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip


def results(done: subprocess.CompletedProcess[str]) -> dict[str, tuple[str, str]]:
    return {row["test"]: (row["state"], row["found"]) for row in map(json.loads, done.stdout.splitlines())}


def left() -> list[str]:
    """Directories, control groups and mounts of such a trial."""
    groups = Path("/sys/fs/cgroup").glob("**/bay/doctor-*")
    runs = [*Path("/run/bay").glob("doctor-*"), *Path("/tmp").glob(".bay-doctor-*"), *groups]
    return [*map(str, runs), *(line for line in mounts_of_the_host() if "doctor-" in line)]


def test_another_runtime_that_keeps_all_promises_passes_both_suites(
    program: Callable[[str], Path],
) -> None:
    if shutil.which("crun") is None:
        pytest.skip("needs crun; apt-get install crun")
    runtime = program(CRUN)
    done = doctor(runtime, "--json", "--data-dir", "/tmp/none")
    found = results(done)
    assert [(test, why) for test, (state, why) in found.items() if state == "failed"] == []
    assert done.returncode == 0, done.stderr
    for test in ("stop ends it and wait tells so", "root inside is refused everything that rules a kernel"):
        assert found[test] == ("passed", "")
    count = Counter(state for state, _ in found.values())
    told = (
        f"{count['passed']} passed, {count['skipped']} do not apply here; BAY_RUNC={runtime} has Bay use it"
    )
    assert told in done.stderr
    assert f"{runtime} is crun " in done.stderr
    assert left() == []


def test_a_runtime_that_ignores_parts_of_the_bundle_fails_by_name(program: Callable[[str], Path]) -> None:
    done = doctor(program(FORGETFUL), "--json", "--data-dir", "/tmp/none")
    found = results(done)
    for test in (
        "root inside is refused everything that rules a kernel",
        "each process has the filter no new privileges and few capabilities",
        "kernel settings cannot be written",
    ):
        assert found[test][0] == "failed", test
    assert found["stop ends it and wait tells so"] == ("passed", "")
    assert done.returncode == 1
    assert "Bay should not use" in done.stderr
    assert left() == []


def test_where_no_session_starts_the_reason_is_told_once(program: Callable[[str], Path]) -> None:
    text = '#!/bin/sh\n[ "$1" = --version ] && echo "other version 1.0" && exit\nexit 3\n'
    done = doctor(program(text), "--data-dir", "/tmp/none")
    (line,) = done.stdout.splitlines()
    assert line.startswith("failed  the last handle of a start has an endpoint where ship answers: ")
    assert "could not start the container: it logged no error" in line
    assert done.returncode == 1
    assert "no session starts, so the rest was not tried" in done.stderr
    assert left() == []


def test_a_gvisor_is_tried_in_its_own_isolation_and_an_interrupt_leaves_nothing() -> None:
    if shutil.which("runsc") is None:
        pytest.skip("needs runsc; apt-get install runsc")
    with subprocess.Popen(
        [*BAY, "runsc", "--data-dir", "/tmp/none"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    ) as running:  # fmt: skip
        assert running.stdout is not None
        assert running.stdout.readline().startswith("passed  the last handle of a start")
        os.killpg(running.pid, signal.SIGINT)
        _, told = running.communicate(timeout=60)
    assert "each test starts sandboxes with isolation gvisor" in told
    assert running.returncode != 0
    assert left() == []


@pytest.mark.parametrize(
    ("runtime", "options", "code", "told"),
    [
        ("no-such-runtime", (), 2, "there is no program no-such-runtime; give the path of an OCI runtime"),
        ("true", (), 2, "prints no version as runc does"),
        ("runc", ("--fix",), 2, "--runtime goes alone"),
        ("runc", ("--kubernetes",), 2, "--runtime goes alone"),
    ],
)
def test_what_cannot_be_tried_is_refused_with_the_way_out(
    runtime: str, options: tuple[str, ...], code: int, told: str
) -> None:
    done = doctor(runtime, *options)
    assert (done.returncode, done.stdout) == (code, "")
    assert told in done.stderr


def test_suites_that_end_before_their_last_test_are_no_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = json.dumps({"test": "a handle survives json", "state": "passed", "found": "", "details": ""})
    said = f"import os\nprint({line!r}, flush=True)\nos.kill(os.getpid(), 9)\n"
    (tmp_path / "suites_that_end.py").write_text(said)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(runtime_trial, "_PROGRAM", "suites_that_end")
    results = runtime_trial.trial_of(settings.read(), "runc").run()
    assert next(results).state == "passed"
    with pytest.raises(DriverUnavailable, match="the suites ended before their last test"):
        next(results)


@pytest.mark.parametrize("said", ["release-20240729.0", "0.0~20240729.0"])
def test_a_gvisor_is_known_by_the_version_of_its_makers_and_of_a_distribution(
    program: Callable[[str], Path], said: str
) -> None:
    runsc = program(f"#!/bin/sh\necho runsc version {said}\necho spec: 1.1.0\n")
    trial = runtime_trial.trial_of(settings.read(), str(runsc))
    assert (trial.isolation, trial.setting, trial.version) == ("gvisor", "BAY_RUNSC", f"runsc {said}")


def test_without_pytest_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(name: str) -> None:
        assert name == "pytest"

    monkeypatch.setattr("importlib.util.find_spec", nothing)
    with pytest.raises(DriverUnavailable, match=r"pip install .* '\.\[conformance\]'"):
        runtime_trial.trial_of(settings.read(), "runc")
