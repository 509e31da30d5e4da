"""The cluster that these tests run inside. Without one they are collected only when somebody names
them.
"""

import os
from collections.abc import AsyncGenerator
from pathlib import Path

import kube_cluster
import pytest
from kube_cluster import Cluster
from pod_bench import PodBench, opened_bench


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Say how to run them, outside of a cluster."""
    if not kube_cluster.is_inside():
        for item in items:
            if item.path.is_relative_to(Path(__file__).parent):
                item.add_marker(
                    pytest.mark.skip("no cluster: scripts/kubernetes/with-cluster runs them in one")
                )


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    """The one cluster of all tests: each has names of its own, and starts again what it has stopped."""
    return Cluster(Path(os.environ[kube_cluster.VARIABLE]))


@pytest.fixture
async def bench(cluster: Cluster) -> AsyncGenerator[PodBench]:
    """A driver with Bay's rights, and an installation of its own."""
    async for made in opened_bench(cluster):
        yield made
