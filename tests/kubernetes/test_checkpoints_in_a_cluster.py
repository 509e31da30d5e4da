"""Checkpoints of sandboxes in pods: `bay serve` with an object store, by the SDK."""

import io
import secrets
import threading
from collections.abc import Iterator
from contextlib import suppress

import object_server
import pytest
from examples.own_server import OwnServer
from kube_cluster import WAIT_S, Cluster
from object_server import FaultyFront, ObjectServer
from test_bay_on_kubernetes import bay_in, config, gone, owned

from bay.client import Client
from bay.errors import BayError
from bay.models import CheckpointPolicy

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(300)]

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
    box = client.sandboxes.create(checkpoint_policy=CheckpointPolicy(every=3600), wait=120)
    box.run("echo then > file; echo x > shut; chmod 000 shut; mkdir d; ln file d/link")
    counting = box.spawn("n=0; until [ -e go ]; do n=$((n+1)); echo $n > a; echo $n > b; done; echo over")
    kept = box.checkpoint(name="before")  # by the Ship of the pod that runs
    assert len(owned(cluster, install, "pods")) == 1
    box.pause()
    box.checkpoint()
    assert box.refresh().compute == "warm"
    assert box.run("touch go; echo now > file; cat file").stdout == "now\n"
    assert counting.wait().stdout == "over\n"
    box.stop()
    box.checkpoint()  # by a carrier
    assert owned(cluster, install, "pods") == []
    [fork] = box.fork(checkpoint=kept)
    assert fork.run("cat file; ls -l shut | cut -c1-10; stat -c %h d/link").stdout == "then\n----------\n2\n"
    one, two = (int(word[1:] or 0) for word in fork.run('echo "=$(cat a)" "=$(cat b)"').stdout.split())
    assert 0 in (one, two) or two <= one <= two + 1
    fork.run("echo elsewhere > file")
    box.restore(kept)  # which ends what runs, and starts it again
    assert box.run("cat file; echo more > new && cat new").stdout == "then\nmore\n"
    assert fork.run("cat file").stdout == "elsewhere\n"
    archive = io.BytesIO()
    box.export_checkpoint(kept, archive)
    pushed = box.push_checkpoint(kept)
    assert client.remote_checkpoints.wait(pushed.key).state == "ready"
    box.delete()
    archive.seek(0)
    came, pulled = fork.import_checkpoint(archive, name="came"), fork.pull_checkpoint(pushed.key)
    fork.restore(came)
    assert fork.run("cat file").stdout == "then\n"
    fork.delete_checkpoint(pulled)
    fork.delete_checkpoint(came)
    client.remote_checkpoints.delete(pushed.key)
    gone(lambda: [key for key in objects.objects(bucket) if "ckpt-" in key] == [])
    assert len(owned(cluster, install, "pvc")) == 1


def test_programs_go_on_and_the_checkpoint_is_made_when_bay_dies_in_the_middle(
    bay: OwnServer, client: Client, front: FaultyFront
) -> None:
    box = client.sandboxes.create(wait=120)
    box.run("head -c 24000000 /dev/urandom > noise")
    counting = box.spawn("n=0; until [ -e go ]; do n=$((n+1)); done; echo over")
    front.fault = lambda method, path: "stall" if method == "PUT" and "claims/" in path else None

    def ask() -> None:
        with bay.client() as other, suppress(BayError):
            other.sandboxes.get(box.id).checkpoint("half")

    asking = threading.Thread(target=ask)
    asking.start()
    gone(lambda: front.count("PUT", "claims/") > 0)
    bay.kill()
    front.fault = lambda _method, _path: None
    front.let_go.set()
    asking.join(WAIT_S)
    bay.start()
    assert box.run("touch go; echo on").stdout == "on\n"
    assert counting.wait().stdout == "over\n"
    [made] = box.checkpoints()
    assert made.name == "half"
