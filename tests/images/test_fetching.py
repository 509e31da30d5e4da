"""Fetching from a real registry: what arrives, what is left out, and what is refused in our words."""

import asyncio
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import registry as registries
from fetchers import MakeFetcher
from image_files import ARCHITECTURE, DOCKER_LIST, INDEX, OTHER, ImageFile, digest_of, index_of, layer_of
from registry import PASSWORD, USER, Registry, authority

from bay.errors import (
    BayError,
    DriverUnavailable,
    ImageDenied,
    ImageNotFound,
    ImagePlatform,
    ImageTooLarge,
    RegistryUnavailable,
)
from bay.images.fetching import Fetcher, FetchLimits, FetchProgress
from bay.images.oci_layout import LayoutLimits, blob_path, read_image
from bay.images.references import parse
from bay.images.registries import Credentials, RegistryAccess

pytestmark = [pytest.mark.host, pytest.mark.anyio]

LOOPBACK = ip_address("127.0.0.1")
LAYERS = (layer_of({"a": b"1" * 5000}), layer_of({"b": b"2" * 3000}))
IMAGE = ImageFile(LAYERS)


@pytest.fixture
def spool(short: Path) -> Path:
    directory = short / "spool"
    directory.mkdir(mode=0o700)
    return directory


def insecure(found: Registry) -> RegistryAccess:
    return RegistryAccess(host=found.host, insecure=True)


@pytest.mark.parametrize("docker", [False, True])
async def test_an_image_comes_with_its_layers_and_its_progress(
    make_fetcher: MakeFetcher, plain_registry: Registry, spool: Path, docker: bool
) -> None:
    image = ImageFile(LAYERS, docker=docker)
    reference = parse(plain_registry.push(image, "some/image", "v1"))
    fetcher = make_fetcher(insecure(plain_registry))
    assert await fetcher.resolve(reference) == image.digest
    told: list[FetchProgress] = []
    found = await fetcher.fetch(reference, spool, on_progress=told.append)
    assert found == read_image(spool, LayoutLimits())
    assert found.digest == image.digest
    assert [blob_path(spool, one.digest).read_bytes() for one in LAYERS] == [one.blob for one in LAYERS]
    total = sum(len(one.blob) for one in LAYERS)
    assert told[0] == FetchProgress(0, total, 0, 2)
    assert told[-1] == FetchProgress(total, total, 2, 2)
    assert {path.stat().st_uid for path in spool.rglob("*")} == {0}


async def refusal(fetcher: Fetcher, reference: str, spool: Path, error: type[BayError], **more: Any) -> str:
    """The words with which a fetch is refused."""
    with pytest.raises(error) as found:
        await fetcher.fetch(parse(reference), spool, **more)
    assert type(found.value) is error
    assert found.value.message.isprintable()
    for word in ("level=", "msg=", "/spool", "docker://", "skopeo"):
        assert word not in found.value.message
    return found.value.message


async def test_the_layers_that_are_held_are_not_fetched(
    make_fetcher: MakeFetcher, plain_registry: Registry, spool: Path
) -> None:
    reference = parse(plain_registry.push(IMAGE, "held/image", "v1"))
    held = LAYERS[0].digest
    told: list[FetchProgress] = []
    fetcher = make_fetcher(insecure(plain_registry))
    found = await fetcher.fetch(reference, spool, held={held, digest_of(b"other")}, on_progress=told.append)
    assert blob_path(spool, held).stat().st_size == 0
    assert [one.digest for one in found.layers] == [one.digest for one in LAYERS]
    assert told[0] == FetchProgress(0, len(LAYERS[1].blob), 1, 2)
    assert told[-1] == FetchProgress(len(LAYERS[1].blob), len(LAYERS[1].blob), 2, 2)


async def test_no_link_in_a_spool_leads_to_files_of_the_host(
    make_fetcher: MakeFetcher, plain_registry: Registry, spool: Path
) -> None:
    ref = plain_registry.push(IMAGE, "held/image", "v1")
    (spool.parent / "elsewhere/sha256").mkdir(parents=True)
    (spool / "blobs").symlink_to(spool.parent / "elsewhere")
    fetcher = make_fetcher(insecure(plain_registry))
    await refusal(fetcher, ref, spool, DriverUnavailable, held={LAYERS[0].digest})
    assert list((spool.parent / "elsewhere/sha256").iterdir()) == []


async def test_a_moved_tag_changes_nothing_for_a_digest(
    make_fetcher: MakeFetcher, plain_registry: Registry, spool: Path
) -> None:
    reference = parse(plain_registry.push(IMAGE, "moved/image", "v1"))
    fetcher = make_fetcher(insecure(plain_registry))
    pinned = reference.pinned(await fetcher.resolve(reference))
    plain_registry.push(ImageFile(LAYERS[:1]), "moved/image", "v1")
    assert await fetcher.resolve(reference) != pinned.digest
    assert await fetcher.resolve(pinned) == pinned.digest
    assert (await fetcher.fetch(pinned, spool)).digest == IMAGE.digest


