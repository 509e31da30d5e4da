"""Images that callers name: a node fetches them, and a sandbox keeps the one that it began with."""

import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from image_files import ImageFile, layer_of
from kube_cluster import Cluster
from pod_bench import opened_bench
from registry import Registry, registry
from test_bay_on_kubernetes import bay_in, config, owned

from bay.client import Client
from bay.drivers.kubernetes.pod import PodSettings
from bay.errors import CapabilityNotSupported, ImageDenied, ImageNotFound

pytestmark = pytest.mark.kubernetes

IMAGES = """
[profiles.of-a-name]
image = "{host}/{repository}/app:1"
memory_mb = 128
disk_mb = 16
"""
SHELL = Path(shutil.which("busybox") or "").resolve()
VARIABLES = [
    "PATH=/opt/bin:/bin",
    "OF_IMAGE=one two",
    "SHIP_LOCAL=1",
    "LD_PRELOAD=/lib/nothing.so",
    "PYTHONPATH=/app",
]


def image(version: str, *, shell: bool = True) -> ImageFile:
    """An image without an account, with nothing that a start needs."""
    program = SHELL.read_bytes()
    applets = ("bin/sh", "bin/cat", "bin/env", "bin/id") if shell else ("bin/cat",)
    # Unlike all others: a kubelet names the same image by any of the repositories that it was fetched from.
    files = {
        "version": f"{version}\n".encode(),
        "unique": secrets.token_bytes(8),
        **dict.fromkeys(applets, program),
    }
    return ImageFile([layer_of(files)], {"config": {"Env": VARIABLES, "User": "0", "WorkingDir": "/opt"}})


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture
def repository() -> str:
    return f"test-{secrets.token_hex(4)}"


@pytest.fixture
def install() -> str:
    return f"test-{secrets.token_hex(4)}"


@pytest.fixture
def client(cluster: Cluster, install: str, there: Registry, repository: str) -> Iterator[Client]:
    admitted = f'images = ["{there.host}/{repository}"]\npull_policy = "IfNotPresent"'
    text = config(cluster, install).replace('pull_policy = "Never"', admitted)
    text += IMAGES.format(host=there.host, repository=repository)
    with bay_in(cluster, install, text) as server, server.client() as client:
        yield client


def test_a_sandbox_keeps_the_image_that_its_name_was_when_it_began(
    client: Client, there: Registry, repository: str
) -> None:
    first, second = image("first"), image("second")
    name = there.push(first, f"{repository}/app", "1")
    box = client.sandboxes.create(image=name, wait=120)
    assert box.info.image == f"{name}@{first.digest}"
    assert (
        box.run("cat /version; id -u; echo $PATH $OF_IMAGE").stdout
        == "first\n1000\n/workspace/.local/bin:/opt/bin:/bin one two\n"
    )
    seen = box.run(["env"]).stdout
    assert "PYTHONPATH=/app\n" in seen
    for other in ("KUBERNETES_", "LD_PRELOAD", "HOSTNAME", "PYTHONHOME", "SHIP_L"):
        assert other not in seen
    there.push(second, f"{repository}/app", "1")  # the tag moves
    box.stop()
    assert box.run("cat /version").stdout == "first\n"
    assert box.refresh().image == f"{name}@{first.digest}"


def test_an_image_without_a_shell_runs_programs_and_says_what_it_lacks(
    client: Client, there: Registry, repository: str
) -> None:
    there.push(image("bare", shell=False), f"{repository}/app", "1")
    box = client.sandboxes.create(profile="of-a-name", wait=120)
    assert box.run(["cat", "/version"]).stdout == "bare\n"
    ended = box.run("cat /version")
    assert ended.exit_code == 127
    assert "no shell" in ended.stderr
    assert box.python.run("6 * 7").text == "42"


@pytest.mark.anyio
async def test_a_wrong_name_fails_the_start_with_what_the_registry_says(
    cluster: Cluster, there: Registry, repository: str, tmp_path: Path
) -> None:
    settings = PodSettings(install=f"test-{repository}", image="bay.test/box:1", ship_image="bay.test/ship:1")
    there.push(image("there"), f"{repository}/app", "1")
    with registry(tmp_path, password=True) as locked:
        async for bench in opened_bench(cluster, pods=settings):
            for name, kind in (
                (f"{there.host}/{repository}/app:2", ImageNotFound),
                (f"{there.host}/{repository}/nosuch:1", ImageNotFound),
                (f"{locked.host}/{repository}/app:1", ImageDenied),
            ):
                with pytest.raises(kind, match=name):
                    await bench.start(bench.spec(image=name))


def test_an_image_that_is_not_admitted_is_refused_before_anything_is_begun(
    client: Client, there: Registry, repository: str, cluster: Cluster, install: str
) -> None:
    for other in (f"{there.host}/{repository}-secret/app:1", "debian:13"):
        with pytest.raises(ImageDenied, match=r"images of \[kubernetes\]"):
            client.sandboxes.create(image=other)
    with pytest.raises(CapabilityNotSupported, match="bay create --image"):
        client.images.pull(f"{there.host}/{repository}/app:1")
    assert owned(cluster, install, "pvc") == [] == owned(cluster, install, "pods")
