"""A Bay that is killed at any step of a pull: the next one finishes it, and nothing else is left."""

import os
import subprocess
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
import registry
from forked_bay import Death
from image_bay import KEY, environment_for, serving, started
from image_files import ImageFile, layer_of
from image_remains import becomes, left
from registry import Registry

from bay import Client
from bay.images import fetch_cage
from bay.models import ContainerImage

pytestmark = [pytest.mark.host, pytest.mark.long, pytest.mark.timeout(600)]

LIBRARY, STORE, PULLER = (
    "bay.images.library:HostLibrary",
    "bay.images.layer_store:LayerStore",
    "bay.server.images.puller:Puller",
)
FETCHER = "bay.images.fetching:Fetcher"
STEPS: dict[str, Death] = {
    "nothing was asked": (f"{LIBRARY}._fetch", "before", 1),
    "the tag is resolved": (f"{FETCHER}._summary", "after", 1),
    "layers are asked for": (f"{FETCHER}._copy", "before", 1),
    "layers are half there": ("bay.images.fetching:_soon", "before", 1),
    "all is fetched": (f"{LIBRARY}._unpack", "before", 1),
    "the first layer has its ids": ("bay.images.layer_cage:Cage._spawn", "before", 1),
    "the second layer is unpacked": ("bay.images.layer_cage:Cage._listen", "before", 2),
    "a layer is nearly whole": (f"{STORE}._publish", "before", 1),
    "a layer is whole": (f"{STORE}._publish", "after", 1),
    "both layers are whole": (f"{STORE}._publish", "after", 2),
    "the top is half made": ("bay.images.tops:_write", "after", 1),
    "the top is made": (f"{LIBRARY}._make_top", "after", 1),
    "the row is not written": (f"{PULLER}._ready", "before", 1),
    "the row is written, and not saved": (f"{PULLER}._ready", "after", 1),
    "the row is saved": (f"{LIBRARY}._upload", "before", 1),
    "nobody has heard of it": (f"{PULLER}._wake", "before", 1),
}  # fmt: skip
UPLOAD_STEPS: dict[str, Death] = {
    "the archive is here": (f"{LIBRARY}._fetch", "before", 1),
    "the archive is read": (f"{LIBRARY}._unpack", "before", 1),
    "the row is written, and not saved": (f"{PULLER}._ready", "after", 1),
    "the row is saved": (f"{LIBRARY}._upload", "before", 3),
}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Generator[Registry]:
    if os.geteuid() != 0 or not fetch_cage.is_installed() or not registry.is_installed():
        pytest.skip("needs root, skopeo, and docker-registry")
    with registry.registry(tmp_path_factory.mktemp("registry")) as made:
        yield made


@pytest.fixture(scope="module")
def environment(hub: Registry) -> Generator[dict[str, str]]:
    with environment_for(hub) as own:
        yield own


def image_of(step: str) -> ImageFile:
    """An image with layers that no other test has; the first takes a while to be fetched."""
    return ImageFile(layers=(layer_of({"big": os.urandom(24 << 20)}), layer_of({"step": step.encode()})))


@pytest.mark.parametrize("step", STEPS)
def test_the_next_bay_finishes_a_pull(step: str, environment: dict[str, str], hub: Registry) -> None:
    image = image_of(step)
    ref = hub.push(image, "killed/pull", "1")
    with started(environment, STEPS[step]) as (server, url):
        asked = ask(url, "/v1/images", json={"ref": ref})
        assert server.wait(120) == -9
    with serving(environment) as url, Client(url, KEY) as client:
        found = client.images.wait(asked or ref)
        check(found, step, image, environment, client)


@pytest.mark.parametrize("step", UPLOAD_STEPS)
def test_the_next_bay_finishes_an_import(step: str, environment: dict[str, str], tmp_path: Path) -> None:
    image = image_of(step)
    subprocess.run(
        ["tar", "-C", image.write(tmp_path / "layout"), "-cf", tmp_path / "image.tar", "."], check=True
    )
    with started(environment, UPLOAD_STEPS[step]) as (server, url):
        asked = ask(url, "/v1/images/import?ref=mine:1", content=(tmp_path / "image.tar").read_bytes())
        assert server.wait(120) == -9
    with serving(environment) as url, Client(url, KEY) as client:
        check(client.images.wait(asked or "mine:1"), step, image, environment, client)


def ask(url: str, path: str, **body: object) -> str | None:
    """The id of the image asked for, unless Bay was dead before it could answer."""
    headers = {"Authorization": f"Bearer {KEY}"}
    with suppress(httpx.TransportError):
        answer = httpx.post(f"{url}{path}", headers=headers, timeout=60, trust_env=False, **body)  # type: ignore[arg-type]
        return str(answer.json()["id"])
    return None


def check(
    found: ContainerImage, step: str, image: ImageFile, environment: dict[str, str], client: Client
) -> None:
    """The image is whole, and there is nothing else, of it or of what was killed."""
    assert (found.state, found.layers, found.error) == ("ready", 2, None)
    images = Path(environment["BAY_DATA_DIR"]) / "images"
    layers = [images / "layers" / layer.diff_id.replace(":", "-") for layer in image.layers]
    assert (layers[1] / "fs/step").read_text() == step
    becomes((set(layers), {images / "tops" / found.id}, set()), lambda: left(images, environment))
    assert list(client.images.list()) == [found]
    client.images.delete(found.id)
    assert left(images, environment) == (set(), set(), set())
