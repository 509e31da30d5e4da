"""The chart in deploy/helm: what it makes, by the real `helm`, and what it refuses."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from helm_charts import CHART, MINIMAL, ROOT, HelmFailed, helm, of_kind, rendered
from pydantic import SecretStr

import bay
from bay.drivers.kubernetes import driver, egress, pod
from bay.server.settings import SettingFields, Settings, load

pytestmark = pytest.mark.docs

FULL: dict[str, Any] = {
    "replicas": 3,
    "image": {"repository": "registry.example.com/bay-server", "tag": "9", "pullPolicy": "Always"},
    "imagePullSecrets": [{"name": "registry"}],
    "sandboxes": {"namespace": "strangers", "install": "blue"},
    "settings": {
        "start_limit": 300,
        "event_max_count": 12345678,
        "kubernetes": {
            "image": "box:1", "ship_image": "ship:1", "network_enforced": True, "cpu_request": 0.5,
            "isolations": {"gvisor": {"tolerations": [{"key": "gvisor", "tolerationSeconds": 30}]}},
        },
        "profiles": {"python-default": {"memory_mb": 128, "cpus": 0.5, "env": {"LANG": "C.UTF-8"}}},
        "object_store": {"url": "s3://bucket/bay", "endpoint": "https://s3.example.com"},
    },
    "secrets": {
        "database": {"name": "postgres-app", "key": "uri"},
        "objectStore": {"name": "s3"},
    },
    "serviceAccount": {"annotations": {"cloud.example.com/role": "bay"}},
    "service": {"type": "LoadBalancer", "port": 8080, "annotations": {"a": "b"}},
    "ingress": {"enabled": True, "className": "nginx", "host": "bay.example.com", "tlsSecret": "bay-tls"},
    "networkPolicy": {
        "from": [{"namespaceSelector": {"matchLabels": {"app": "ingress"}}}],
        "egress": {"enabled": True, "to": [{"ports": [{"port": 5432}]}, {"ports": [{"port": 443}]}]},
    },
    "migration": {"deadline": 60},
    "podAnnotations": {"a": "b"},
    "podLabels": {"team": "x"},
    "nodeSelector": {"kubernetes.io/os": "linux"},
    "tolerations": [{"key": "bay", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "priorityClassName": "high",
    "extraEnv": [{"name": "AWS_REGION", "value": "eu-central-1"}],
    "extraVolumes": [{"name": "ca", "configMap": {"name": "ca"}}],
    "extraVolumeMounts": [{"name": "ca", "mountPath": "/etc/ca"}],
}  # fmt: skip
PROXIED: dict[str, Any] = {**FULL, "egressProxy": {"enabled": True, "port": 9701}}
VALUES = pytest.mark.parametrize("values", [MINIMAL, FULL], ids=["minimal", "full"])
OPEN = ("settings", "annotations", "podAnnotations", "podLabels", "nodeSelector", "affinity", "labels")
"""Values that are maps of names which the chart does not know."""


def pods(objects: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The specs of pods, by the kind of object that has them."""
    return {
        one["kind"]: one["spec"]["template"]["spec"] for one in objects if "template" in one.get("spec", {})
    }


def settings_of(objects: list[dict[str, Any]], tmp_path: Path) -> Settings:
    """Bay's settings, as it reads the file of the ConfigMap."""
    path = tmp_path / "bay.toml"
    path.write_text(of_kind(objects, "ConfigMap")["data"]["bay.toml"])
    return load(path)


@pytest.mark.gate
@VALUES
def test_lint_finds_nothing(values: dict[str, Any]) -> None:
    assert "0 chart(s) failed" in helm("lint", "--strict", str(CHART), values=values)


@VALUES
def test_its_pods_meet_the_standard_restricted_and_write_to_volumes_alone(values: dict[str, Any]) -> None:
    found = pods(rendered(values))
    assert set(found) == {"Deployment", "Job"}
    for spec in found.values():
        assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & set(spec)
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        kinds = {kind for volume in spec["volumes"] for kind in volume if kind != "name"}
        assert kinds <= {"configMap", "emptyDir", "projected", "secret"}
        [container] = spec["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
        }  # fmt: skip
        assert container["resources"]["limits"]["memory"]
    assert found["Job"]["automountServiceAccountToken"] is False


