"""Tries an OCI runtime of this host: `bay doctor --runtime` runs the suites of `bay.testing` with it."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import IO, BinaryIO, cast

from bay.drivers.oci.runc import runtime_version
from bay.drivers.oci.runsc import ISOLATION, RUNSC
from bay.errors import DriverUnavailable, InvalidArgument
from bay.hints import extra
from bay.linux.directories import nearest_directory
from bay.server.settings import Settings

_PROGRAM = "bay.testing.oci_runtime"
_TOLD_BYTES = 4096


@dataclass(frozen=True, slots=True)
class RuntimeTest:
    """One test, as a sentence: `state` is `passed`, `failed` or `skipped`, `found` the reason in one line,
    and `details` all that is known of it.
    """

    test: str
    state: str
    found: str
    details: str


@dataclass(frozen=True, slots=True)
class RuntimeTrial:
    """A runtime that can be tried: its program, and its name and version as it says them. `isolation` is
    the one that it would have in a profile, `setting` the setting that names it, and `order` is for the
    program of the suites.
    """

    program: str
    version: str
    isolation: str
    setting: str
    order: str

    def run(self) -> Iterator[RuntimeTest]:
        """Each test as it ends, for about half a minute, with nothing left at the end. Raises
        DriverUnavailable when the suites do not come to their end.
        """
        # A pytest of this environment must take neither options nor plugins from it.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        command = [sys.executable, "-m", _PROGRAM, self.order]
        with (
            tempfile.TemporaryFile() as errors,
            subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, env=environment
            ) as suites,
        ):
            any_failed = False
            # Suites that lose their reader end, and clean up.
            with closing(cast("IO[bytes]", suites.stdout)) as lines:
                for line in lines:
                    test = RuntimeTest(**json.loads(line))
                    any_failed |= test.state == "failed"
                    yield test
            if suites.wait() and not any_failed:
                raise DriverUnavailable(f"the suites ended before their last test: {_last_line(errors)}")


def trial_of(settings: Settings, runtime: str) -> RuntimeTrial:
    """A trial of the program `runtime`, a path or a name on PATH, as a Bay with these settings would run it.
    Blocks. Raises InvalidArgument for what is no runtime, and DriverUnavailable where none can be tried.
    """
    if os.geteuid() != 0:
        raise DriverUnavailable("to try a runtime starts containers: run it as root, or with sudo")
    if importlib.util.find_spec("pytest") is None:
        raise DriverUnavailable(f"the suites need pytest; {extra('conformance')}")
    program = shutil.which(runtime)
    if program is None:
        raise InvalidArgument(f"there is no program {runtime}; give the path of an OCI runtime, such as crun")
    version = runtime_version(program)
    if version is None:
        raise InvalidArgument(
            f"{program} prints no version as runc does, so Bay cannot start containers by it. Kata Containers 2 and "
            "newer have no such command: run them in Kubernetes, by a RuntimeClass (docs/kubernetes.md)"
        )
    in_gvisor = version.name == RUNSC
    isolation = ISOLATION if in_gvisor else "container"
    order = {
        "runtime": os.path.abspath(program),
        "isolation": isolation,
        "scratch": str(nearest_directory(settings.data_dir)),
        "cache": str(settings.cache_dir),
        "id_range_start": settings.id_range_start,
        "criu": settings.criu if any(profile.hibernate for profile in settings.profiles.values()) else None,
    }
    setting = "BAY_RUNSC" if in_gvisor else "BAY_RUNC"
    return RuntimeTrial(program, f"{version.name} {version.text}", isolation, setting, json.dumps(order))


def _last_line(errors: BinaryIO) -> str:
    size = errors.seek(0, os.SEEK_END)
    errors.seek(max(0, size - _TOLD_BYTES))
    lines = errors.read().decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "they say no reason")
