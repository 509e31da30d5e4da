"""A whole Bay with its sandboxes in pods: `bay serve` with Bay's own rights, by the SDK and the CLI."""

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from examples.own_server import OwnServer, ServerFailed, own_server
from kube_cluster import NAMESPACE, WAIT_S, Cluster

from bay.client import Client
from bay.errors import CapabilityNotSupported, Timeout
from bay.models import NetworkPolicy, SandboxSecret, ServiceSpec, Volume

pytestmark = pytest.mark.kubernetes

CONFIG = """
driver = "kubernetes"
start_timeout = 120
[kubernetes]
install = "{install}"
kubeconfig = "{kubeconfig}"
namespace = "{namespace}"
image = "{image}"
ship_image = "bay.test/ship:1"
pull_policy = "Never"
unschedulable = 5
volume_mb = 16
[profiles.python-default]
memory_mb = 128
idle_timeout = 3600
disk_mb = 16
[profiles.large]
memory_mb = 100000000
disk_mb = 16
"""


def config(cluster: Cluster, install: str, image: str = "bay.test/box:1", user: str = "bay") -> str:
    return CONFIG.format(
        install=install, kubeconfig=cluster.kubeconfig(user), namespace=NAMESPACE, image=image
    )


@pytest.fixture
def install() -> str:
    return f"test-{secrets.token_hex(4)}"


@pytest.fixture
def bay(cluster: Cluster, install: str) -> Iterator[OwnServer]:
    with bay_in(cluster, install, config(cluster, install)) as server:
        yield server


@pytest.fixture
def client(bay: OwnServer) -> Iterator[Client]:
    with bay.client() as client:
        yield client


def owned(cluster: Cluster, install: str, kind: str) -> list[str]:
    """What the installation has of a kind, and lets not go."""
    listed = json.loads(cluster.kubectl("get", kind, "-l", f"bay.dev/install={install}", "-o", "json"))
    metadata = [one["metadata"] for one in listed["items"]]
    return [
        one["name"]
        for one in metadata
        if "deletionTimestamp" not in one or "bay.dev/fence" in one.get("finalizers", ())
    ]


@contextmanager
def bay_in(cluster: Cluster, install: str, text: str) -> Generator[OwnServer]:
    """A Bay with those settings, whose pods and claims have gone before it ends."""
    with own_server("bay-k-", text) as server:
        yield server
        with server.client() as client:
            for box in list(client.sandboxes.list()):
                with suppress(Timeout):  # a kubelet of this age takes up to a minute to notice a deletion
                    box.delete()
        gone(lambda: owned(cluster, install, "pods") == [] == owned(cluster, install, "pvc"))


def gone(is_so: Callable[[], bool]) -> None:
    """Return once it is so: a kubelet tells of an end some time after it."""
    end = time.monotonic() + WAIT_S
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.2)


def test_a_sandbox_keeps_its_files_and_its_name_while_pods_come_and_go(
    client: Client, cluster: Cluster, install: str
) -> None:
    box = client.sandboxes.create(name="work", env={"OWN": "secret-of-mine"}, wait=120)
    assert box.run("id -u; pwd; echo $OWN").stdout == "1000\n/workspace\nsecret-of-mine\n"
    box.files.write("kept.txt", "kept\n")
    [name] = owned(cluster, install, "pods")
    manifest = cluster.kubectl("get", "pod", name, "-o", "json")
    assert "secret-of-mine" not in manifest
    assert json.loads(manifest)["metadata"]["annotations"]["bay.dev/sandbox"] == box.id
    box.stop()
    assert box.files.read("kept.txt") == b"kept\n"  # which wakes it
    assert owned(cluster, install, "pods") != [name]
    box.delete()
    gone(lambda: owned(cluster, install, "pvc") == [])


def test_work_is_done_in_a_pod_as_on_one_box(client: Client) -> None:
    box = client.sandboxes.create(wait=120)
    assert box.run(["cat"], stdin="through\n").stdout == "through\n"
    ended = box.spawn(["sh", "-c", "for i in 1 2 3; do echo $i; done; exit 3"]).wait()
    assert (ended.exit_code, ended.stdout) == (3, "1\n2\n3\n")
    assert box.python.run("x = 20 + 1; x * 2").text == "42"
    box.files.write("page/index.html", "served\n")
    box.services.put(ServiceSpec(name="web", argv=("httpd", "-f", "-p", "8000", "-h", "page")))
    box.wait_for(8000)
    assert box.fetch(8000, "/index.html").text == "served\n"
    assert box.run("ls /proc/1/environ && cat /proc/1/environ").exit_code != 0
    assert box.run("kill -TERM 1; echo on").stdout == "on\n"
    assert box.run("env | grep KUBERNETES").exit_code == 1
    used = box.usage(over=0.2)
    assert all((used.cpu_usec, used.memory_bytes, used.memory_cache_bytes is not None, used.pids))
    assert used.cpus_used is not None


