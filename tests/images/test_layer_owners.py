"""One private layer and two owners: who knows its digest gets its content by delivering it, and not else."""

import json
import os
import subprocess
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path

import pytest
import registry as registries
from hostile_registry import HostileRegistry, Request, at, hostile
from image_bay import KEY, environment_for, serving
from image_files import ImageFile, Layer, layer_of, layer_of_tree
from image_roots import busybox_root
from registry import Registry

from bay import BayError, Client, ImageInvalid, ImageNotFound
from bay.images import fetch_cage
from bay.models import ContainerImage

pytestmark = [pytest.mark.host, pytest.mark.long, pytest.mark.timeout(300)]

SECRET = "known to ann alone"
PRIVATE = layer_of({"private/key": SECRET.encode()})
OTHER = layer_of({"private/key": b"anything"})
READ = ["cat", "/private/key"]


@dataclass(frozen=True)
class Place:
    """A Bay with a key for each owner, and the registry where Ben says what he likes."""

    url: str
    keys: dict[str, str]
    box_layer: Layer
    hub: Registry
    bens: HostileRegistry

    def client(self, owner: str) -> Client:
        return Client(self.url, self.keys[owner])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Generator[Place]:
    if os.geteuid() != 0 or not fetch_cage.is_installed() or not registries.is_installed():
        pytest.skip("needs root, skopeo, and docker-registry")
    root = tmp_path_factory.mktemp("busybox")
    busybox_root(root)
    box_layer = layer_of_tree(root)
    with (
        registries.registry(tmp_path_factory.mktemp("registry")) as hub,
        hostile(ImageFile((box_layer,))) as bens,
        environment_for(hub) as own,
    ):
        known = {host: {"insecure": True} for host in (hub.host, bens.host)}
        allowed = [f"{host}/*" for host in known]
        with (
            serving(
                own | {"BAY_REGISTRIES": json.dumps(known), "BAY_IMAGES_ALLOW": json.dumps(allowed)}
            ) as url,
            Client(url, KEY) as admin,
        ):
            keys = {name: str(admin.keys.create(name, owner=name).secret) for name in ("ann", "ben", "cora")}
            made = Place(url, {**keys, "admin": KEY}, box_layer, hub, bens)
            with made.client("ann") as ann:
                ann.images.pull(hub.push(ImageFile((box_layer, PRIVATE)), "ann/app", "1"))
            yield made


@pytest.fixture
def bens(place: Place) -> Generator[HostileRegistry]:
    """Ben's registry, which is honest until a test says otherwise."""
    yield place.bens
    place.bens.image = ImageFile((place.box_layer,))
    place.bens.hooks.clear()
    place.bens.requests.clear()


@pytest.fixture
def ben(place: Place, bens: HostileRegistry) -> Generator[Client]:
    """The other owner, who has no image before the test and none afterwards."""
    del bens
    with place.client("ben") as client:
        yield client
        for image in client.images.list():
            client.images.delete(image.id)


def read_in(client: Client, image: str) -> str:
    """The file as it is in a sandbox of the image."""
    with client.sandbox(image=image) as box:
        return box.run(READ, check=True).stdout


def with_config_of(image: ImageFile, *diff_ids: str) -> ImageFile:
    """The image, with a config that says other layers are its own."""
    return ImageFile(image.layers, config={"rootfs": {"type": "layers", "diff_ids": diff_ids}})


def archive_of(image: ImageFile, blob: bytes | None, directory: Path) -> Path:
    """An archive of the image in which the private layer is that blob, or is missing."""
    layout, archive = image.write(directory / "layout"), directory / "image.tar"
    path = layout / "blobs/sha256" / PRIVATE.digest.removeprefix("sha256:")
    path.unlink(missing_ok=True)
    if blob is not None:
        path.write_bytes(blob)
    subprocess.run(["tar", "-C", layout, "-cf", archive, "."], check=True)
    return archive


IN_ARCHIVE = {"nothing": None, "no byte": b"", "zeros": bytes(len(PRIVATE.blob)), "another layer": OTHER.blob}


def refuse(request: Request) -> None:
    request.refuse(404, "BLOB_UNKNOWN")


IN_PLACE: dict[str, tuple[Callable[[Request], None], type[BayError]]] = {
    "nothing": (refuse, ImageNotFound),
    "no byte": (lambda request: request.send(200), ImageInvalid),
    "zeros": (lambda request: request.send(200, bytes(len(PRIVATE.blob))), ImageInvalid),
    "another layer": (lambda request: request.send(200, OTHER.blob), ImageInvalid),
}


def test_its_owner_reads_the_private_file_in_a_sandbox(place: Place) -> None:
    with place.client("ann") as ann:
        assert read_in(ann, f"{place.hub.host}/ann/app:1") == SECRET


