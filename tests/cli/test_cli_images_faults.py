"""Images and what happens around them: registries that go, tags that move, Bays that end, and backups."""

import json
import os
import subprocess
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import httpx
import pytest
import registry
from image_bay import KEY, Bay, environment_for, serving, started
from image_files import ImageFile, Layer, layer_of, layer_of_tree
from image_roots import busybox_root
from registry import Registry

from bay import Client
from bay.images import fetch_cage
from bay.models import ContainerImage

pytestmark = [pytest.mark.host, pytest.mark.long, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def box_layer(tmp_path_factory: pytest.TempPathFactory) -> Layer:
    root = tmp_path_factory.mktemp("busybox")
    busybox_root(root)
    return layer_of_tree(root)


@pytest.fixture
def hub(tmp_path: Path) -> Generator[Registry]:
    if os.geteuid() != 0 or not fetch_cage.is_installed() or not registry.is_installed():
        pytest.skip("needs root, skopeo, and docker-registry")
    with registry.registry(tmp_path) as made:
        yield made


@pytest.fixture
def environment(hub: Registry) -> Generator[dict[str, str]]:
    with environment_for(hub) as own:
        yield own
        with serving(own) as url:
            Bay(own | {"BAY_URL": url})("rm", "--all")


def version(box_layer: Layer, number: str) -> ImageFile:
    return ImageFile(layers=(box_layer, layer_of({"version": number.encode()})))


def test_a_pull_waits_for_a_registry_that_went_and_comes_back(tmp_path: Path, box_layer: Layer) -> None:
    with registry.registry(tmp_path) as hub:
        ref = hub.push(version(box_layer, "1"), "gone/back", "1")
    with environment_for(hub) as own, serving(own) as url, Client(url, KEY) as client:
        post(url, "/v1/images", {"ref": ref})
        waiting = until(lambda: client.images.get(ref), lambda image: image.attempts > 0)
        assert waiting.state == "pulling"
        assert waiting.error is not None
        assert waiting.error.code == "registry_unavailable"
        with registry.registry(tmp_path, port=int(hub.host.rpartition(":")[2])):
            found = client.images.wait(ref)
        assert (found.state, found.error, found.attempts) == ("ready", None, 0)


def test_a_tag_that_moves_between_stop_and_start_changes_no_sandbox(
    environment: dict[str, str], hub: Registry, box_layer: Layer
) -> None:
    ref = hub.push(version(box_layer, "1"), "moves/tag", "1")
    with serving(environment) as url:
        bay = Bay(environment | {"BAY_URL": url})
        bay("create", "old", "--image", ref, "--wait", "60")
        bay("stop", "old")
        hub.push(version(box_layer, "2"), "moves/tag", "1")
        bay("image", "pull", ref)
        bay("create", "new", "--image", ref, "--wait", "60")
        assert (bay("exec", "old", "--", "cat", "/version"), bay("exec", "new", "--", "cat", "/version")) == (
            "1", "2",
        )  # fmt: skip


def test_a_sandbox_that_runs_while_bay_is_killed_keeps_its_root(
    environment: dict[str, str], hub: Registry, box_layer: Layer
) -> None:
    ref = hub.push(version(box_layer, "1"), "live/on", "1")
    with started(environment) as (server, url):
        bay = Bay(environment | {"BAY_URL": url})
        bay("create", "live", "--image", ref, "--wait", "60")
        bay("exec", "live", "--", "sh", "-c", "echo here > /tmp/kept")
        server.kill()
        server.wait(60)
    with serving(environment) as url:
        bay = Bay(environment | {"BAY_URL": url})
        assert bay("image", "prune") == ""
        assert bay("exec", "live", "--", "cat", "/tmp/kept", "/version") == "here\n1"
        assert len(list(images_of(environment, "layers"))) == 2


@pytest.mark.parametrize("files", ["lost", "copied"])
def test_a_backup_has_the_rows_of_images_and_their_files_are_fetched_again(
    files: str, environment: dict[str, str], hub: Registry, box_layer: Layer, tmp_path: Path
) -> None:
    ref = hub.push(version(box_layer, "1"), "backed/up", "1")
    image = version(box_layer, "2").write(tmp_path / "layout")
    saved, own = tmp_path / "saved.tar", tmp_path / "own.tar"
    subprocess.run(["tar", "-C", image, "-cf", own, "."], check=True)
    with serving(environment) as url:
        bay = Bay(environment | {"BAY_URL": url})
        bay("create", "pulled", "--image", ref, "--wait", "60")
        bay("exec", "pulled", "--", "sh", "-c", "echo precious > file")
        bay("image", "import", str(own), "mine:1")
        bay("create", "own", "--image", "mine:1", "--wait", "60")
        Bay(environment)("admin", "backup", str(saved), "--with-files")
        bay("rm", "--all")
    with environment_for(hub) as other:
        Bay(other)("admin", "restore", str(saved))
        if files == "copied":
            source = f"{environment['BAY_DATA_DIR']}/images"
            subprocess.run(["cp", "-a", source, other["BAY_DATA_DIR"]], check=True)
        with serving(other) as url:
            bay = Bay(other | {"BAY_URL": url})
            assert bay("exec", "pulled", "--", "cat", "file", "/version") == "precious\n1"
            if files == "copied":
                assert bay("exec", "own", "--", "cat", "/version") == "2"
            else:
                assert "upload it again" in bay("image", "get", "mine:1")
                assert "upload it again" in bay("exec", "own", "--", "true", code=1)
            bay("rm", "--all")


def test_a_template_leaves_and_what_it_removed_stays_away(
    environment: dict[str, str], hub: Registry, box_layer: Layer, tmp_path: Path
) -> None:
    kept = json.dumps({"python-default": {"description": "Kept", "persist": "machine"}})
    ref = hub.push(version(box_layer, "1"), "made/from", "1")
    with serving(environment | {"BAY_PROFILES": kept}) as url:
        bay = Bay(environment | {"BAY_URL": url})
        bay("create", "made", "--image", ref, "--wait", "60")
        bay(
            "exec", "made", "--user", "root", "--", "sh", "-c", "rm /version; mkdir /opt; echo new > /opt/new"
        )
        template = post(url, "/v1/templates?wait=60", {"name": "made", "sandbox": "made"})
        assert template["state"] == "ready", template
        bay("image", "export", template["image_id"], str(tmp_path / "made.tar"))
        bay("image", "import", str(tmp_path / "made.tar"), "made:1")
        found = bay("run", "--image", "made:1", "--", "sh", "-c", "cat /opt/new; ls /version || echo gone")
        assert found == "new\ngone\n"


def post(url: str, path: str, body: dict[str, str]) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {KEY}"}
    answer = httpx.post(f"{url}{path}", json=body, headers=headers, timeout=90, trust_env=False)
    return answer.raise_for_status().json()


def images_of(environment: dict[str, str], name: str) -> Generator[Path]:
    return (Path(environment["BAY_DATA_DIR"]) / "images" / name).iterdir()


def until(look: Callable[[], ContainerImage], is_so: Callable[[ContainerImage], bool]) -> ContainerImage:
    end = time.monotonic() + 60
    while not is_so(found := look()):
        assert time.monotonic() < end, found
        time.sleep(0.1)
    return found
