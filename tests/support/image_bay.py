"""Bays that are forked, with the oci driver, and pull images from a registry of the test."""

import json
import os
import signal
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import forked_bay
from forked import Forked
from forked_bay import Death
from registry import Registry

KEY = "bay_0123456789abcdef0123456789abcdef"
_END_S = 60.0


class Bay:
    """Runs `bay`, which must end with that code."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment

    def __call__(self, *arguments: str, stdin: bytes = b"", code: int = 0) -> str:
        done = forked_bay.run(list(arguments), self.environment, stdin)
        assert done.returncode == code, done.stderr.decode()
        return (done.stdout or done.stderr).decode()


@contextmanager
def environment_for(hub: Registry) -> Generator[dict[str, str]]:
    """The environment of a Bay with directories of its own, to which the registry is known."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("BAY_")}
    with tempfile.TemporaryDirectory(prefix="bay-", dir="/tmp") as root:
        Path(root).chmod(0o711)  # sessions pass through it
        own = clean | {
            "BAY_RUN_DIR": f"{root}/run", "BAY_DATA_DIR": f"{root}/data", "BAY_API_KEY": KEY,
            "BAY_CARGO_BACKEND": "directory", "BAY_REGISTRIES": json.dumps({hub.host: {"insecure": True}}),
        }  # fmt: skip
        if "BAY_CACHE_DIR" in os.environ:
            own["BAY_CACHE_DIR"] = os.environ["BAY_CACHE_DIR"]
        yield own


@contextmanager
def serving(environment: dict[str, str]) -> Generator[str]:
    """A Bay that serves, by its URL; it is ended as an operator would, which also ends its pool."""
    with started(environment) as (server, url):
        try:
            yield url
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(_END_S)


@contextmanager
def started(environment: dict[str, str], dies: Death | None = None) -> Generator[tuple[Forked, str]]:
    """A Bay that serves, and its URL; it is killed if it still runs afterwards."""
    with open(os.devnull, "wb") as null:
        server = forked_bay.fork(["serve", "--port", "0"], environment, null.fileno(), dies)
    assert server.stdout is not None
    with server.stdout as said:
        try:
            yield server, said.readline().decode().rpartition(" ")[2].strip()
        finally:
            server.kill()
            server.wait(_END_S)
