"""The tests' own Kubernetes is a real one: it runs pods, keeps claims, refuses what Bay may not do,
and can be broken.
"""

import http.client
import itertools
import os
import time
from collections.abc import Iterator
from typing import Any

import pytest
from kube_cluster import NODE, WAIT_S, Cluster, Refused

pytestmark = pytest.mark.kubernetes

_PORT = 8080
_numbers = itertools.count()


@pytest.fixture
def name(cluster: Cluster) -> Iterator[str]:
    """A name for a pod and a claim, which go at the end."""
    name = f"test-cluster-{os.getpid()}-{next(_numbers)}"
    yield name
    cluster.kubectl("delete", f"pod/{name}", f"pvc/{name}", "--ignore-not-found", "--wait=false")


def pod(name: str, command: str, image: str = "box", claim: bool = False) -> dict[str, Any]:
    """A pod as the policy admits it, which runs a line of shell."""
    container: dict[str, Any] = {
        "name": "main",
        "image": f"bay.test/{image}:1",
        "imagePullPolicy": "Never",
        "command": ["sh", "-c", command],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 1,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 1000,
            "runAsGroup": 1000,
            "fsGroup": 1000,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
    }
    if claim:
        spec["volumes"] = [{"name": "files", "persistentVolumeClaim": {"claimName": name}}]
        container["volumeMounts"] = [{"name": "files", "mountPath": "/workspace"}]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


def claim_of(name: str, **spec: Any) -> dict[str, Any]:
    asked = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "16Mi"}}, **spec}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": asked}


def says(cluster: Cluster, name: str) -> str:
    """The output of a pod once it has ended well."""
    cluster.wait_for(f"pod/{name}", "jsonpath={.status.phase}=Succeeded")
    return cluster.kubectl("logs", name, user="bay")


def fetch(address: str) -> str:
    """The page of a server in a pod, as soon as it listens."""
    end = time.monotonic() + WAIT_S
    while True:
        connection = http.client.HTTPConnection(address, _PORT, timeout=5)
        try:
            connection.request("GET", "/page")
            return connection.getresponse().read().decode()
        except OSError:
            assert time.monotonic() < end, f"nothing answers at {address}"
            time.sleep(0.02)
        finally:
            connection.close()


def address_of(cluster: Cluster, name: str) -> str:
    """The address of a pod that serves a page, once it runs."""
    cluster.wait_for(f"pod/{name}", "condition=Ready")
    return cluster.get("pod", name)["status"]["podIP"]


SERVES = f"echo hello > /tmp/page; exec httpd -f -p {_PORT} -h /tmp"


def test_the_node_is_ready(cluster: Cluster) -> None:
    conditions = {one["type"]: one["status"] for one in cluster.get("node", NODE)["status"]["conditions"]}
    assert conditions["Ready"] == "True"


def test_a_restricted_pod_of_bay_answers_at_its_address(cluster: Cluster, name: str) -> None:
    cluster.create(pod(name, SERVES))
    assert fetch(address_of(cluster, name)) == "hello\n"


def test_a_pod_has_a_user_and_its_group_and_no_capability(cluster: Cluster, name: str) -> None:
    cluster.create(pod(name, "id -un; id -u; id -G; grep -E '^(Cap|NoNew|Seccomp:)' /proc/self/status"))
    user, number, groups, *rules = says(cluster, name).splitlines()
    assert (user, number, groups) == ("user", "1000", "1000")
    found = dict(line.split(":\t") for line in rules)
    assert {found[f"Cap{kind}"] for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}
    assert (found["NoNewPrivs"], found["Seccomp"]) == ("1", "2")


def test_the_image_with_ship_has_all_that_ship_needs(cluster: Cluster, name: str) -> None:
    loader = "/closure/lib/ld-linux-*.so.* --library-path /closure/lib /closure/bin/python3"
    cluster.create(
        pod(
            name,
            f"PYTHONHOME=/closure exec {loader} -I -S -B -c 'import ship.app; print(ship.app.__name__)'",
            "ship",
        )
    )
    assert says(cluster, name) == "ship.app\n"


def test_a_claim_is_bound_and_keeps_its_file_for_the_next_pod(cluster: Cluster, name: str) -> None:
    cluster.create(claim_of(name), pod(name, "echo kept > /workspace/file", claim=True))
    assert says(cluster, name) == ""
    assert cluster.get("pvc", name)["status"]["phase"] == "Bound"
    cluster.kubectl("delete", f"pod/{name}", user="bay")
    cluster.create(pod(name, "cat /workspace/file", claim=True))
    assert says(cluster, name) == "kept\n"


def test_a_deleted_claim_takes_its_volume_along(cluster: Cluster, name: str) -> None:
    cluster.create(claim_of(name), pod(name, "true", claim=True))
    says(cluster, name)
    volume = cluster.get("pvc", name)["spec"]["volumeName"]
    cluster.kubectl("delete", f"pod/{name}", f"pvc/{name}", user="bay")
    cluster.wait_for(f"pv/{volume}", "delete")
    with pytest.raises(Refused, match="NotFound"):
        cluster.get("pv", volume)


