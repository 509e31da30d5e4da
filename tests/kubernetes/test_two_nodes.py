"""Never two live sessions on one cargo, when a node is cut off or loses its power: each session writes who it
is into the files that both nodes have.
"""

import json
import secrets
import time
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import pytest
from examples.own_server import OwnServer
from kube_cluster import NODE, WAIT_S, Cluster, SecondNode
from test_bay_on_kubernetes import bay_in, config, owned

from bay.client import Box, Client
from bay.drivers.kubernetes.session_state import OUT_OF_SERVICE
from bay.errors import BayError

pytestmark = pytest.mark.kubernetes

POOL = "bay.test/pool"
ISOLATION = f"""
[kubernetes.isolations.movable]
node_selector = {{"{POOL}" = "shared"}}
tolerations = [{{key = "{SecondNode.TAINT}", operator = "Exists"}}]
"""


@pytest.fixture
def node(cluster: Cluster) -> Iterator[SecondNode]:
    with cluster.second_node() as node:
        yield node


@pytest.fixture
def install() -> str:
    return f"test-{secrets.token_hex(4)}"


@pytest.fixture
def bay(cluster: Cluster, node: SecondNode, install: str) -> Iterator[OwnServer]:
    """Its pods come to the second node, until a test gives the first one the label as well."""
    text = config(cluster, install).replace("[kubernetes]", '[kubernetes]\nstorage_class = "bay-shared"')
    text = text.replace("[profiles.python-default]", '[profiles.python-default]\nisolation = "movable"')
    label(cluster, SecondNode.NAME, "shared")
    try:
        with bay_in(cluster, install, text + ISOLATION) as server:
            yield server
    finally:
        label(cluster, NODE, None)


@pytest.fixture
def client(bay: OwnServer) -> Iterator[Client]:
    with bay.client() as client:
        yield client


def label(cluster: Cluster, node: str, value: str | None) -> None:
    cluster.kubectl("label", "node", node, f"{POOL}-" if value is None else f"{POOL}={value}", "--overwrite")


def begin_to_write(box: Box, name: str) -> None:
    """Have a program of the session write its name into the cargo, ten times in a second, to its end."""
    loop = f"while :; do echo {name} >>/workspace/beats; usleep 100000; done"
    box.spawn(["sh", "-c", loop])


def beats(cluster: Cluster, install: str) -> list[str]:
    """All that the sessions have written, read on the host: no sandbox is asked."""
    [claim] = json.loads(cluster.kubectl("get", "pvc", "-l", f"bay.dev/install={install}", "-o", "json"))[
        "items"
    ]
    volume = cluster.get("pv", claim["spec"]["volumeName"])
    found = list(Path(volume["spec"]["hostPath"]["path"]).rglob("beats"))
    return found[0].read_text().split() if found else []


def goes_on(cluster: Cluster, install: str) -> bool:
    before, end = len(beats(cluster, install)), time.monotonic() + WAIT_S
    while len(beats(cluster, install)) < before + 3:
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def moved(box: Box, cluster: Cluster, install: str, first: str) -> str:
    """The pod that the sandbox has after `first`, which may answer yet while it ends."""
    end = time.monotonic() + WAIT_S
    while True:
        assert time.monotonic() < end
        try:
            is_awake = box.run("echo awake").stdout == "awake\n"
        except BayError:
            is_awake = False
        if is_awake and len(now := owned(cluster, install, "pods")) == 1 and now != [first]:
            return now[0]
        time.sleep(0.3)


def in_turns(written: list[str]) -> list[str]:
    return [name for name, _ in groupby(written)]


def test_a_session_of_a_node_that_is_cut_off_has_no_other_beside_it(
    client: Client, cluster: Cluster, node: SecondNode, install: str
) -> None:
    box = client.sandboxes.create(wait=120)
    begin_to_write(box, "first")
    [first] = owned(cluster, install, "pods")
    with node.cut_off():
        cluster.wait_for(f"node/{node.NAME}", "condition=Ready=Unknown")
        label(cluster, NODE, "shared")  # there would be room for another
        cluster.kubectl("delete", "pod", first, "--force", "--grace-period=0", "--wait=false")
        with pytest.raises(BayError, match=node.NAME):
            box.run("echo never")
        assert owned(cluster, install, "pods") == [first]
        assert goes_on(cluster, install)
    moved(box, cluster, install, first)
    begin_to_write(box, "second")
    assert goes_on(cluster, install)
    assert in_turns(beats(cluster, install)) == ["first", "second"]
    box.delete()


def test_a_sandbox_of_a_node_without_power_moves_at_the_operators_word(
    client: Client, cluster: Cluster, node: SecondNode, install: str
) -> None:
    box = client.sandboxes.create(wait=120)
    begin_to_write(box, "first")
    assert goes_on(cluster, install)
    [first] = owned(cluster, install, "pods")
    node.tell("kill")
    cluster.wait_for(f"node/{node.NAME}", "condition=Ready=Unknown")
    label(cluster, NODE, "shared")
    with pytest.raises(BayError, match=node.NAME):
        box.run("echo never")
    cluster.kubectl("taint", "node", node.NAME, f"{OUT_OF_SERVICE}=shutdown:NoSchedule")
    second = moved(box, cluster, install, first)
    assert cluster.get("pod", second)["spec"]["nodeName"] == NODE
    begin_to_write(box, "second")
    assert goes_on(cluster, install)
    assert in_turns(beats(cluster, install)) == ["first", "second"]
    box.delete()
