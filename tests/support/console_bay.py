"""A Bay with runc for the browser, and the steps of `console/tests/` that a browser does on it."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from scripts.build_console import BUILT, CONSOLE
from serving import KEY, Server, serving

from bay import Client
from bay.drivers.oci import closure, host_image

PROFILES = {"python-default": {"memory_mb": 512}, "lazy": {"memory_mb": 512, "start": "lazy"}}

needs_chromium = pytest.mark.skipif(
    not BUILT.is_dir() or not shutil.which("chromium"), reason="needs `make console` and chromium"
)


@contextmanager
def host_with_runc(cache: Path, **extra: str) -> Generator[Callable[[int], AbstractContextManager[Server]]]:
    """Begins a `bay serve` at a port, with runc, networks and a pool of storage, on one data directory."""
    with tempfile.TemporaryDirectory(prefix="bay-c-", dir="/tmp") as name:
        Path(name).chmod(0o711)
        settings = {
            "BAY_DRIVER": "oci", "BAY_CARGO_BACKEND": "btrfs", "BAY_POOL_MAX_GB": "2",
            "BAY_CACHE_DIR": str(cache), "BAY_PROFILES": json.dumps(PROFILES), "BAY_MEMORY_RESERVE_MB": "0",
            **extra,
        }  # fmt: skip
        closure.build(cache / "closures")  # before the clock of the server's start runs
        host_image.build(cache / "images")
        try:
            yield lambda port: serving(Path(name), **settings, BAY_PORT=str(port))
        finally:
            if os.path.ismount(f"{name}/data/cargo"):  # it was killed
                subprocess.run(["umount", f"{name}/data/cargo"], check=True)


def remove_all(server: Server) -> None:
    """Delete its sandboxes."""
    with Client(server.url, KEY) as client:
        for box in client.sandboxes.list():
            box.delete()


def run_steps(
    server: Server, name: str, timeout_s: float = 600, only: str | None = None, **environment: str
) -> None:
    """Do the steps of a file of `console/tests/`, or those whose names have `only` in them. Fails with what
    they say when one fails.
    """
    program = [
        "npx",
        "--no-install",
        "vitest",
        "run",
        "--config",
        "vitest.browser.config.ts",
        f"tests/{name}",
        *(["-t", only] if only else []),
    ]
    given = {**os.environ, "BAY_URL": server.url, "BAY_API_KEY": KEY, "NO_COLOR": "1", **environment}
    done = subprocess.run(
        program, cwd=CONSOLE, env=given, capture_output=True, text=True, timeout=timeout_s, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
