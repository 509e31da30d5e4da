"""Two Bays on one database whose sandboxes are pods: each answers for all, and one goes on alone. The other
one finishes, once, whatever it was at when it was killed or frozen.
"""

import json
import os
import secrets
import signal
import tempfile
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import object_server
import postgres_server
import pytest
from examples.own_server import OwnServer, ServerFailed
from kube_cluster import Cluster
from test_bay_on_kubernetes import config, gone, owned
from test_checkpoints_in_a_cluster import STORE

import bay
from bay.errors import Timeout
from bay.server.replicas.leases import shard_of

pytestmark = [
    pytest.mark.kubernetes,
    pytest.mark.skipif(postgres_server.binaries() is None, reason="needs PostgreSQL"),
    pytest.mark.timeout(300),
]


LAZY = """
[profiles.lazy]
start = "lazy"
memory_mb = 128
disk_mb = 16
"""


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
        objects = object_server.shared()
        store = STORE.format(
            bucket=objects.bucket(), endpoint=objects.endpoint,
            access=object_server.ACCESS, secret=object_server.SECRET,
        )  # fmt: skip
        text = f'database_url = "{url}"\nreplicas = true\n{config(cluster, install)}{LAZY}{store}'
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
            assert there.sandboxes.get(sandbox_id).run("cat kept.txt").stdout == sandbox_id
        end(there, cluster, install)


def test_a_start_whose_replica_freezes_past_its_leases_is_the_other_ones_alone(
    replicas: tuple[OwnServer, OwnServer], cluster: Cluster, install: str
) -> None:
    with closing(replicas[0].client()) as here:
        box = here.sandboxes.create(profile="lazy")
        owner, other = owner_first(replicas, here, box)
    with closing(other.client()) as there:
        box = there.sandboxes.get(box.id)
        box.start()
        gone(lambda: owned(cluster, install, "pods") != [])
        with frozen(owner):
            assert box.refresh().status == "starting"
            started = box.start(wait=120)
            assert started.status == "ready", started
            gone(lambda: owner.url not in workers(there))
            box.files.write("kept.txt", "by the other\n")
            pods = owned(cluster, install, "pods")
            sessions = sessions_of(box)
        gone(lambda: owner.url in workers(there))
        with closing(owner.client()) as thawed:
            assert thawed.sandboxes.get(box.id).run("cat kept.txt").stdout == "by the other\n"
        assert owned(cluster, install, "pods") == pods
        assert sessions_of(box) == sessions
        assert len(pods) == 1
        end(there, cluster, install)


def test_a_start_and_a_restore_whose_replica_is_killed_are_finished_by_the_other_one(
    replicas: tuple[OwnServer, OwnServer], cluster: Cluster, install: str
) -> None:
    with closing(replicas[0].client()) as here:
        box = here.sandboxes.create(profile="lazy")
        owner, other = owner_first(replicas, here, box)
    with closing(other.client()) as there, ThreadPoolExecutor(1) as pool:
        box = there.sandboxes.get(box.id)
        box.start()
        gone(lambda: owned(cluster, install, "pods") != [])
        owner.kill()
        assert box.refresh().status == "starting"
        started = box.start(wait=120)
        assert started.status == "ready", started
        assert len(owned(cluster, install, "pods")) == 1
        assert len(sessions_of(box)) == 1
        box.run("echo then > file")
        box.stop()
        kept = box.checkpoint()
        box.run("echo now > file; echo more > other")
        owner.start()
        gone(lambda: owner.url in workers(there))
        owner, other = owner_first(replicas, there, box)
        with closing(other.client()) as left:
            box = left.sandboxes.get(box.id)
            restoring = pool.submit(box.restore, kept)
            gone(lambda: carriers(cluster, install) != [])
            owner.kill()
            restoring.result(120)
            assert box.run("cat file; ls").stdout == "then\nfile\n"
            assert len(owned(cluster, install, "pods")) == 1
            gone(lambda: carriers(cluster, install) == [])
            end(left, cluster, install)


def owner_first(
    replicas: tuple[OwnServer, OwnServer], client: bay.Client, box: bay.Box
) -> tuple[OwnServer, OwnServer]:
    """The replica that has the shard of the sandbox, once one has, and the other one."""
    shard = int(shard_of(box.id).removeprefix("shard:"))

    def owners() -> list[str]:
        return [one.url for one in client.admin.replicas().items if shard in one.shards]

    gone(lambda: owners() != [])
    one, other = replicas
    return (one, other) if owners() == [one.url] else (other, one)


def workers(client: bay.Client) -> set[str]:
    """The URLs of the replicas that have shards."""
    return {one.url for one in client.admin.replicas().items if one.shards}


@contextmanager
def frozen(server: OwnServer) -> Generator[None]:
    """It does nothing in the block, and its connections stay open."""
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


def sessions_of(box: bay.Box) -> list[str]:
    """The sessions that the sandbox ever had; none was ready twice."""
    found = [event.data["session_id"] for event in box.events(follow=False) if event.type == "sandbox.ready"]
    assert len(set(found)) == len(found)
    return found


def carriers(cluster: Cluster, install: str) -> list[str]:
    labels = f"bay.dev/install={install},bay.dev/role=carrier"
    return json.loads(cluster.kubectl("get", "pods", "-l", labels, "-o", "json"))["items"]


def end(client: bay.Client, cluster: Cluster, install: str) -> None:
    """Delete every sandbox, and wait until nothing is left of them."""
    for box in list(client.sandboxes.list()):
        with suppress(Timeout):  # a kubelet of this age takes up to a minute to notice a deletion
            box.delete()
    gone(lambda: owned(cluster, install, "pods") == [] == owned(cluster, install, "pvc"))
