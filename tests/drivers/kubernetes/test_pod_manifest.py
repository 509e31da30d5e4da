"""The pods that the driver `kubernetes` asks for: the Pod Security Standard, and what they must not say."""

import json
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from bay.drivers.base import MountedVolume, SessionSpec
from bay.drivers.kubernetes import carriers, egress, pod
from bay.drivers.kubernetes.egress import EgressSettings, ProxyPlace
from bay.drivers.kubernetes.pod import EgressClass, Isolation, PodSettings
from bay.errors import DriverUnavailable, SandboxNotReady
from bay.models import NetworkPolicy, NetworkRule, Resources
from bay.places import VolumeClaim
from bay.units import MIB
from ship_protocol import bootstrap_token

pytestmark = pytest.mark.pure

SETTINGS = PodSettings(
    install="home", image="box:1", ship_image="ship:1", machine="x86_64",
    isolations={"container": Isolation(), "gvisor": Isolation(
        runtime_class="gvisor", node_selector={"kind": "metal"}, tolerations=({"key": "metal", "operator": "Exists"},),
    )},
)  # fmt: skip
SPEC = SessionSpec(
    session_id="sess-1", sandbox_id="sandbox-1", image="host", isolation="container", resources=Resources(),
    workspace=VolumeClaim(name="bay-ws-1", read_write_once_pod=True), token="a-secret-of-one-session", kernel_env={"KEY": "their-own-secret"},
)  # fmt: skip
PLAIN = pod.build(SPEC, SETTINGS, {})
FULL = pod.build(
    replace(
        SPEC, isolation="gvisor", home="/home/user", user="user", secret_files=True, layer_bytes=64 * MIB,
        volumes=(MountedVolume(path="/data", source=VolumeClaim(name="bay-ws-2", read_write_once_pod=True), read_only=True),),
        network=NetworkPolicy(mode="none"),
    ),
    replace(SETTINGS, service_account="bay-sandbox", pull_secrets=("registry",)),
    egress.resolver(EgressSettings(enforced=True, dns_servers=("9.9.9.9",)), NetworkPolicy(mode="none")),
)  # fmt: skip
PODS = pytest.mark.parametrize(
    "made", [PLAIN, FULL, carriers.manifest(PLAIN)], ids=["plain", "full", "carrier"]
)