@pytest.mark.parametrize("given", IN_PLACE)
def test_a_registry_that_names_the_layer_and_gives_something_else_gets_no_sandbox(
    place: Place, bens: HostileRegistry, ben: Client, given: str
) -> None:
    answer, error = IN_PLACE[given]
    bens.image = ImageFile((place.box_layer, PRIVATE))
    bens.hooks.append(at(f"/blobs/{PRIVATE.digest}", answer))
    ref = f"{bens.host}/ben/{given.replace(' ', '-')}:1"
    with pytest.raises(error):
        ben.images.pull(ref)
    assert bens.asked(f"/blobs/{PRIVATE.digest}")  # it was not taken from what is here
    assert_useless(ben, ben.images.get(ref))


@pytest.mark.parametrize("twice", [False, True])
def test_a_config_that_names_the_layer_over_another_blob_gets_no_sandbox(
    place: Place, bens: HostileRegistry, ben: Client, twice: bool
) -> None:
    blobs = (OTHER, OTHER) if twice else (OTHER,)
    named = (OTHER.diff_id, PRIVATE.diff_id) if twice else (PRIVATE.diff_id,)
    image = ImageFile((place.box_layer, *blobs))
    bens.image = with_config_of(image, place.box_layer.diff_id, *named)
    ref = f"{bens.host}/ben/config:{len(blobs)}"
    with pytest.raises(ImageInvalid):
        ben.images.pull(ref)
    assert_useless(ben, ben.images.get(ref))


@pytest.mark.parametrize("given", IN_ARCHIVE)
def test_an_archive_that_names_the_layer_and_has_something_else_gets_no_sandbox(
    place: Place, ben: Client, tmp_path: Path, given: str
) -> None:
    archive = archive_of(ImageFile((place.box_layer, PRIVATE)), IN_ARCHIVE[given], tmp_path)
    with pytest.raises(ImageInvalid):
        ben.images.import_archive(archive, "mine:1")
    assert_useless(ben, ben.images.get("mine:1"))


def test_an_archive_whose_config_names_the_layer_over_another_blob_gets_no_sandbox(
    place: Place, ben: Client, tmp_path: Path
) -> None:
    image = with_config_of(ImageFile((place.box_layer, OTHER)), place.box_layer.diff_id, PRIVATE.diff_id)
    with pytest.raises(ImageInvalid):
        ben.images.import_archive(archive_of(image, None, tmp_path), "mine:1")
    assert_useless(ben, ben.images.get("mine:1"))


def assert_useless(ben: Client, image: ContainerImage) -> None:
    """No sandbox starts from it."""
    assert image.state == "failed"
    with pytest.raises(BayError) as refused:
        read_in(ben, image.id)
    assert SECRET not in str(refused.value)


def test_who_delivers_the_layer_by_a_registry_reads_the_file_in_a_sandbox(
    place: Place, bens: HostileRegistry, ben: Client
) -> None:
    bens.image = ImageFile((place.box_layer, PRIVATE))
    ref = f"{bens.host}/ben/honest:1"
    ben.images.pull(ref)
    assert bens.asked(f"/blobs/{PRIVATE.digest}")
    assert read_in(ben, ref) == SECRET
    bens.requests.clear()
    bens.image = ImageFile((place.box_layer, PRIVATE, layer_of({"more": b"x"})))
    ben.images.pull(f"{bens.host}/ben/honest:2")
    assert bens.asked(f"/blobs/{PRIVATE.digest}") == []  # now he has it, as she does
    assert read_in(ben, f"{bens.host}/ben/honest:2") == SECRET


def test_who_delivers_the_layer_in_an_archive_reads_the_file_in_a_sandbox(
    place: Place, ben: Client, tmp_path: Path
) -> None:
    archive = archive_of(ImageFile((place.box_layer, PRIVATE)), PRIVATE.blob, tmp_path)
    assert read_in(ben, ben.images.import_archive(archive, "mine:1").id) == SECRET


def test_what_two_owners_delivered_stays_for_the_one_when_the_other_removes_it(place: Place) -> None:
    ref = place.hub.push(ImageFile((place.box_layer, layer_of({"private/key": b"of two"}))), "both/app", "1")
    with place.client("ben") as ben, place.client("cora") as cora:
        for owner in (ben, cora):
            owner.images.pull(ref)
        assert read_in(ben, ref) == "of two"
        ben.images.delete(ref)
        assert read_in(cora, ref) == "of two"
        with pytest.raises(ImageNotFound):
            ben.images.get(ref)
        cora.images.delete(ref)


def test_a_layer_of_a_shared_image_needs_no_delivery(
    place: Place, bens: HostileRegistry, ben: Client
) -> None:
    shared = layer_of({"private/key": b"for all"})
    with place.client("admin") as admin:
        ref = place.hub.push(ImageFile((place.box_layer, shared)), "shared/app", "1")
        image = admin.images.pull(ref, shared=True)
        bens.image = ImageFile((place.box_layer, shared))
        bens.hooks.append(at(f"/blobs/{shared.digest}", refuse))
        own = ben.images.pull(f"{bens.host}/ben/shared:1")
        assert read_in(ben, own.id) == "for all"
        assert bens.asked(f"/blobs/{shared.digest}") == []
        ben.images.delete(own.id)
        admin.images.delete(image.id)
