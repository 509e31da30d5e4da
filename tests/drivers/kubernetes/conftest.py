"""A client of a scripted API server, with all that waits taken down."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from blockbuster import blockbuster_ctx
from kube_server import KubeServer, Pauses, kube_server

from bay.drivers.kubernetes.kube import Kube, KubeAccess, Persistence


@pytest.fixture
def pauses() -> Pauses:
    return Pauses()


@pytest.fixture
async def server() -> AsyncGenerator[KubeServer]:
    async with kube_server() as made:
        yield made


@pytest.fixture
def access(server: KubeServer, tmp_path: Path) -> KubeAccess:
    return KubeAccess(kubeconfig=server.kubeconfig(tmp_path), timeout_s=20)


@pytest.fixture
async def kube(access: KubeAccess, pauses: Pauses) -> AsyncGenerator[Kube]:
    """A client, in a world where a call that blocks the event loop fails the test."""
    made = await Kube.connect(access, persistence=Persistence(sleep=pauses))
    try:
        with blockbuster_ctx("bay"):
            yield made
    finally:
        await made.aclose()
