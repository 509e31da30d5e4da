"""Images through the executable, in a pipe: a real registry, the oci driver, and the commands of the page."""

import json
import os
import re
import shlex
import subprocess
from collections.abc import Generator
from pathlib import Path

import forked_bay
import pytest
import registry
from image_bay import Bay, environment_for, serving
from image_files import ImageFile, Layer, layer_of, layer_of_tree
from image_roots import busybox_root
from registry import Registry

from bay.images import fetch_cage

pytestmark = pytest.mark.host

PAGE = Path(__file__).parents[2] / "docs" / "images.md"


@pytest.fixture(scope="module")
def box_layer(tmp_path_factory: pytest.TempPathFactory) -> Layer:
    root = tmp_path_factory.mktemp("busybox")
    busybox_root(root)
    return layer_of_tree(root)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Generator[Registry]:
    if os.geteuid() != 0 or not fetch_cage.is_installed() or not registry.is_installed():
        pytest.skip("needs root, skopeo, and docker-registry")
    with registry.registry(tmp_path_factory.mktemp("registry")) as made:
        yield made


@pytest.fixture(scope="module")
def bay(hub: Registry) -> Generator[Bay]:
    with environment_for(hub) as own, serving(own) as url:
        made = Bay(own | {"BAY_URL": url})
        yield made
        if made("ls", "-q"):
            made("rm", "--all")


@pytest.fixture(scope="module")
def small(hub: Registry, box_layer: Layer) -> str:
    image = ImageFile(
        layers=(box_layer,),
        config={"config": {"Env": ["PATH=/bin", "COLOR=blue"], "Cmd": ["/bin/sh"], "Labels": {"a": "b"}}},
    )
    return hub.push(image, "small/box", "1")


def test_the_commands_of_the_page_do_what_it_says(bay: Bay, small: str) -> None:
    steps = re.search(r"(?ms)^## First steps\n\n```console\n(.*?)^```", PAGE.read_text(encoding="utf-8"))
    assert steps is not None
    said: list[str] = []
    for line in steps[1].splitlines():
        words = shlex.split(line.removeprefix("$ bay ").replace("$IMAGE", small))
        said.append(bay(*words))
    assert said[0] == 'PRETTY_NAME="Small"\n'
    assert said[1].startswith("img-")
    assert small in said[2]
    assert said[4] == "hello\n"
    assert "linux/amd64" in said[5]
    assert said[7].startswith("img-")
    assert bay("image", "ls", "-q") == ""


def test_an_image_becomes_a_template_with_a_pool_as_the_page_says(
    hub: Registry, small: str, tmp_path: Path
) -> None:
    page = PAGE.read_text(encoding="utf-8")
    found = re.search(r"(?ms)^## From an image.*?```dockerfile\n(.*?)^```\n\n```console\n(.*?)^```", page)
    assert found is not None
    (tmp_path / "Dockerfile").write_text(found[1].replace("$IMAGE", small))
    (tmp_path / "greeting").write_text("hello from the template\n")
    profiles = {"python-default": {}, "build": {"persist": "machine"}}
    with environment_for(hub) as own, serving(own | {"BAY_PROFILES": json.dumps(profiles)}) as url:
        bay = Bay(own | {"BAY_URL": url})
        said = [
            bay(
                *(
                    str(tmp_path) if word == "app" else word
                    for word in shlex.split(line.removeprefix("$ bay "))
                )
            )
            for line in found[2].splitlines()
        ]
        assert said[0].startswith("tmpl-")
        assert "[2/2] RUN chmod 444 /srv/greeting\n" in said[1]
        assert said[4] == "hello from the template\n"
        assert (bay("ls", "-q"), bay("template", "ls", "-q")) == ("", "")


def test_an_image_is_run_as_its_author_made_it(bay: Bay, small: str) -> None:
    assert (
        bay("run", "--image", small, "--", "sh", "-c", "echo $COLOR; id -u; pwd")
        == "blue\n1000\n/workspace\n"
    )
    assert bay("run", "--image", small, "--env", "COLOR=red", "--", "sh", "-c", "echo $COLOR") == "red\n"


def test_a_run_without_a_server_pulls_by_itself(bay: Bay, small: str) -> None:
    alone = {
        name: value
        for name, value in bay.environment.items()
        if name not in ("BAY_URL", "BAY_API_KEY", "BAY_DATA_DIR")
    }
    assert Bay(alone)("run", "--image", small, "--", "echo", "alone") == "alone\n"