@VALUES
def test_its_rights_are_those_of_the_page_and_all_that_the_driver_asks(values: dict[str, Any]) -> None:
    page = (ROOT / "docs/kubernetes.md").read_text(encoding="utf-8")
    [block] = [text for text in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL) if "kind: Role" in text]
    objects = rendered(values)
    rights: dict[str, list[str]] = {}
    for said in yaml.safe_load_all(block):
        made = of_kind(objects, said["kind"])
        assert made["rules"] == said["rules"]
        for rule in made["rules"]:
            rights |= dict.fromkeys(rule["resources"], rule["verbs"])
    for kind, verbs in driver._VERBS.items():
        assert set(verbs) <= set(rights[kind.plural])
    assert "*" not in json.dumps([one for one in objects if one["kind"] in ("Role", "ClusterRole")])


@VALUES
def test_it_may_take_snapshots_where_a_class_of_them_is_named_and_nowhere_else(
    values: dict[str, Any],
) -> None:
    page = (ROOT / "docs/kubernetes.md").read_text(encoding="utf-8")
    [said] = yaml.safe_load(
        next(text for text in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL) if "volumesnapshots" in text)
    )
    [(kind, verbs)] = driver._VERBS_OF_SNAPSHOTS.items()
    assert said == {"apiGroups": [kind.group], "resources": [kind.plural], "verbs": [*verbs]}
    assert said not in of_kind(rendered(values), "Role")["rules"]
    settings = values["settings"]
    named = {**settings, "kubernetes": {**settings["kubernetes"], "snapshot_class": "fast"}}
    assert said in of_kind(rendered({**values, "settings": named}), "Role")["rules"]


@VALUES
def test_rights_go_to_bays_own_account_in_the_namespace_of_the_sandboxes(values: dict[str, Any]) -> None:
    objects = rendered(values)
    namespace = values.get("sandboxes", {}).get("namespace", "bay-sandboxes")
    account = of_kind(objects, "ServiceAccount")["metadata"]
    for kind in ("RoleBinding", "ClusterRoleBinding"):
        made = of_kind(objects, kind)
        assert made["subjects"] == [{"kind": "ServiceAccount", "name": account["name"], "namespace": "bay"}]
        assert made["roleRef"]["name"] == of_kind(objects, made["roleRef"]["kind"])["metadata"]["name"]
    assert of_kind(objects, "RoleBinding")["metadata"]["namespace"] == namespace
    assert pods(objects)["Deployment"]["serviceAccountName"] == account["name"]