def test_a_claim_of_the_absent_provisioner_waits_for_it(cluster: Cluster, name: str) -> None:
    cluster.create(claim_of(name, storageClassName="bay-absent"), pod(name, "true", claim=True))
    cluster.wait_for(
        f"pvc/{name}",
        f"jsonpath={{.metadata.annotations.volume\\.kubernetes\\.io/selected-node}}={NODE}",
    )
    assert cluster.get("pvc", name)["status"]["phase"] == "Pending"
    assert cluster.get("pod", name)["status"]["phase"] == "Pending"


@pytest.mark.parametrize(
    "act",
    [
        "get secrets",
        "create pods --subresource=exec",
        "patch pods --subresource=status",
        "create serviceaccounts --subresource=token",
        "delete nodes",
        "patch nodes",
        "create namespaces",
        "create rolebindings.rbac.authorization.k8s.io",
        "delete persistentvolumes",
        "list pods --namespace kube-system",
        "create persistentvolumeclaims --namespace default",
    ],
)
def test_bay_may_not(cluster: Cluster, act: str) -> None:
    with pytest.raises(Refused) as refused:
        cluster.kubectl("auth", "can-i", *act.split(), user="bay")
    assert "error" not in str(refused.value).lower()  # the answer is no: it is not that nobody could be asked


@pytest.mark.parametrize(
    "act",
    [
        "create pods",
        "watch pods",
        "patch pods",
        "delete pods",
        "get pods --subresource=log",
        "list events",
        "create persistentvolumeclaims",
        "watch persistentvolumeclaims",
        "patch persistentvolumeclaims",
        "delete networkpolicies.networking.k8s.io",
        "watch nodes",
        "list storageclasses.storage.k8s.io",
        "get serviceaccounts",
        "use podsecuritypolicies.policy/restricted",
    ],
)
def test_bay_may(cluster: Cluster, act: str) -> None:
    assert cluster.kubectl("auth", "can-i", *act.split(), user="bay") == "yes\n"


def test_bay_is_refused_secrets_and_the_deletion_of_a_node(cluster: Cluster) -> None:
    with pytest.raises(Refused, match="Forbidden"):
        cluster.kubectl("get", "secrets", user="bay")
    with pytest.raises(Refused, match="Forbidden"):
        cluster.kubectl("delete", "node", NODE, user="bay")
    assert cluster.get("node", NODE)["metadata"]["name"] == NODE


def make_privileged(spec: dict[str, Any]) -> None:
    spec["containers"][0]["securityContext"]["privileged"] = True
    spec["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = True


def mount_the_host(spec: dict[str, Any]) -> None:
    spec["volumes"] = [{"name": "host", "hostPath": {"path": "/"}}]


def make_root(spec: dict[str, Any]) -> None:
    spec["securityContext"] |= {"runAsUser": 0, "runAsNonRoot": False}


def add_net_admin(spec: dict[str, Any]) -> None:
    spec["containers"][0]["securityContext"]["capabilities"] = {"add": ["NET_ADMIN"]}


def forget_the_seccomp_profile(spec: dict[str, Any]) -> None:
    del spec["securityContext"]["seccompProfile"]


def use_the_hosts_network(spec: dict[str, Any]) -> None:
    spec["hostNetwork"] = True


@pytest.mark.parametrize("user", ["bay", "admin"])
@pytest.mark.parametrize(
    "change",
    [
        make_privileged,
        mount_the_host,
        make_root,
        add_net_admin,
        use_the_hosts_network,
        forget_the_seccomp_profile,
    ],
)
def test_the_policy_refuses(cluster: Cluster, name: str, change: Any, user: str) -> None:
    made = pod(name, "true")
    change(made["spec"])
    with pytest.raises(
        Refused, match=r"unable to admit pod|unable to validate against any pod security policy"
    ):
        cluster.create(made, user=user)


@pytest.mark.alone
def test_a_pod_runs_on_when_the_kubelet_is_killed_and_its_node_is_unknown(
    cluster: Cluster, name: str
) -> None:
    cluster.create(pod(name, SERVES))
    address = address_of(cluster, name)
    with cluster.without("kubelet"):
        cluster.wait_for(f"node/{NODE}", "condition=Ready=Unknown")
        assert cluster.get("pod", name)["status"]["phase"] == "Running"
        assert fetch(address) == "hello\n"
        cluster.kubectl("delete", f"pod/{name}", "--force", "--grace-period=0")
        with pytest.raises(Refused, match="NotFound"):
            cluster.get("pod", name)
        assert fetch(address) == "hello\n"
    assert cluster.kubectl("get", "node", NODE, "-o", "name") == f"node/{NODE}\n"


@pytest.mark.alone
def test_a_killed_api_server_refuses_connections_and_keeps_its_objects(cluster: Cluster, name: str) -> None:
    cluster.create(claim_of(name))
    with cluster.without("api"), pytest.raises(Refused, match="refused"):
        cluster.get("pvc", name)
    assert cluster.get("pvc", name)["status"]["phase"] == "Pending"


@pytest.mark.alone
def test_a_frozen_api_server_takes_connections_and_says_nothing(cluster: Cluster, name: str) -> None:
    cluster.create(claim_of(name))
    with cluster.frozen("api"), pytest.raises(Refused, match=r"(?i)timeout|deadline exceeded"):
        cluster.kubectl("get", "pvc", name, "--request-timeout=1s")
    assert cluster.get("pvc", name)["status"]["phase"] == "Pending"