def test_what_is_not_there_and_what_is_refused_is_said_in_words(bay: Bay, hub: Registry, small: str) -> None:
    assert "has no" in bay("run", "--image", f"{hub.host}/small/none:1", "--", "true", code=2)
    assert "BAY_REGISTRIES" in bay("image", "pull", "localhost:1/x:1", code=2)
    assert "is not here" in bay("run", "--image", f"{hub.host}/no:1", "--pull", "never", "--", "true", code=2)
    assert "not an image reference" in bay("image", "pull", "No Image", code=2)
    bay("create", "user", "--image", small, "--wait", "60")
    assert "used by sandbox-" in bay("image", "rm", small, code=2)
    bay("rm", "user")


def test_a_saved_archive_is_imported_from_a_file_from_a_pipe_and_from_a_layout(
    bay: Bay, box_layer: Layer, tmp_path: Path
) -> None:
    layout, archive = tmp_path / "layout", tmp_path / "image.tar"
    ImageFile(layers=(box_layer,)).write(layout)
    subprocess.run(["tar", "-C", layout, "-cf", archive, "."], check=True)
    bay("image", "import", str(archive), "mine:1")
    assert bay("run", "--image", "mine:1", "--", "echo", "file") == "file\n"
    bay("image", "import", "-", "mine:2", stdin=archive.read_bytes())
    assert bay("run", "--image", "mine:2", "--", "echo", "pipe") == "pipe\n"
    bay("image", "import", f"oci:{layout}", "mine:3")
    assert bay("run", "--image", "mine:3", "--", "echo", "layout") == "layout\n"
    assert "skopeo could not read" in bay("image", "import", f"oci:{tmp_path}/none", "mine:4", code=1)
    archive.write_bytes(b"no tar")
    assert "archive" in bay("image", "import", str(archive), "mine:5", code=2)


def test_an_image_leaves_to_a_file_a_pipe_and_a_registry(
    bay: Bay, hub: Registry, small: str, tmp_path: Path
) -> None:
    archive = tmp_path / "small.tar"
    bay("image", "pull", small)
    said = json.loads(bay("image", "export", small, str(archive), "--json"))
    assert said == {"image": small, "target": str(archive), "bytes": archive.stat().st_size}
    bay("image", "import", str(archive), "back:1")
    assert bay("run", "--image", "back:1", "--", "sh", "-c", "echo $COLOR; id -u") == "blue\n1000\n"
    piped = forked_bay.run(["image", "export", small, "-"], bay.environment)
    assert piped.stdout == archive.read_bytes()
    target = f"{hub.host}/left/box:2"
    bay("image", "push", small, target, "--insecure")
    assert bay("run", "--image", target, "--", "sh", "-c", "echo $COLOR") == "blue\n"
    first = digest_of(bay, "back:1")
    bay("image", "export", "back:1", str(archive))
    bay("image", "import", str(archive), "back:2")
    assert digest_of(bay, "back:2") == first


def test_what_cannot_leave_is_said_in_words(bay: Bay, hub: Registry, small: str, tmp_path: Path) -> None:
    assert "you have no image" in bay("image", "export", "none:1", str(tmp_path / "x"), code=2)
    assert list(tmp_path.iterdir()) == []
    bay("image", "pull", small)
    assert "skopeo could not push" in bay("image", "push", small, f"{hub.host}/left/box:3", code=1)
    assert "give a tag" in bay("image", "push", small, f"{hub.host}/left/box@sha256:00", code=2)


def digest_of(bay: Bay, ref: str) -> str:
    return str(json.loads(bay("image", "get", ref, "--json"))["digest"])


def test_a_hundred_and_twenty_seven_layers_are_one_root(bay: Bay, hub: Registry, box_layer: Layer) -> None:
    more = [layer_of({f"numbers/{n}": str(n).encode()}) for n in range(126)]
    ref = hub.push(ImageFile(layers=(box_layer, *more)), "many/layers", "1")
    assert bay("run", "--image", ref, "--", "sh", "-c", "ls /numbers | wc -l; cat /numbers/125") == "126\n125"


def test_an_empty_image_runs_nothing_and_says_so(bay: Bay, hub: Registry) -> None:
    ref = hub.push(ImageFile(layers=(layer_of({"a": b"b"}),)), "empty/image", "1")
    assert "true: command not found" in bay("run", "--image", ref, "--", "true", code=127)
    bay("create", "empty", "--image", ref, "--wait", "60")
    assert "no shell" in bay("python", "empty", "-c", "import os; print(os.system('x') and 'no shell')")
    bay("rm", "empty")
