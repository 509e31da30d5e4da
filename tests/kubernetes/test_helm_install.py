"""The chart on a real API server, as the page installs it: two Bays in pods, their database outside."""

import base64
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import helm_charts
import postgres_server
import pytest
from kube_cluster import Cluster, Refused

from bay.client import Client

pytestmark = [
    pytest.mark.kubernetes,
    pytest.mark.long,
    pytest.mark.skipif(postgres_server.binaries() is None, reason="needs PostgreSQL"),
]

ROOT = Path(__file__).parents[2]
NODE_ADDRESS = "10.221.0.1"
OWN, SANDBOXES = "bay", "helm-sandboxes"
WAIT_S = 240.0
WORDS = {
    "registry.example.com/bay-server": "bay.test/bay-server",
    "registry.example.com/sandbox:1": "bay.test/box:1",
    "registry.example.com/bay-ship:0.1.0": "bay.test/ship:1",
}
HERE = {
    "image": {"tag": "1", "pullPolicy": "Never"},
    "sandboxes": {"namespace": SANDBOXES},
    "settings": {
        "start_timeout": 120,
        "kubernetes": {"pull_policy": "Never", "volume_mb": 16},
        "profiles": {"python-default": {"memory_mb": 128, "disk_mb": 16, "idle_timeout": 3600}},
    },
    "resources": {"requests": {"cpu": "10m", "memory": "128Mi"}, "limits": {"memory": "1Gi"}},
}
"""The values that this cluster needs besides those of the page: it has no registry, and is small."""

ADMISSION = f"""
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {{name: restricted-pods}}
rules:
- {{apiGroups: [policy], resources: [podsecuritypolicies], resourceNames: [restricted], verbs: [use]}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {{name: restricted-pods}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: restricted-pods}}
subjects: [{{apiGroup: rbac.authorization.k8s.io, kind: Group, name: "system:serviceaccounts:{OWN}"}}]
"""
"""Who may make restricted pods. This Kubernetes has no PodSecurity yet, which asks for no right."""


class Release:
    """The release `bay`, and a folder in which the commands of the page are typed."""

    def __init__(self, cluster: Cluster, folder: Path, url: str) -> None:
        self.cluster = cluster
        self._folder = folder
        (folder / "deploy").symlink_to(ROOT / "deploy")
        (folder / "here.json").write_text(json.dumps(HERE))
        page = (ROOT / "docs/kubernetes.md").read_text(encoding="utf-8")
        self._blocks = re.findall(r"```(?:sh|yaml)\n(.*?)```", page, re.DOTALL)
        self._words = {**WORDS, "postgresql://bay:PASSWORD@db.example.com/bay": url}
        (folder / "values.yaml").write_text(self._block("image:\n"))

    def _block(self, begins: str) -> str:
        """The block of the page that begins so, with this cluster's words."""
        [text] = [one for one in self._blocks if one.startswith(begins)]
        for word, here in self._words.items():
            text = text.replace(word, here)
        return text

    def install(self) -> None:
        """Type what the page says."""
        self.shell(self._block("kubectl create namespace").rstrip() + f" {self._options}")

    def upgrade(self, *options: str) -> None:
        """Bring it to the same values and these options, whether it is there or not."""
        given = " ".join(("--values values.yaml", self._options, *options))
        self.shell(f"helm upgrade --install bay deploy/helm -n {OWN} {given}")

    @property
    def _options(self) -> str:
        return f"--values here.json --wait --timeout {WAIT_S:g}s"

    def shell(self, text: str) -> str:
        """The output of commands, with `helm` and `kubectl` of the cluster's administrator."""
        programs = (str(helm_charts.program().parent), os.environ["PATH"])
        environment = {
            "PATH": ":".join(programs),
            "HOME": str(self._folder),
            "KUBECONFIG": str(self.cluster.kubeconfig("admin")),
        }
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text], cwd=self._folder, env=environment, capture_output=True,
            text=True, timeout=WAIT_S + 60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{text}\n{done.stdout}{done.stderr}\n{self.story()}"
        return done.stdout

    def pods(self) -> dict[str, str]:
        """The names of Bay's pods that the Service leads to, with their addresses."""
        found = self.cluster.kubectl("get", "endpoints", "bay", "-o", "json", "-n", OWN, "--ignore-not-found")
        listed = json.loads(found or "{}")
        ready = [one for subset in listed.get("subsets", ()) for one in subset.get("addresses", ())]
        return {one["targetRef"]["name"]: one["ip"] for one in ready}

    def wait_for_pods(self, *others: str) -> dict[str, str]:
        """Two pods that are ready, none of which is one of `others`."""
        end = time.monotonic() + WAIT_S
        while len(found := self.pods()) != 2 or found.keys() & set(others):
            assert time.monotonic() < end, self.story()
            time.sleep(0.2)
        return found

    def key(self) -> str:
        """The admin key, from the Secret that the page makes."""
        made = json.loads(self.cluster.kubectl("get", "secret", "bay", "-o", "json", "-n", OWN))
        return base64.b64decode(made["data"]["admin-key"]).decode()

    def story(self) -> str:
        """What the cluster says of Bay's pods, for a failure."""
        parts = [
            ("get", "pods", "-o", "wide"),
            ("get", "events"),
            ("logs", "-l", "app.kubernetes.io/name=bay"),
        ]
        said: list[str] = []
        for part in parts:
            with suppress(Refused, TimeoutError):
                said.append(self.cluster.kubectl(*part, "-n", OWN))
        return "\n".join(said)

    def remove(self) -> None:
        """Remove all that is left of it, whatever a failed test has left."""
        kubectl = self.cluster.kubectl
        with suppress(AssertionError):
            self.shell(f"helm uninstall bay -n {OWN} --ignore-not-found")
        with suppress(Refused):
            for name in kubectl("get", "pods", "-n", SANDBOXES, "-o", "name").split():
                kubectl("delete", name, "-n", SANDBOXES, "--wait=false")
                kubectl("patch", name, "-n", SANDBOXES, "--type=merge", '-p={"metadata":{"finalizers":null}}')
        kubectl("delete", "namespace", OWN, SANDBOXES, "--ignore-not-found", "--wait=false")


