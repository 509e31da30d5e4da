"""Checkpoints of sandboxes in pods as VolumeSnapshots: `bay serve` without an object store, by the SDK."""

import json
import secrets

import pytest
from kube_cluster import Cluster
from test_bay_on_kubernetes import bay_in, config, gone, owned

from bay.errors import DriverUnavailable
from bay.models import CheckpointPolicy

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(300)]


def test_a_running_sandbox_goes_back_and_forks_by_snapshots_of_its_volume(cluster: Cluster) -> None:
    install = f"test-{secrets.token_hex(4)}"
    text = config(cluster, install).replace("unschedulable = 5", "unschedulable = 60")
    absent, present = (
        text.replace("volume_mb = 16", f'volume_mb = 16\nsnapshot_class = "{name}"')
        for name in ("none-such", "bay-test")
    )
    with bay_in(cluster, install, absent) as server, server.client() as client:
        box = client.sandboxes.create(wait=120, checkpoint_policy=CheckpointPolicy(before_stop=True))
        box.run("echo then > file; mkdir d; ln file d/link; chmod 600 d/link")
        with pytest.raises(DriverUnavailable, match="volumesnapshotclass none-such not found"):
            box.checkpoint()
        gone(lambda: owned(cluster, install, "volumesnapshots") == [])
        server.kill()
        server.config = present
        server.start()
        ticks = box.spawn("while :; do echo x >> ticks; sleep 0.01; done").id
        kept = box.checkpoint(name="before")
        assert box.execs.get(ticks).info.state == "running"
        [name] = owned(cluster, install, "volumesnapshots")
        assert name == f"bay-{kept.id}"
        [before] = owned(cluster, install, "pvc")
        box.run("echo now > file; echo more > d/new")
        [fork] = box.fork(checkpoint=kept)
        facts = "cat file; stat -c '%h %a' d/link; ls d"
        assert fork.run(facts).stdout == "then\n2 600\nlink\n"
        fork.run("echo elsewhere > file")
        box.restore(kept)
        assert box.run(facts).stdout == "then\n2 600\nlink\n"
        gone(lambda: before not in owned(cluster, install, "pvc"))
        claims = json.loads(cluster.kubectl("get", "pvc", f"{before}-b", "-o", "json"))
        assert claims["spec"]["dataSource"]["name"] == name
        server.kill()
        server.start()
        box.stop()  # which makes a checkpoint of the new claim
        gone(lambda: len(owned(cluster, install, "volumesnapshots")) == 2)
        assert box.run("cat file").stdout == "then\n"
        box.delete_checkpoint(kept)
        gone(lambda: name not in owned(cluster, install, "volumesnapshots"))
        assert fork.run("cat file").stdout == "elsewhere\n"
        box.delete()
        gone(lambda: owned(cluster, install, "volumesnapshots") == [])