@VALUES
def test_the_namespace_of_the_sandboxes_enforces_restricted_and_outlives_the_release(
    values: dict[str, Any],
) -> None:
    made = of_kind(rendered(values), "Namespace")["metadata"]
    assert made["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert made["annotations"]["helm.sh/resource-policy"] == "keep"


def test_objects_that_are_there_already_are_not_made() -> None:
    values = {**MINIMAL, "sandboxes": {"createNamespace": False}, "serviceAccount": {"name": "given"}}
    objects = rendered(values)
    kinds = {one["kind"] for one in objects}
    assert not kinds & {"Namespace", "ServiceAccount", "Role", "RoleBinding", "ClusterRole", "Secret"}
    assert pods(objects)["Deployment"]["serviceAccountName"] == "given"


def test_the_egress_proxy_is_reached_by_pods_of_its_class_at_the_port_where_bay_listens(
    tmp_path: Path,
) -> None:
    objects = rendered(PROXIED)
    assert len(rendered(FULL)) == len(objects) - 1
    cluster = settings_of(objects, tmp_path).kubernetes
    assert cluster is not None
    [service] = [
        one for one in objects if one["kind"] == "Service" and one["metadata"]["name"].endswith("-egress")
    ]
    metadata = service["metadata"]
    assert cluster.egress_proxy == f"{metadata['name']}.{metadata['namespace']}.svc:9701"
    assert cluster.egress_proxy_listen == "0.0.0.0:9701"
    [port] = service["spec"]["ports"]
    [container] = pods(objects)["Deployment"]["containers"]
    assert (port["port"], port["targetPort"]) == (9701, "egress")
    assert {"name": "egress", "protocol": "TCP", "containerPort": 9701} in container["ports"]
    policy = of_kind(objects, "NetworkPolicy")["spec"]
    [admitted] = [one for one in policy["ingress"] if one["ports"] == [{"protocol": "TCP", "port": 9701}]]
    [peer] = admitted["from"]
    pods_of = pod.PodSettings(install="blue", image="box:1", ship_image="ship:1")
    held = egress.manifest(pods_of, egress.EgressSettings(enforced=True), "proxy")["spec"]["podSelector"]
    assert peer == {"namespaceSelector": {}, "podSelector": held}
    [public] = [one for one in policy["egress"] if one.get("to", [{}])[0].get("ipBlock")]
    assert "10.0.0.0/8" in public["to"][0]["ipBlock"]["except"]


def test_the_egress_proxy_is_refused_where_pods_walk_around_it() -> None:
    with pytest.raises(HelmFailed, match="network_enforced"):
        rendered({**MINIMAL, "egressProxy": {"enabled": True}})


# Settings and secrets


@pytest.mark.gate
def test_bay_reads_its_settings_as_they_were_given(tmp_path: Path) -> None:
    found = settings_of(rendered(FULL), tmp_path)
    assert (found.driver, found.replicas, found.start_limit) == ("kubernetes", True, 300)
    assert found.event_max_count == 12345678
    assert found.public_url == "https://bay.example.com"
    assert found.kubernetes is not None
    assert (found.kubernetes.install, found.kubernetes.namespace) == ("blue", "strangers")
    assert found.kubernetes.isolations["gvisor"].tolerations == ({"key": "gvisor", "tolerationSeconds": 30},)
    assert found.profiles["python-default"].memory_mb == 128
    assert found.object_store is not None
    assert found.object_store.url == "s3://bucket/bay"


def test_the_release_names_the_installation_and_the_settings_may_name_the_url(tmp_path: Path) -> None:
    settings = {**MINIMAL["settings"], "public_url": "https://elsewhere.example.com"}
    ingress = {"enabled": True, "host": "bay.example.com"}
    found = settings_of(rendered({**MINIMAL, "settings": settings, "ingress": ingress}), tmp_path)
    assert found.public_url == "https://elsewhere.example.com"
    assert found.kubernetes is not None
    assert found.kubernetes.install == "prod"
    assert found.kubernetes.namespace == "bay-sandboxes"


def secret_settings(fields: Any = Settings, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The places of all settings that are secrets."""
    for name, field in fields.model_fields.items():
        kinds = [field.annotation, *getattr(field.annotation, "__args__", ())]
        if SecretStr in kinds:
            yield (*path, name)
        for kind in kinds:
            if isinstance(kind, type) and issubclass(kind, SettingFields):
                yield from secret_settings(kind, (*path, name))


def test_there_are_secret_settings() -> None:
    assert ("object_store", "secret_access_key") in [*secret_settings()]
    assert len([*secret_settings()]) >= 3


@pytest.mark.parametrize(
    "path",
    [
        *secret_settings(),
        *(("driver",), ("data_dir",), ("replicas",), ("port",), ("secrets_key_file",)),
        ("kubernetes", "install"),
        ("kubernetes", "namespace"),
    ],
    ids=".".join,
)
def test_a_secret_and_a_setting_of_the_charts_own_are_refused_in_the_settings(path: tuple[str, ...]) -> None:
    given: Any = "x"
    for name in reversed(path):
        given = {name: given}
    merged = {**given, "kubernetes": {**MINIMAL["settings"]["kubernetes"], **given.get("kubernetes", {})}}
    with pytest.raises(HelmFailed, match=f"settings/{'/'.join(path)}"):
        rendered({**MINIMAL, "settings": merged})


@VALUES
def test_secrets_come_by_reference_alone(values: dict[str, Any]) -> None:
    objects = rendered(values)
    [container] = pods(objects)["Deployment"]["containers"]
    secret = {one["name"]: one["valueFrom"]["secretKeyRef"] for one in container["env"] if "valueFrom" in one}
    asked = {"name": "bay", "key": "database-url", **values.get("secrets", {}).get("database", {})}
    assert secret["BAY_DATABASE_URL"] == asked
    assert secret["BAY_API_KEY"] == {"name": "bay", "key": "admin-key"}
    assert ("AWS_SECRET_ACCESS_KEY" in secret) == (values is FULL)
    literal = {one["name"]: one["value"] for one in container["env"] if "value" in one}
    [keys] = [volume for volume in pods(objects)["Deployment"]["volumes"] if volume["name"] == "keys"]
    [mount] = [one for one in container["volumeMounts"] if one["name"] == "keys"]
    files = {f"{mount['mountPath']}/{item['path']}" for one in keys["projected"]["sources"]
             for item in one["secret"]["items"]}  # fmt: skip
    assert files == {literal["BAY_SECRETS_KEY_FILE"], literal["BAY_PORTS_KEY_FILE"]}
    assert keys["projected"]["defaultMode"] == 0o440
    assert "Secret" not in {one["kind"] for one in objects}
    assert [*of_kind(objects, "ConfigMap")["data"]] == ["bay.toml"]


def test_another_setting_rolls_the_pods() -> None:
    def mark(settings: dict[str, Any]) -> str:
        values = {**MINIMAL, "settings": {**MINIMAL["settings"], **settings}}
        return of_kind(rendered(values), "Deployment")["spec"]["template"]["metadata"]["annotations"][
            "bay.dev/settings"
        ]

    assert mark({}) == mark({})
    assert mark({}) != mark({"log_level": "debug"})


# The values


def open_objects(schema: dict[str, Any], values: dict[str, Any], path: str = "") -> Iterator[str]:
    """The places of values that are objects and take unknown names, or that the schema does not know."""
    if schema.get("additionalProperties") is not False:
        yield path
    for name, value in values.items():
        known = schema.get("properties", {}).get(name)
        if known is None:
            yield f"{path}/{name} is unknown"
        elif isinstance(value, dict) and name not in (*OPEN, "requests", "limits"):
            if "$ref" in known:
                known = json.loads((CHART / "values.schema.json").read_text())["definitions"]["secretKey"]
            yield from open_objects(known, cast("dict[str, Any]", value), f"{path}/{name}")


def test_the_schema_knows_every_value_and_no_other() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    assert [*open_objects(schema, values)] == []
    assert set(schema["properties"]) - {"global"} == set(values)


@pytest.mark.parametrize(
    "wrong",
    [
        {"replica": 2},
        {"image": {"repo": "x"}},
        {"secrets": {"databse": {"name": "x", "key": "y"}}},
        {"secrets": {"database": {"name": "x", "kye": "y"}}},
        {"networkPolicy": {"egress": {"enable": True}}},
        {"replicas": "2"},
        {"image": {"pullPolicy": "Sometimes"}},
    ],
    ids=json.dumps,
)
def test_a_typo_in_the_values_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(HelmFailed, match="don't meet the specifications of the schema"):
        rendered({**MINIMAL, **wrong})


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "set image.repository"),
        ({"image": {"repository": "x"}}, "set settings.kubernetes.image"),
        ({**MINIMAL, "sandboxes": {"namespace": "bay"}}, "give the sandboxes another one"),
        ({**MINIMAL, "ingress": {"enabled": True}}, "set ingress.host"),
        ({**MINIMAL, "serviceMonitor": {"enabled": True}}, "has no custom resource ServiceMonitor"),
    ],
)
def test_values_with_which_bay_would_not_run_are_refused_with_the_way_out(
    values: dict[str, Any], said: str
) -> None:
    with pytest.raises(HelmFailed, match=said):
        rendered(values)


def test_a_release_whose_name_is_no_label_needs_the_name_of_an_installation() -> None:
    long = "a-release-with-a-name-of-more-than-32"
    with pytest.raises(HelmFailed, match=r"set sandboxes\.install"):
        rendered(MINIMAL, release=long)
    assert rendered({**MINIMAL, "sandboxes": {"install": "short"}}, release=long)


# Clusters of several ages


def test_older_clusters_than_bay_knows_are_refused() -> None:
    with pytest.raises(HelmFailed, match=r"incompatible with Kubernetes v1\.19\.0"):
        rendered(MINIMAL, "--kube-version=1.19.0")
    assert rendered(MINIMAL, "--kube-version=1.20.2")


def test_the_disruption_budget_has_the_version_that_the_cluster_serves() -> None:
    assert (
        of_kind(rendered(MINIMAL, "--api-versions=policy/v1"), "PodDisruptionBudget")["apiVersion"]
        == "policy/v1"
    )
    assert of_kind(rendered(MINIMAL), "PodDisruptionBudget")["apiVersion"] in ("policy/v1", "policy/v1beta1")


def test_a_service_monitor_comes_only_where_it_is_asked_for_and_known() -> None:
    known = "--api-versions=monitoring.coreos.com/v1/ServiceMonitor"
    assert "ServiceMonitor" not in {one["kind"] for one in rendered(MINIMAL, known)}
    all_made = rendered({**MINIMAL, "serviceMonitor": {"enabled": True}}, known)
    [endpoint] = of_kind(all_made, "ServiceMonitor")["spec"]["endpoints"]
    assert endpoint["path"] == "/metrics"
    token = {"name": "bay", "key": "metrics-token"}
    assert endpoint["authorization"] == {"credentials": token}
    [container] = of_kind(all_made, "Deployment")["spec"]["template"]["spec"]["containers"]
    assert {"name": "BAY_METRICS_TOKEN", "valueFrom": {"secretKeyRef": token}} in container["env"]


# Ways in and out


def test_the_ingress_has_the_host_and_all_names_below_it() -> None:
    assert "Ingress" not in {one["kind"] for one in rendered(MINIMAL)}
    made = of_kind(rendered(FULL), "Ingress")["spec"]
    both = ["bay.example.com", "*.bay.example.com"]
    assert [rule["host"] for rule in made["rules"]] == both
    assert made["tls"] == [{"hosts": both, "secretName": "bay-tls"}]
    assert made["ingressClassName"] == "nginx"


@VALUES
def test_the_service_the_policies_and_the_budget_choose_the_servers_alone(values: dict[str, Any]) -> None:
    objects = rendered(values)
    template = of_kind(objects, "Deployment")["spec"]["template"]
    labels = set(template["metadata"]["labels"].items())
    migration = set(of_kind(objects, "Job")["spec"]["template"]["metadata"]["labels"].items())
    chosen = [
        of_kind(objects, "Service")["spec"]["selector"],
        of_kind(objects, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        of_kind(objects, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        of_kind(objects, "Deployment")["spec"]["selector"]["matchLabels"],
    ]
    for selector in chosen:
        assert set(selector.items()) <= labels
        assert not set(selector.items()) <= migration


def test_the_policies_of_sandboxes_let_bays_pods_reach_ship() -> None:
    labels = of_kind(rendered(FULL), "Deployment")["spec"]["template"]["metadata"]["labels"]
    server, *_ = egress._clients(egress.EgressSettings(enforced=True))
    assert server["podSelector"]["matchLabels"].items() <= labels.items()


def test_policies_open_bays_port_and_where_egress_is_held_resolvers_and_ship() -> None:
    [ingress] = of_kind(rendered(MINIMAL), "NetworkPolicy")["spec"]["ingress"]
    assert ingress == {"ports": [{"protocol": "TCP", "port": 8700}]}
    spec = of_kind(rendered(FULL), "NetworkPolicy")["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    assert spec["ingress"][0]["from"] == FULL["networkPolicy"]["from"]
    dns, ship, *others = spec["egress"]
    assert {one["port"] for one in dns["ports"]} == {53}
    assert ship["ports"] == [{"protocol": "TCP", "port": pod.SHIP_PORT}]
    assert ship["to"][0]["podSelector"]["matchLabels"] == {pod.INSTALL: "blue"}
    assert others == FULL["networkPolicy"]["egress"]["to"]
    assert "NetworkPolicy" not in {
        one["kind"] for one in rendered({**MINIMAL, "networkPolicy": {"enabled": False}})
    }


@VALUES
def test_ports_name_their_protocol_for_older_clusters_that_apply_on_the_server(
    values: dict[str, Any],
) -> None:
    objects = rendered(values)
    [container] = pods(objects)["Deployment"]["containers"]
    for port in [*of_kind(objects, "Service")["spec"]["ports"], *container["ports"]]:
        assert port["protocol"] == "TCP"


def test_migrations_run_before_the_pods_of_a_version_come() -> None:
    job = of_kind(rendered(FULL), "Job")
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    assert job["spec"]["activeDeadlineSeconds"] == 60
    [container] = job["spec"]["template"]["spec"]["containers"]
    assert container["args"] == ["admin", "migrate-database"]
    assert {"name": "BAY_REPLICAS", "value": "true"} in container["env"]


def test_the_chart_has_bays_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert (chart["version"], chart["appVersion"]) == (bay.__version__, bay.__version__)