def import_image(cluster: Cluster, folder: Path) -> None:
    """Give the node an image of Bay."""
    made = [sys.executable, "-m", "scripts.kubernetes.server_image", str(folder)]
    subprocess.run(made, cwd=ROOT, timeout=WAIT_S, check=True)
    cluster.import_image(folder / "bay-server.tar")
    (folder / "bay-server.tar").unlink()


@pytest.fixture
def release(cluster: Cluster, tmp_path: Path) -> Iterator[Release]:
    with ExitStack() as stack:
        server = stack.enter_context(postgres_server.running(NODE_ADDRESS))
        name = stack.enter_context(server.database()).partition("@/")[2].partition("?")[0]
        subprocess.run([ROOT / "scripts/kubernetes/service-address"], timeout=60, check=True)
        import_image(cluster, tmp_path)
        cluster.kubectl("apply", "-f", "-", text=ADMISSION)
        made = Release(cluster, tmp_path, f"postgresql://bay@{NODE_ADDRESS}/{name}")
        stack.callback(made.remove)
        yield made


def test_the_page_installs_replicas_that_outlive_a_pod_an_upgrade_and_an_uninstall(
    release: Release, cluster: Cluster
) -> None:
    release.install()
    (first, one), (second, other) = release.wait_for_pods().items()
    key = release.key()
    with (
        closing(Client(f"http://{one}:8700", key)) as here,
        closing(Client(f"http://{other}:8700", key)) as there,
    ):
        assert len(here.admin.replicas().items) == 2
        here.secrets.set("TOKEN", "hunter2")
        box = here.sandboxes.create(name="web", secrets=["TOKEN"], wait=120)
        assert box.run("echo $((40 + 2)) > kept; cat kept").stdout == "42\n"
        # Both replicas have the keys of one Secret.
        assert there.sandboxes.get(box.id).run("echo $TOKEN").stdout == "hunter2\n"

        cluster.kubectl("delete", "pod", first, "-n", OWN, "--wait=false")
        assert there.sandboxes.get(box.id).run("cat kept").stdout == "42\n"
    after = release.wait_for_pods(first)
    assert second in after

    release.upgrade("--set", "settings.log_level=debug")
    new = release.wait_for_pods(*after)
    for address in new.values():
        with closing(Client(f"http://{address}:8700", key)) as client:
            assert client.sandboxes.get(box.id).run("cat kept; echo $TOKEN").stdout == "42\nhunter2\n"

    release.shell(f"helm uninstall bay -n {OWN} --wait")
    assert release.pods() == {}
    assert f"claim/bay-{box.info.cargo_id}\n" in cluster.kubectl("get", "pvc", "-n", SANDBOXES, "-o", "name")
    release.upgrade()
    for address in release.wait_for_pods().values():
        with closing(Client(f"http://{address}:8700", key)) as client:
            assert client.sandboxes.get(box.id).run("cat kept").stdout == "42\n"