def test_a_bay_that_was_killed_takes_its_pods_over(bay: OwnServer, client: Client) -> None:
    box = client.sandboxes.create(wait=120)
    exec_id = box.spawn("echo begun; sleep 3000").id
    bay.kill()
    bay.start()
    assert client.sandboxes.get(box.id).info.compute == "running"
    assert box.execs.get(exec_id).info.state == "running"
    assert box.run("echo on").stdout == "on\n"


def test_a_paused_sandbox_keeps_its_memory_and_stays_paused_while_no_bay_runs(
    bay: OwnServer, client: Client
) -> None:
    box = client.sandboxes.create(wait=120)
    box.python.run("kept = 42")
    ticks = box.spawn("while :; do echo x >> ticks; sleep 0.01; done").id
    box.pause()
    bay.kill()
    bay.start()
    assert client.sandboxes.get(box.id).info.compute == "warm"
    assert box.python.run("kept").text == "42"
    assert box.execs.get(ticks).info.state == "running"
    seen = len(box.files.read("ticks"))
    box.update(idle_timeout=1)
    box.execs.get(ticks).kill()
    gone(lambda: client.sandboxes.get(box.id).info.compute == "warm")
    assert len(box.files.read("ticks")) > seen
    assert box.python.run("kept").text == "42"


def test_what_a_cluster_cannot_do_is_refused_and_nothing_is_left(
    client: Client, cluster: Cluster, install: str
) -> None:
    box = client.sandboxes.create(wait=120)
    for refused in (
        lambda: box.checkpoint(),
        lambda: box.fork(),
        lambda: client.templates.create("mine", sandbox=box.id),
        lambda: client.sandboxes.create(network_policy=NetworkPolicy(mode="none")),
    ):
        with pytest.raises(CapabilityNotSupported):
            refused()
    assert len(owned(cluster, install, "pods")) == len(owned(cluster, install, "pvc")) == 1


def test_a_pod_has_its_secrets_in_memory_and_its_volumes_beside_the_workspace(
    client: Client, cluster: Cluster, install: str
) -> None:
    client.secrets.set("token", "secret-in-a-file")
    cargo = client.cargos.create(size_limit_mb=16)
    box = client.sandboxes.create(
        secrets=[SandboxSecret(name="token", file="/run/secrets/token")],
        volumes=[Volume(cargo=cargo.id, path="/data")],
        wait=120,
    )
    assert box.run("cat /run/secrets/token; stat -c %a /run/secrets/token").stdout == "secret-in-a-file400\n"
    assert "tmpfs /run/secrets" in box.run("grep /run/secrets /proc/mounts").stdout
    assert box.run("echo kept > /data/file && cat /data/file").stdout == "kept\n"
    [name] = owned(cluster, install, "pods")
    assert "secret-in-a-file" not in cluster.kubectl("get", "pod", name, "-o", "json")
    box.delete()
    client.cargos.delete(cargo.id)


def test_a_start_that_cannot_be_is_a_reason_on_the_sandbox(client: Client) -> None:
    box = client.sandboxes.create(profile="large", wait=120)
    failure = box.info.error
    assert failure is not None
    assert "no node takes the pod: Unschedulable" in failure.message
    assert "Insufficient memory" in failure.message


def test_the_command_line_works_as_ever(bay: OwnServer) -> None:
    environment = {**os.environ, "BAY_URL": bay.url, "BAY_API_KEY": bay.api_key}

    def run(*args: str) -> str:
        command = [Path(sys.executable).with_name("bay"), *args]
        return subprocess.run(
            command, env=environment, check=True, capture_output=True, text=True, timeout=180
        ).stdout

    run("create", "shell", "--wait", "120")
    assert run("exec", "shell", "--", "seq", "3") == "1\n2\n3\n"
    assert "shell" in run("ls")
    run("rm", "shell")


def test_a_wrong_cluster_is_one_clear_line_at_the_start(
    cluster: Cluster, install: str, tmp_path: Path
) -> None:
    wrong = json.loads(cluster.kubeconfig("bay").read_text())
    wrong["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"
    (tmp_path / "kubeconfig").write_text(json.dumps(wrong))
    text = config(cluster, install).replace(str(cluster.kubeconfig("bay")), str(tmp_path / "kubeconfig"))
    with pytest.raises(ServerFailed, match=r"127\.0\.0\.1:1"), own_server("bay-k-", text):
        pass
    with (
        pytest.raises(ServerFailed, match="kubeconfig"),
        own_server("bay-k-", text.replace("/kubeconfig", "/none")),
    ):
        pass
