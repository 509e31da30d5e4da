"""Two Bays on one database whose sandboxes are pods: each answers for all, and one goes on alone."""

import secrets
import tempfile
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import postgres_server
import pytest
from examples.own_server import OwnServer, ServerFailed
from kube_cluster import Cluster
from test_bay_on_kubernetes import config, gone, owned

from bay.errors import Timeout

pytestmark = pytest.mark.skipif(postgres_server.binaries() is None, reason="needs PostgreSQL")


@pytest.fixture
def install() -> str:
    return f"test-{secrets.token_hex(4)}"


@pytest.fixture
def replicas(cluster: Cluster, install: str) -> Iterator[tuple[OwnServer, OwnServer]]:
    """Both of them; every sandbox is deleted by the test."""
    with (
        tempfile.TemporaryDirectory(prefix="bay-k-") as folder,
        postgres_server.running() as server,
        server.database() as url,
    ):
        text = f'database_url = "{url}"\nreplicas = true\n{config(cluster, install)}'
        one, other = OwnServer(Path(folder), text), OwnServer(Path(folder), text)
        other.api_key = one.api_key
        try:
            one.start()
            other.start()
            yield one, other
        finally:
            for each in (one, other):
                with suppress(ServerFailed):  # a start that failed is what counts
                    each.kill()


def test_each_answers_for_all_pods_and_one_goes_on_alone(
    replicas: tuple[OwnServer, OwnServer], cluster: Cluster, install: str
) -> None:
    one, other = replicas
    with closing(one.client()) as here, closing(other.client()) as there:
        ids = [client.sandboxes.create(wait=120).id for client in (here, there, here)]
        for sandbox_id in ids:
            assert here.sandboxes.get(sandbox_id).run("echo $((40 + 2))").stdout == "42\n"
            there.sandboxes.get(sandbox_id).files.write("kept.txt", sandbox_id)
        one.kill()
        for sandbox_id in ids:
            box = there.sandboxes.get(sandbox_id)
            assert box.run("cat kept.txt").stdout == sandbox_id
            with suppress(Timeout):  # a kubelet of this age takes up to a minute to notice a deletion
                box.delete()
        gone(lambda: owned(cluster, install, "pods") == [] == owned(cluster, install, "pvc"))
