"""Checkpoints of sandboxes in pods: `bay serve` with an object store, by the SDK."""

import io
import secrets
from collections.abc import Iterator

import object_server
import pytest
from examples.own_server import OwnServer
from kube_cluster import Cluster
from object_server import FaultyFront, ObjectServer
from test_bay_on_kubernetes import bay_in, config, gone, owned

from bay.client import Client
from bay.errors import CapabilityNotSupported, Conflict
from bay.models import CheckpointPolicy

pytestmark = pytest.mark.timeout(300)

STORE = """
[object_store]
url = "s3://{bucket}/bay"
endpoint = "{endpoint}"
region = "us-east-1"
access_key_id = "{access}"
secret_access_key = "{secret}"
timeout = 5
"""


@pytest.fixture
def install() -> str:
    return f"test-{secrets.token_hex(4)}"


@pytest.fixture
def objects() -> ObjectServer:
    return object_server.shared()


@pytest.fixture
def front(objects: ObjectServer) -> Iterator[FaultyFront]:
    with object_server.faulty(objects) as found:
        yield found


@pytest.fixture
def bucket(objects: ObjectServer) -> str:
    return objects.bucket()


@pytest.fixture
def bay(cluster: Cluster, install: str, front: FaultyFront, bucket: str) -> Iterator[OwnServer]:
    store = STORE.format(
        bucket=bucket, endpoint=front.endpoint, access=object_server.ACCESS, secret=object_server.SECRET
    )
    text = config(cluster, install).replace("unschedulable = 5", "unschedulable = 60") + store
    with bay_in(cluster, install, text) as server:
        yield server


@pytest.fixture
def client(bay: OwnServer) -> Iterator[Client]:
    with bay.client() as client:
        yield client


def test_a_sandbox_goes_back_and_forks_go_their_own_way(
    client: Client, cluster: Cluster, install: str, objects: ObjectServer, bucket: str
) -> None:
    box = client.sandboxes.create(wait=120)
    box.run("echo then > file; echo x > shut; chmod 000 shut; mkdir d; ln file d/link; stat -c %u:%g .")
    with pytest.raises(Conflict, match="stop that sandbox"):
        box.checkpoint()
    with pytest.raises(CapabilityNotSupported, match="before_stop"):
        box.update(checkpoint_policy=CheckpointPolicy(every=60))
    assert objects.objects(bucket) == {}
    box.stop()
    kept = box.checkpoint(name="before")
    assert owned(cluster, install, "pods") == []
    assert box.run("echo now > file; cat file").stdout == "now\n"
    [fork] = box.fork(checkpoint=kept)
    assert fork.run("cat file; ls -l shut | cut -c1-10; stat -c %h d/link").stdout == "then\n----------\n2\n"
    fork.run("echo elsewhere > file")
    box.restore(kept)  # which ends what runs, and starts it again
    assert box.run("cat file; echo more > new && cat new").stdout == "then\nmore\n"
    assert fork.run("cat file").stdout == "elsewhere\n"
    for refused in (lambda: box.export_checkpoint(kept, io.BytesIO()), lambda: box.push_checkpoint(kept)):
        with pytest.raises(CapabilityNotSupported):
            refused()
    box.delete()
    gone(lambda: objects.objects(bucket) == {} and len(owned(cluster, install, "pvc")) == 1)