def containers(made: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from made["spec"]["initContainers"]
    yield from made["spec"]["containers"]


@PODS
def test_each_rule_of_the_standard_restricted_holds(made: dict[str, Any]) -> None:
    spec = made["spec"]
    assert not spec.keys() & {"hostNetwork", "hostPID", "hostIPC", "hostUsers", "ephemeralContainers"}
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == 1000
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert {next(iter(volume.keys() - {"name"})) for volume in spec["volumes"]} <= {
        "emptyDir",
        "persistentVolumeClaim",
    }
    for container in containers(made):
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert not context.keys() & {"privileged", "procMount", "seLinuxOptions", "runAsUser", "runAsNonRoot"}
        assert not any("hostPort" in port for port in container.get("ports", ()))


@PODS
def test_nothing_of_the_cluster_is_given_to_the_programs(made: dict[str, Any]) -> None:
    assert made["spec"]["automountServiceAccountToken"] is False
    assert made["spec"]["enableServiceLinks"] is False


@PODS
def test_the_pod_says_no_secret_but_a_token_that_is_used_up_by_the_start(made: dict[str, Any]) -> None:
    text = json.dumps(made)
    assert "secret-of-one-session" not in text
    assert "their-own-secret" not in text
    assert bootstrap_token(SPEC.token) in text


@PODS
def test_labels_have_few_values_and_ids_are_annotations(made: dict[str, Any]) -> None:
    metadata = made["metadata"]
    assert "sess-1" not in json.dumps(metadata["labels"])
    assert "sandbox-1" not in json.dumps(metadata["labels"])
    assert metadata["annotations"][pod.SESSION] == "sess-1"
    assert metadata["annotations"][pod.SANDBOX] == "sandbox-1"


@PODS
def test_only_bay_ends_a_session(made: dict[str, Any]) -> None:
    spec = made["spec"]
    assert spec["restartPolicy"] == "Never"
    assert made["metadata"]["finalizers"] == [pod.FENCE]
    stays = [one for one in spec["tolerations"] if one.get("effect") == "NoExecute"]
    assert {one["key"].rpartition("/")[2] for one in stays} == {"not-ready", "unreachable"}
    assert not any("tolerationSeconds" in one for one in stays)
    lifetime_s = 3600 if made["metadata"]["labels"][pod.ROLE] == "carrier" else SETTINGS.lifetime_s
    assert spec["activeDeadlineSeconds"] == lifetime_s  # and the cluster, when there is no Bay


def test_the_name_is_the_sessions() -> None:
    assert PLAIN["metadata"]["name"] == "bay-sess-1"


def test_the_same_spec_has_the_same_hash_and_another_one_another() -> None:
    def hash_of(spec: SessionSpec) -> str:
        return str(pod.build(spec, SETTINGS, {})["metadata"]["annotations"][pod.SPEC_HASH])

    assert hash_of(SPEC) == hash_of(replace(SPEC))
    assert hash_of(SPEC) != hash_of(replace(SPEC, resources=Resources(cpus=2)))
    assert hash_of(SPEC) != hash_of(
        replace(SPEC, network=NetworkPolicy(mode="open"))
    )  # else it kept its class


def test_an_isolation_says_the_runtime_and_the_nodes() -> None:
    spec = FULL["spec"]
    assert spec["runtimeClassName"] == "gvisor"
    assert spec["nodeSelector"] == {"kubernetes.io/arch": "amd64", "kind": "metal"}
    assert {"key": "metal", "operator": "Exists"} in spec["tolerations"]
    assert "runtimeClassName" not in PLAIN["spec"]


def test_memory_is_reserved_and_cores_in_part() -> None:
    made = pod.build(replace(SPEC, resources=Resources(cpus=2, memory=512 * MIB)), SETTINGS, {})
    given = made["spec"]["containers"][0]["resources"]
    assert given["limits"] == {"cpu": "2000m", "memory": str(512 * MIB)}
    assert given["requests"] == {"cpu": "200m", "memory": str(512 * MIB)}


def test_the_copy_of_ship_has_a_disk_beside_the_sessions() -> None:
    limits = FULL["spec"]["containers"][0]["resources"]["limits"]
    assert int(limits["ephemeral-storage"]) >= (64 + 128) * MIB
    assert "ephemeral-storage" not in PLAIN["spec"]["containers"][0]["resources"]["limits"]


def test_volumes_are_mounted_where_they_belong() -> None:
    mounts = {one["mountPath"]: one for one in FULL["spec"]["containers"][0]["volumeMounts"]}
    assert mounts.keys() == {"/.ship", "/workspace", "/tmp", "/run/secrets", "/home/user", "/data"}
    assert mounts["/.ship"]["readOnly"] is mounts["/data"]["readOnly"] is True
    assert mounts["/workspace"]["subPath"] == mounts["/data"]["subPath"] == "workspace"
    volumes = {one["name"]: one for one in FULL["spec"]["volumes"]}
    assert volumes[mounts["/data"]["name"]]["persistentVolumeClaim"]["claimName"] == "bay-ws-2"
    assert volumes[mounts["/workspace"]["name"]]["persistentVolumeClaim"]["claimName"] == "bay-ws-1"
    assert volumes[mounts["/run/secrets"]["name"]]["emptyDir"]["medium"] == "Memory"


def test_a_home_in_the_workspace_has_no_volume_of_its_own() -> None:
    made = pod.build(replace(SPEC, home="/workspace/me"), SETTINGS, {})
    assert {one["name"] for one in made["spec"]["volumes"]} == {"ship", "workspace", "tmp"}


DIGEST = f"sha256:{'a' * 64}"


@pytest.mark.parametrize(
    ("named", "fetched"),
    [
        ("host", "box:1"),
        ("docker.io/library/debian:13", "docker.io/library/debian:13"),
        (f"docker.io/library/debian@{DIGEST}", f"docker.io/library/debian@{DIGEST}"),
        (f"docker.io/library/debian:13@{DIGEST}", f"docker.io/library/debian@{DIGEST}"),
        (f"localhost:5000/app@{DIGEST}", f"localhost:5000/app@{DIGEST}"),
        (f"localhost:5000/app:1@{DIGEST}", f"localhost:5000/app@{DIGEST}"),
    ],
)
def test_a_sandbox_runs_the_image_that_it_names_and_a_digest_counts_alone(named: str, fetched: str) -> None:
    spec = pod.build(replace(SPEC, image=named), SETTINGS, {})["spec"]
    assert spec["containers"][0]["image"] == fetched
    assert spec["containers"][0]["imagePullPolicy"] == SETTINGS.pull_policy
    assert spec["initContainers"][0]["image"] == "ship:1"


def test_ship_may_be_an_image_in_a_volume_at_the_place_of_the_copy() -> None:
    made = pod.build(SPEC, replace(SETTINGS, ship_volume="image", pull_policy="Always"), {})["spec"]
    assert "initContainers" not in made
    [source] = [one for one in made["volumes"] if one["name"] == "ship"]
    assert source == {"name": "ship", "image": {"reference": "ship:1", "pullPolicy": "Always"}}
    [mount] = [one for one in made["containers"][0]["volumeMounts"] if one["name"] == "ship"]
    assert mount == {"name": "ship", "mountPath": "/.ship", "subPath": "closure", "readOnly": True}
    for key in ("command", "env"):
        assert made["containers"][0][key] == PLAIN["spec"]["containers"][0][key]


def test_no_library_of_an_image_is_loaded_into_ship() -> None:
    variables = {one["name"]: one["value"] for one in PLAIN["spec"]["containers"][0]["env"]}
    assert (variables["LD_PRELOAD"], variables["LD_AUDIT"]) == ("", "")


def test_a_directory_of_a_host_is_refused() -> None:
    with pytest.raises(DriverUnavailable, match="volume-claims"):
        pod.build(replace(SPEC, workspace=Path("/var/lib/bay")), SETTINGS, {})


def test_a_long_or_odd_host_name_is_made_a_label() -> None:
    made = pod.build(replace(SPEC, hostname=f"{'a' * 62}-b"), SETTINGS, {})
    assert made["spec"]["hostname"] == "a" * 62


ENFORCED = EgressSettings(
    enforced=True,
    dns_servers=("9.9.9.9",),
    private=(ip_network("8.8.4.0/24"),),
    clients=(ip_network("10.9.0.0/16"),),
)


def test_the_class_none_reaches_nothing_and_only_bay_reaches_ship() -> None:
    made = egress.manifest(SETTINGS, ENFORCED, "none")["spec"]
    assert made["egress"] == []
    assert made["policyTypes"] == ["Ingress", "Egress"]
    [allowed] = made["ingress"]
    assert allowed["ports"] == [{"protocol": "TCP", "port": 8124}]
    assert {"ipBlock": {"cidr": "10.9.0.0/16"}} in allowed["from"]


def test_the_class_open_reaches_public_addresses_and_its_resolvers() -> None:
    made = egress.manifest(SETTINGS, ENFORCED, "open")["spec"]
    public, names = made["egress"]
    v4, v6 = (one["ipBlock"] for one in public["to"])
    for network in ("10.0.0.0/8", "100.64.0.0/10", "169.254.0.0/16", "192.168.0.0/16", "8.8.4.0/24"):
        assert network in v4["except"]
    assert "8.8.4.0/24" not in v6["except"]
    assert names["to"] == [{"ipBlock": {"cidr": "9.9.9.9/32"}}]
    assert all(ip_network(one).version == 4 for one in v4["except"])


RULES = (NetworkRule(action="allow", domain="example.com"),)
SERVICE = replace(ENFORCED, proxy=ProxyPlace(host="bay-egress.bay.svc", port=8701, listens_on=8702))


@pytest.mark.parametrize(
    ("policy", "of_class"),
    [
        (NetworkPolicy(mode="none"), "none"),
        (NetworkPolicy(mode="open"), "open"),
        (NetworkPolicy(mode="open", rules=RULES), "proxy"),
        (NetworkPolicy(mode="allowlist"), "proxy"),
        (NetworkPolicy(mode="allowlist", rules=RULES), "proxy"),
    ],
)
def test_the_pods_of_a_class_are_those_that_its_policy_selects(
    policy: NetworkPolicy, of_class: EgressClass
) -> None:
    made = pod.build(replace(SPEC, network=policy), SETTINGS, egress.resolver(SERVICE, policy))
    selected = egress.manifest(SETTINGS, SERVICE, of_class)["spec"]["podSelector"]["matchLabels"]
    assert selected.items() <= made["metadata"]["labels"].items()
    servers = made["spec"]["dnsConfig"]["nameservers"]
    assert servers == (["127.0.0.1"] if of_class == "proxy" else ["9.9.9.9"])


def test_the_class_proxy_reaches_bays_own_pods_at_the_proxys_port_and_nothing_else() -> None:
    made = egress.manifest(SETTINGS, SERVICE, "proxy")["spec"]
    [allowed] = made["egress"]
    assert allowed["ports"] == [{"protocol": "TCP", "port": 8702}]
    assert allowed["to"] == [
        {
            "namespaceSelector": {},
            "podSelector": {
                "matchLabels": {"app.kubernetes.io/name": "bay", "app.kubernetes.io/component": "server"}
            },
        }
    ]
    assert made["ingress"] == egress.manifest(SETTINGS, SERVICE, "none")["spec"]["ingress"]


def test_a_proxy_outside_of_the_cluster_is_reached_at_its_address() -> None:
    outside = replace(ENFORCED, proxy=ProxyPlace(host="10.1.2.3", port=8701, listens_on=8702))
    _, to_address = egress.manifest(SETTINGS, outside, "proxy")["spec"]["egress"]
    assert to_address["to"] == [{"ipBlock": {"cidr": "10.1.2.3/32"}}]
    assert to_address["ports"] == [{"protocol": "TCP", "port": 8701}]


def test_there_is_no_class_for_rules_without_a_proxy_that_pods_have_to_use() -> None:
    assert SERVICE.classes == ("none", "open", "proxy")
    assert ENFORCED.classes == ("none", "open")
    assert replace(SERVICE, enforced=False).classes == ("none", "open")


@pytest.mark.anyio
async def test_a_session_is_told_the_address_of_the_proxy_and_a_name_without_one_is_an_error() -> None:
    outside = replace(ENFORCED, proxy=ProxyPlace(host="10.1.2.3", port=8701, listens_on=8702))
    ruled = NetworkPolicy(mode="allowlist")
    assert await egress.proxy_of(outside, ruled) == "10.1.2.3:8701"
    v6 = replace(ENFORCED, proxy=ProxyPlace(host="fd00::1", port=8701, listens_on=8702))
    assert await egress.proxy_of(v6, ruled) == "[fd00::1]:8701"
    assert await egress.proxy_of(outside, NetworkPolicy(mode="open")) is None
    nowhere = replace(ENFORCED, proxy=ProxyPlace(host="bay-egress.invalid", port=8701, listens_on=8702))
    with pytest.raises(SandboxNotReady, match=r"bay-egress\.invalid"):
        await egress.proxy_of(nowhere, ruled)


def test_names_are_asked_of_the_clusters_own_resolver_only_where_nothing_is_held() -> None:
    assert egress.resolver(EgressSettings(enforced=False), NetworkPolicy()) == {}
    assert FULL["spec"]["dnsPolicy"] == "None"
    assert FULL["spec"]["dnsConfig"] == {"nameservers": ["9.9.9.9"]}
