"""A registry that dies inside a blob, refuses every connection for a while, and is back or is not."""

import os
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import forked_bay
import pytest
import registry as registries
from cutting_proxy import CuttingProxy, cutting_proxy
from forked import Forked
from image_bay import KEY, environment_for, serving
from image_files import ImageFile, Layer, layer_of, layer_of_tree
from image_remains import becomes, left
from image_roots import busybox_root
from registry import Registry

from bay import Client, ImageNotFound
from bay.images import fetch_cage
from bay.models import ContainerImage, Failure
from bay.units import MIB

pytestmark = [pytest.mark.host, pytest.mark.long, pytest.mark.timeout(300)]

WAIT_S = 60.0
AT_ONCE_S = 5.0
"""Less than an attempt takes to end by itself."""
PAUSES_S = 1 + 2 + 4
"""Between the four tries of one attempt."""
BLOB_BYTES, UNTIL_DEATH = 24 * MIB, 4 * MIB
NOTHING: tuple[set[Path], set[Path], set[Path | int]] = (set(), set(), set())


@dataclass(frozen=True)
class Place:
    """A Bay, its environment, and a registry behind a proxy that can be away."""

    client: Client
    environment: dict[str, str]
    hub: Registry
    proxy: CuttingProxy
    box_layer: Layer

    def push(self, name: str) -> tuple[str, ImageFile]:
        """An image with a blob that no other test has; its reference, by way of the proxy."""
        big = layer_of({"big": os.urandom(BLOB_BYTES), "name": name.encode()})
        image = ImageFile((self.box_layer, big))
        self.hub.push(image, name, "1")
        return f"127.0.0.1:{self.proxy.port}/{name}:1", image

    @contextmanager
    def pulling(self, ref: str, said: Path) -> Generator[Forked]:
        """A `bay image pull` until the end of the block, which says its errors to a file."""
        with said.open("wb") as file:
            process = forked_bay.fork(["image", "pull", ref], self.environment, file.fileno())
        assert process.stdout is not None
        with process.stdout:
            try:
                yield process
            finally:
                process.kill()
                process.wait(WAIT_S)

    def becomes_empty(self) -> None:
        """No layer, no top, no part, no claim of ids and no process is left of a pull."""
        images = Path(self.environment["BAY_DATA_DIR"]) / "images"
        becomes(NOTHING, lambda: left(images, self.environment))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Generator[Place]:
    if os.geteuid() != 0 or not fetch_cage.is_installed() or not registries.is_installed():
        pytest.skip("needs root, skopeo, and docker-registry")
    root = tmp_path_factory.mktemp("busybox")
    busybox_root(root)
    with registries.registry(tmp_path_factory.mktemp("registry")) as hub, cutting_proxy() as proxy:
        proxy.target = int(hub.host.rpartition(":")[2])
        with (
            environment_for(replace(hub, host=f"127.0.0.1:{proxy.port}")) as own,
            serving(own) as url,
            Client(url, KEY) as client,
        ):
            yield Place(client, own | {"BAY_URL": url}, hub, proxy, layer_of_tree(root))


@pytest.fixture
def proxy(place: Place) -> Generator[CuttingProxy]:
    """The way to the registry, which the next test finds open."""
    yield place.proxy
    place.proxy.refuse()
    place.proxy.listen()


def die_inside_a_blob(place: Place, ref: str, image: ImageFile) -> None:
    """Have the registry die, after the pull that is under way has shown how far it came."""
    assert place.proxy.held.wait(WAIT_S)
    shown = until(place, ref, lambda one: one.progress is not None and one.progress.bytes_done > MIB).progress
    assert shown is not None
    assert (shown.step, shown.layers_total) == ("fetching", 2)
    assert shown.bytes_total == sum(len(layer.blob) for layer in image.layers)
    place.proxy.refuse()


def until(place: Place, ref: str, is_so: Callable[[ContainerImage], bool]) -> ContainerImage:
    """The image once it is so, of which nothing tells."""
    end = time.monotonic() + WAIT_S
    while True:
        try:
            found = place.client.images.get(ref)
        except ImageNotFound:  # not asked for yet
            found = None
        if found is not None and is_so(found):
            return found
        assert time.monotonic() < end, found
        time.sleep(0.05)


def check_error(error: Failure | None, ref: str) -> None:
    assert error is not None
    assert error.code == "registry_unavailable"
    assert error.message == f"{ref}: the registry cannot be reached, or breaks off; try again later"


def test_a_pull_outlives_a_registry_that_dies_inside_a_blob_and_is_back_later(
    place: Place, proxy: CuttingProxy, tmp_path: Path
) -> None:
    ref, image = place.push("dies/back")
    proxy.hold_after(UNTIL_DEATH)
    with place.pulling(ref, tmp_path / "said") as pull:
        die_inside_a_blob(place, ref, image)
        died_at = time.monotonic()
        waiting = until(place, ref, lambda one: one.attempts > 0)
        assert time.monotonic() - died_at >= PAUSES_S
        assert (waiting.state, waiting.attempts) == ("pulling", 1)
        check_error(waiting.error, ref)
        assert pull.poll() is None  # it waits, as its user does
        proxy.listen()
        assert pull.wait(WAIT_S) == 0, (tmp_path / "said").read_text()
    found = place.client.images.get(ref)
    assert (found.state, found.attempts, found.error) == ("ready", 0, None)
    with place.client.sandbox(image=ref) as box:
        assert box.run("cat /name; wc -c < /big", check=True).stdout == f"dies/back{BLOB_BYTES}\n"
    place.client.images.delete(ref)
    place.becomes_empty()


@pytest.mark.parametrize("attempts", [0, 1])
def test_a_cancel_while_the_registry_is_away_ends_the_pull_at_once_and_leaves_nothing(
    place: Place, proxy: CuttingProxy, tmp_path: Path, attempts: int
) -> None:
    ref, image = place.push(f"dies/cancelled{attempts}")
    proxy.hold_after(UNTIL_DEATH)
    with place.pulling(ref, tmp_path / "said") as pull:
        die_inside_a_blob(place, ref, image)
        until(place, ref, lambda one: one.attempts >= attempts)
        asked_at = time.monotonic()
        assert forked_bay.run(["image", "rm", ref], place.environment).returncode == 0
        place.becomes_empty()
        assert time.monotonic() - asked_at < AT_ONCE_S
        assert pull.wait(WAIT_S) == 2
    assert "you have no image" in (tmp_path / "said").read_text()
    with pytest.raises(ImageNotFound):
        place.client.images.get(ref)
    proxy.listen()
    place.becomes_empty()
