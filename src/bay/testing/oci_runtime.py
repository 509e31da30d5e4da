"""Runs the suite of drivers, and that of the walls, with one OCI runtime of this host.

A program for `bay doctor --runtime`: its only argument is a `RuntimeOrder` as JSON. Each test becomes a line
of JSON on its standard output: `test`, `state` (`passed`, `failed`, `skipped`), `found` and `details`. Where
the first test fails, no session starts, and the rest is not tried. It goes into network and mount namespaces
of its own, so it neither sees nor changes what other sandboxes of this host have there.
"""

import json
import os
import re
import secrets
import signal
import sys
import tempfile
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TextIO

import pytest
from anyio import pytest_plugin

from bay.drivers.oci import netns, runsc
from bay.drivers.oci.driver import OciDriver
from bay.linux import mounts, remove_tree
from bay.linux.threads import in_new_thread
from bay.network.manager import NetworkManager
from bay.testing.driver_bench import DriverBench

_DRIVERS, _WALLS = "drivers.py", "walls.py"
_LONGEST = 300


@dataclass(frozen=True, slots=True)
class RuntimeOrder:
    """An OCI runtime, and the settings of the Bay that would use it."""

    runtime: str
    isolation: str
    scratch: str
    """An existing directory on the file system of the data."""
    cache: str
    id_range_start: int
    criu: str | None


class _Suite:
    """A plugin of pytest: the fixtures of the suites, and a line for each test."""

    def __init__(self, order: RuntimeOrder, lines: TextIO) -> None:
        self._order = order
        self._lines = lines
        self._session: pytest.Session | None = None
        self._any_passed = False

    @pytest.fixture(scope="session")
    def anyio_backend(self) -> str:
        """The only event loop that Bay runs on."""
        return "asyncio"

    @pytest.fixture(scope="module")
    async def opened(self, request: pytest.FixtureRequest) -> AsyncGenerator[DriverBench]:
        """A bench whose driver all tests of a suite share. Those of the walls have the runtime start Ship: a
        zygote would set the filter and the rights of a Ship that it forks.
        """
        order, mark = self._order, f"doctor-{secrets.token_hex(4)}"
        in_gvisor = order.isolation == runsc.ISOLATION
        with tempfile.TemporaryDirectory(prefix=f".bay-{mark}-", dir=order.scratch) as place:
            os.chmod(place, 0o711)  # noqa: S103 - the sessions' own root passes through
            root, workspaces, run_dir = Path(place, "root"), Path(place, "files"), Path("/run/bay", mark)
            workspaces.mkdir(mode=0o711)
            driver = OciDriver(
                root=root,
                run_dir=run_dir,
                cache=Path(order.cache),
                runc="runc" if in_gvisor else order.runtime,
                runsc_binary=order.runtime if in_gvisor else None,
                id_range_start=order.id_range_start,
                network=NetworkManager(instance=mark[-4:]),
                fork_ships=request.path.name != _WALLS,
                criu=order.criu,
            )
            try:
                await driver.open()
                if order.isolation not in driver.capabilities.isolation:
                    await in_new_thread(lambda: runsc.trial(order.runtime, order.id_range_start))
                yield DriverBench(
                    driver,
                    workspaces,
                    kept=(root, run_dir),
                    instance=mark,
                    workspace_owner=1000,
                    isolation=order.isolation,
                )
                await driver.aclose()
            finally:
                await remove_tree.remove(run_dir)

    @pytest.fixture
    async def bench(self, opened: DriverBench) -> AsyncGenerator[DriverBench]:
        """The same, with nothing left of a test."""
        yield opened
        await opened.clear()
        opened.started.clear()

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        self._session = session

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Write a line once a test has failed, was skipped, or has passed."""
        if report.passed and report.when != "call":
            return
        self._any_passed |= report.passed
        words = report.location[2].removeprefix("test_").replace("_", " ")
        line = {
            "test": words,
            "state": report.outcome,
            "found": _found(report),
            "details": report.longreprtext,
        }
        try:
            print(json.dumps(line), file=self._lines, flush=True)
        except BrokenPipeError:  # the doctor is gone: the rest is to clean up
            self.stop("there is no reader")
        if not (report.skipped or self._any_passed):
            self.stop("no session starts")

    def interrupted(self, number: int, _: FrameType | None) -> None:
        """A handler of signals."""
        self.stop(signal.strsignal(number) or "a signal")

    def stop(self, why: str) -> None:
        """End after the test that runs, and clean up."""
        if self._session is not None:
            self._session.shouldstop = why


def _found(report: pytest.TestReport) -> str:
    """The reason in one line; empty for a test that has passed."""
    if isinstance(report.longrepr, tuple):
        return report.longrepr[2].removeprefix("Skipped: ")
    crash = getattr(report.longrepr, "reprcrash", None)
    text = report.longreprtext if crash is None else crash.message
    first = (text.strip().splitlines() or [""])[0]
    return re.sub(r"^(\w+\.)+", "", first)[:_LONGEST]


def main() -> int:
    """Exit code 0 when no test has failed, else pytest's."""
    order = RuntimeOrder(**json.loads(sys.argv[1]))
    suite = _Suite(order, os.fdopen(os.dup(sys.stdout.fileno()), "w"))
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, suite.interrupted)
    mounts.unshare(mounts.CLONE_NEWNET | mounts.CLONE_NEWNS)
    mounts.make_all_private()
    netns.set_up_loopback()
    suites = [_DRIVERS] if order.isolation == runsc.ISOLATION else [_DRIVERS, _WALLS]
    files = [str(Path(__file__).with_name(name)) for name in suites]
    alone = [
        "--noconftest",
        "-c",
        os.devnull,
        "--rootdir",
        "/",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:terminal",
    ]
    # A failed assertion tells its values where its file counts as one of tests.
    told = ["-o", f"python_files={_DRIVERS} {_WALLS}"]
    return pytest.main([*alone, *told, *files], plugins=[pytest_plugin, suite])


if __name__ == "__main__":
    sys.exit(main())
