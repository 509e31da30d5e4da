"""A whole Bay with runc and CRIU, whose default profile hibernates and whose profile `plain` does not."""

import json
from collections.abc import Generator
from pathlib import Path

import pytest
import shared_cache
from console_bay import host_with_runc, remove_all
from criu_program import criu_program
from serving import KEY, Server

import bay

__all__ = ["client", "criu_program", "server"]

_PROFILES = {
    "python-default": {"memory_mb": 512, "hibernate": True, "idle_timeout": 3600},
    "plain": {"memory_mb": 512},
}


@pytest.fixture(scope="module")
def server(criu_program: str) -> Generator[Server]:
    extra = {"BAY_CRIU": criu_program, "BAY_PROFILES": json.dumps(_PROFILES)}
    with host_with_runc(Path(shared_cache.filled()), **extra) as begin, begin(0) as found:
        yield found
        remove_all(found)


@pytest.fixture
def client(server: Server) -> Generator[bay.Client]:
    with bay.Client(server.url, KEY) as found:
        yield found