@pytest.mark.parametrize("kind", [INDEX, DOCKER_LIST])
async def test_of_a_list_this_platform_is_fetched_and_the_list_is_pinned(
    make_fetcher: MakeFetcher, plain_registry: Registry, spool: Path, kind: str
) -> None:
    docker = kind == DOCKER_LIST
    images = [ImageFile(LAYERS, docker=docker), ImageFile(LAYERS, {"architecture": OTHER}, docker=docker)]
    for image in images:
        plain_registry.push(image, "many/image", image.digest.removeprefix("sha256:")[:9])
    names = [f"linux/{ARCHITECTURE}", f"linux/{OTHER}"]
    index = index_of([(one.manifest_bytes, name) for one, name in zip(images, names, strict=True)], kind)
    plain_registry.push_manifest("many/image", "all", index, kind)
    reference = parse(f"{plain_registry.host}/many/image:all")
    fetcher = make_fetcher(insecure(plain_registry))
    digest = await fetcher.resolve(reference)
    assert digest == digest_of(index)
    assert (await fetcher.fetch(reference.pinned(digest), spool)).digest == images[0].digest


async def test_an_image_for_another_platform_is_refused_before_its_layers(
    make_fetcher: MakeFetcher, plain_registry: Registry, spool: Path
) -> None:
    other = ImageFile(LAYERS, {"architecture": OTHER})
    single = plain_registry.push(other, "other/image", "v1")
    index = index_of([(other.manifest_bytes, f"linux/{OTHER}")])
    plain_registry.push_manifest("other/image", "list", index, INDEX)
    fetcher = make_fetcher(insecure(plain_registry))
    for reference in (single, f"{plain_registry.host}/other/image:list"):
        said = await refusal(fetcher, reference, spool, ImagePlatform)
        assert f"for linux/{OTHER}" in said
        assert list(spool.rglob("*.*")) == list((spool / "blobs").rglob("*")) == []
        (spool / "scratch").rmdir()


async def test_a_registry_lacks_repositories_tags_and_digests(
    make_fetcher: MakeFetcher, plain_registry: Registry, spool: Path
) -> None:
    plain_registry.push(IMAGE, "unauthorized/image", "denied")
    fetcher = make_fetcher(insecure(plain_registry))
    host = plain_registry.host
    for rest in ("no/such:v1", "unauthorized/image:429", f"unauthorized/image@{digest_of(b'x')}"):
        said = await refusal(fetcher, f"{host}/{rest}", spool, ImageNotFound)
        assert f"{host}/{rest}" in said
        (spool / "scratch").rmdir()
    with pytest.raises(ImageNotFound):
        await fetcher.resolve(parse(f"{host}/no/such:v1"))


async def test_a_password_opens_its_registry_and_a_wrong_one_does_not(
    make_fetcher: MakeFetcher, short: Path, spool: Path
) -> None:
    (short / "files").mkdir()
    with registries.registry(short / "files", password=True) as closed:
        reference = closed.push(IMAGE, "private/image", "v1")
        fetcher = make_fetcher(insecure(closed))
        wrong = Credentials(username=USER, password="guess")
        for credentials in (None, wrong):
            said = await refusal(fetcher, reference, spool, ImageDenied, credentials=credentials)
            assert "give the credentials" in said
            (spool / "scratch").rmdir()
        right = Credentials(username=USER, password=PASSWORD)
        assert await fetcher.resolve(parse(reference), right) == IMAGE.digest
        assert (await fetcher.fetch(parse(reference), spool, credentials=right)).digest == IMAGE.digest


async def test_a_private_authority_is_trusted_where_the_operator_says(
    make_fetcher: MakeFetcher, short: Path, spool: Path
) -> None:
    ca = authority(short / "ca", "127.0.0.1", "registry.test")
    (short / "files").mkdir()
    with registries.registry(short / "files", ca=ca, password=True) as closed:
        reference = closed.push(IMAGE, "private/image", "v1")
        credentials = Credentials(username=USER, password=PASSWORD)
        trusting = RegistryAccess(host=closed.host, ca_file=ca / "ca.crt")
        found = await make_fetcher(trusting).fetch(parse(reference), spool, credentials=credentials)
        assert found.digest == IMAGE.digest
        strict = make_fetcher(RegistryAccess(host=closed.host))
        with pytest.raises(RegistryUnavailable, match=r"certificate is not valid here.*`ca_file`"):
            await strict.resolve(parse(reference), credentials)
        # By a name that leads to it, and by one that its certificate does not have.
        port = closed.host.rpartition(":")[2]
        for name, fine in (("registry.test", True), ("other.test", False)):
            named = replace(trusting, host=f"{name}:{port}", addresses=(LOOPBACK,))
            resolving = make_fetcher(named).resolve(parse(f"{name}:{port}/private/image:v1"), credentials)
            if fine:
                assert await resolving == IMAGE.digest
            else:
                with pytest.raises(RegistryUnavailable, match="certificate"):
                    await resolving


async def test_an_authority_that_cannot_be_read_is_the_operators_affair(
    make_fetcher: MakeFetcher, short: Path
) -> None:
    access = RegistryAccess(host="127.0.0.1:5000", ca_file=short / "nowhere.crt")
    with pytest.raises(DriverUnavailable, match=r"`ca_file` of the registry 127.0.0.1:5000"):
        await make_fetcher(access).resolve(parse("127.0.0.1:5000/a"))


async def test_plain_http_needs_the_operators_word(
    make_fetcher: MakeFetcher, plain_registry: Registry
) -> None:
    reference = parse(plain_registry.push(IMAGE, "plain/image", "v1"))
    with pytest.raises(RegistryUnavailable, match=r"plain HTTP.*`insecure`"):
        await make_fetcher(RegistryAccess(host=plain_registry.host)).resolve(reference)


@pytest.mark.parametrize(
    "host",
    ["localhost", "localhost:5000", "a.localhost:1", "127.0.0.1:5000", "10.1.2.3", "[::1]:5000", "[fd00::1]",
     "169.254.169.254", "0.0.0.0:80", "[::ffff:127.0.0.1]:80"],
)  # fmt: skip
async def test_a_local_registry_that_is_not_named_is_refused(make_fetcher: MakeFetcher, host: str) -> None:
    with pytest.raises(ImageDenied, match="BAY_REGISTRIES"):
        await make_fetcher().resolve(parse(f"{host}/a"))


async def test_a_registry_on_an_ipv6_loopback_is_reached(make_fetcher: MakeFetcher, short: Path) -> None:
    (short / "files").mkdir()
    with registries.registry(short / "files", address="::1") as found:
        reference = found.push(IMAGE, "six/image", "v1")
        assert await make_fetcher(insecure(found)).resolve(parse(reference)) == IMAGE.digest


async def test_a_registry_by_a_private_address_is_reached_by_its_relay(
    make_fetcher: MakeFetcher, plain_registry: Registry
) -> None:
    """The address is one that this host has nowhere: only the relay knows the way."""
    plain_registry.push(IMAGE, "relayed/image", "v1")
    port = plain_registry.host.rpartition(":")[2]
    for host in (f"10.77.88.99:{port}", f"[fd00:77::99]:{port}", f"localhost:{port}", f"registry.lan:{port}"):
        named = RegistryAccess(host=host, insecure=True, addresses=(LOOPBACK,))
        assert await make_fetcher(named).resolve(parse(f"{host}/relayed/image:v1")) == IMAGE.digest


async def test_a_public_registry_needs_a_network(make_fetcher: MakeFetcher) -> None:
    with pytest.raises(DriverUnavailable, match="no network"):
        await make_fetcher().resolve(parse("busybox"))


async def test_a_registry_that_is_not_there_is_unavailable(make_fetcher: MakeFetcher) -> None:
    with pytest.raises(RegistryUnavailable, match="cannot be reached, or breaks off"):
        await make_fetcher(RegistryAccess(host="127.0.0.1:1", insecure=True)).resolve(parse("127.0.0.1:1/a"))


async def test_the_limit_counts_before_a_layer_comes(
    make_fetcher: MakeFetcher, plain_registry: Registry, spool: Path
) -> None:
    reference = plain_registry.push(IMAGE, "large/image", "v1")
    whole = sum(len(one.blob) for one in LAYERS)
    fetcher = make_fetcher(insecure(plain_registry), limits=FetchLimits(max_bytes=whole))
    assert "limit" in await refusal(fetcher, reference, spool, ImageTooLarge, max_bytes=whole - 1)
    assert not (spool / "blobs").exists()
    (spool / "scratch").rmdir()
    await fetcher.fetch(parse(reference), spool, max_bytes=10**15)


async def test_many_fetches_at_once_have_places_of_their_own(
    make_fetcher: MakeFetcher, plain_registry: Registry
) -> None:
    reference = parse(plain_registry.push(IMAGE, "busy/image", "v1"))
    fetcher = make_fetcher(insecure(plain_registry))
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(fetcher.resolve(reference)) for _ in range(12)]
    assert {task.result() for task in tasks} == {IMAGE.digest}
