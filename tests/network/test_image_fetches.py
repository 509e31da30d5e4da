"""Fetching images from public registries: what a fetch reaches, who is told the password, and what stays."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from fetchers import FIRST_ID, assert_nothing_left, fetcher_in, processes, ranges_in
from hostile_registry import Request, at, hostile, listening
from image_files import ImageFile, as_json, layer_of
from server_harness import until
from world import HOST_LAN, HOST_PUBLIC, LAN, METADATA, OTHER, PRIVATE, RESOLVER, SITE, World

from bay.drivers.base import Handle
from bay.drivers.oci.driver import OciDriver
from bay.errors import DriverUnavailable, RegistryUnavailable
from bay.images import fetch_cage
from bay.images.fetching import Fetcher, FetchLimits
from bay.images.references import parse
from bay.images.registries import Credentials, RegistryAccess
from bay.models import NetworkPolicy
from bay.network.dns.forwarder import Forwarder
from bay.network.manager import NetworkManager
from bay.network.slots import NetworkSlot

pytestmark = [
    pytest.mark.host,
    pytest.mark.anyio,
    pytest.mark.skipif(os.geteuid() != 0 or not fetch_cage.is_installed(), reason="needs root and skopeo"),
]

NAME, OTHER_NAME, INNER_NAME = "registry.example", "elsewhere.example", "inner.example"
PORT = 5000
HOST = f"{NAME}:{PORT}"
INSTANCE = "0f0e"
IMAGE = ImageFile([layer_of({"a": b"1" * 5000})])
BLOB = f"/blobs/{IMAGE.layers[0].digest}"
SECRET = "a-very-secret-word"
CREDENTIALS = Credentials(username="ann", password=SECRET)


@pytest.fixture
def short() -> Generator[Path]:
    with tempfile.TemporaryDirectory(prefix="bay-i-", dir="/tmp") as name:
        yield Path(name)
        assert_nothing_left(Path(name))


@pytest.fixture
def spool(short: Path) -> Path:
    directory = short / "spool"
    directory.mkdir(mode=0o700)
    return directory


@pytest.fixture
def world(earth: World) -> World:
    earth.resolver.zone.clear()
    earth.resolver.zone |= {(NAME, "A"): [SITE], (OTHER_NAME, "A"): [OTHER], (INNER_NAME, "A"): [LAN]}
    earth.forget()
    return earth


def new_network() -> NetworkManager:
    return NetworkManager(
        instance=INSTANCE,
        names=lambda opener, public: Forwarder(
            resolvers=[RESOLVER], opener=opener, is_reachable=public, ipv6=False
        ),
    )


@asynccontextmanager
async def fetching(short: Path, *hosts: str, **more: Any) -> AsyncGenerator[Fetcher]:
    """A fetcher with a network, of which nothing is left afterwards."""
    network = new_network()
    await network.open()
    try:
        named = [RegistryAccess(host=host, insecure=True) for host in hosts or (HOST,)]
        fetcher = fetcher_in(short, *named, network=network, online=True, **more)
        await fetcher.open()
        yield fetcher
        assert network.owned() == set()
    finally:
        await network.aclose()


def public(earth: World, *hooks: Any, address: str = SITE) -> Any:
    """A registry on the internet."""
    return hostile(IMAGE, *hooks, listener=earth.internet.inside(lambda: listening(address, PORT)))


def came_inside(world: World) -> set[str]:
    """Where packets arrived that are none of the internet's, but for questions to Bay's resolver."""
    return {address for address, _, _ in world.lan.seen()} - {RESOLVER}


async def test_a_public_registry_is_reached_by_its_name(world: World, short: Path, spool: Path) -> None:
    with public(world) as registry:
        async with fetching(short) as fetcher:
            reference = parse(f"{HOST}/some/image:v1")
            assert await fetcher.resolve(reference) == IMAGE.digest
            assert (await fetcher.fetch(reference, spool)).digest == IMAGE.digest
    assert set(world.resolver.names()) == {NAME}
    assert registry.requests
    assert came_inside(world) == set()


async def test_a_public_registry_is_reached_by_its_address(world: World, short: Path) -> None:
    with public(world):
        async with fetching(short, f"{SITE}:{PORT}") as fetcher:
            assert await fetcher.resolve(parse(f"{SITE}:{PORT}/some/image")) == IMAGE.digest
    assert world.resolver.names() == []


INWARD = (LAN, *PRIVATE, *METADATA, HOST_LAN, HOST_PUBLIC, "127.0.0.1", INNER_NAME)


@pytest.mark.parametrize("place", dict.fromkeys(INWARD))
@pytest.mark.parametrize("part", ["/manifests/", BLOB])
async def test_a_redirect_inward_arrives_nowhere(
    world: World, short: Path, spool: Path, place: str, part: str
) -> None:
    hook = at(part, lambda request: request.send(307, Location=f"http://{place}:80{request.path}"))
    with public(world, hook) as registry:
        async with fetching(short, limits=FetchLimits(stall_s=3)) as fetcher:
            with pytest.raises(RegistryUnavailable):
                await fetcher.fetch(parse(f"{HOST}/some/image:v1"), spool, credentials=CREDENTIALS)
        assert registry.asked(part)
    assert came_inside(world) == set()


def guarded(request: Request) -> bool:
    """Every request needs the user's password."""
    if "Authorization" in request.headers:
        return False
    request.refuse(401, "UNAUTHORIZED", WWW_Authenticate='Basic realm="x"')
    return True


async def test_a_redirect_to_another_host_carries_no_password(world: World, short: Path, spool: Path) -> None:
    """As registries do that keep their blobs with somebody else."""
    hook = at(BLOB, lambda request: request.send(307, Location=f"http://{OTHER_NAME}:{PORT}{request.path}"))
    with public(world, address=OTHER) as other, public(world, guarded, hook) as registry:
        async with fetching(short) as fetcher:
            found = await fetcher.fetch(parse(f"{HOST}/some/image:v1"), spool, credentials=CREDENTIALS)
        assert found.digest == IMAGE.digest
        assert all("Authorization" in headers for headers in registry.asked(BLOB))
        assert other.asked(BLOB)
        assert [headers for _, headers in other.requests if "Authorization" in headers] == []


def bearing(realm: str) -> Any:
    """Every request needs a token, which a realm gives for the user's password."""

    def hook(request: Request) -> bool:
        if request.headers.get("Authorization") == "Bearer the-token":
            return False
        request.refuse(401, "UNAUTHORIZED", WWW_Authenticate=f'Bearer realm="{realm}",service="x"')
        return True

    return hook


async def test_the_registrys_own_realm_is_told_the_password_and_nobody_else(
    world: World, short: Path, spool: Path
) -> None:
    """The protocol of registries: the realm may be of another host, as Docker's is."""
    token = at("/token", lambda request: request.send(200, as_json({"token": "the-token"})))
    with public(world, token, address=OTHER) as realm:
        with public(world, bearing(f"http://{OTHER_NAME}:{PORT}/token")) as registry:
            async with fetching(short) as fetcher:
                await fetcher.fetch(parse(f"{HOST}/some/image:v1"), spool, credentials=CREDENTIALS)
        told = [headers["Authorization"] for headers in realm.asked("/token") if "Authorization" in headers]
        assert told
        assert all(one.startswith("Basic ") for one in told)
        given = [headers.get("Authorization", "") for _, headers in registry.requests]
        assert {one for one in given if one} == {"Bearer the-token"}


@pytest.mark.parametrize("place", [METADATA[0], LAN, "127.0.0.1", INNER_NAME])
async def test_a_realm_inside_is_told_nothing(world: World, short: Path, spool: Path, place: str) -> None:
    with public(world, bearing(f"http://{place}:80/token")):
        async with fetching(short, limits=FetchLimits(stall_s=3)) as fetcher:
            with pytest.raises(RegistryUnavailable):
                await fetcher.fetch(parse(f"{HOST}/some/image:v1"), spool, credentials=CREDENTIALS)
    assert came_inside(world) == set()


async def test_a_name_that_leads_inside_is_not_followed(world: World, short: Path) -> None:
    host = f"{INNER_NAME}:80"
    async with fetching(short, host) as fetcher:
        with pytest.raises(RegistryUnavailable, match="BAY_REGISTRIES"):
            await fetcher.resolve(parse(f"{host}/a"))
    assert came_inside(world) == set()


async def test_a_private_registry_is_reached_where_the_operator_names_its_address(
    world: World, short: Path
) -> None:
    listener = world.lan.inside(lambda: listening(LAN, PORT))
    with hostile(IMAGE, listener=listener):
        access = RegistryAccess(host=f"{INNER_NAME}:{PORT}", insecure=True, addresses=(ip_address(LAN),))
        network = new_network()
        await network.open()
        fetcher = fetcher_in(short, access, network=network, online=True)
        assert await fetcher.resolve(parse(f"{INNER_NAME}:{PORT}/a")) == IMAGE.digest
        await network.aclose()
    assert came_inside(world) == {LAN}
    assert {port for address, _, port in world.lan.seen() if address == LAN} == {PORT}


async def test_without_an_open_network_a_public_registry_is_refused(world: World, short: Path) -> None:
    fetcher = fetcher_in(short, network=new_network(), online=True)
    with pytest.raises(DriverUnavailable, match="no network"):
        await fetcher.resolve(parse(f"{NAME}/a"))
    assert world.internet.seen() == {}


KILLED = """
import asyncio, sys
from pathlib import Path
from fetchers import fetcher_in
from bay.images.references import parse
from bay.images.registries import RegistryAccess
from bay.network.manager import NetworkManager
from bay.network.slots import NetworkSlot

async def main(short, host, instance):
    network = NetworkManager(instance=instance)
    await network.open()
    fetcher = fetcher_in(short, RegistryAccess(host=host, insecure=True), network=network, online=True)
    await fetcher.fetch(parse(f"{host}/some/image:v1"), short / "spool")

asyncio.run(main(Path(sys.argv[1]), *sys.argv[2:]))
"""


def begun(*arguments: str) -> "subprocess.Popen[bytes]":
    support = str(Path(__file__).parents[1] / "support")
    command = [sys.executable, "-c", KILLED, *arguments]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": support})


async def test_the_network_of_a_killed_bays_fetch_is_gone_after_the_next_start(
    world: World, short: Path, spool: Path
) -> None:
    del spool
    reached = threading.Event()

    def stall(request: Request) -> None:
        reached.set()
        request.begin(100_000)
        request.registry.over.wait(60)

    with public(world, at(BLOB, stall)):
        bay = begun(str(short), f"{SITE}:{PORT}", INSTANCE)
        await until(lambda: reached.is_set() or bay.poll() is not None)
        bay.send_signal(signal.SIGKILL)
        bay.wait(10)
        await until(lambda: not processes())
    assert len(ranges_in(short).holders()) == 1
    network = new_network()
    await network.open()
    assert network.owned() == {1}
    await fetcher_in(short, network=network, online=True).open()
    assert network.owned() == set()
    await network.aclose()


async def test_a_driver_that_clears_up_leaves_the_networks_of_fetches(world: World, short: Path) -> None:
    """A session without a claim may have any network that nobody claims."""
    del world
    network = new_network()
    await network.open()
    ids, holder = ranges_in(short), short / "run" / "fetches" / "fetch-now"
    holder.mkdir(parents=True)
    slot = NetworkSlot(ids.number_of(ids.claim(holder)) + 1, holder.name)
    network.admit(slot, NetworkPolicy())
    network.admit(NetworkSlot(slot.number + 1, "sess-gone"), NetworkPolicy())
    driver = OciDriver(
        root=short / "root",
        run_dir=short / "run",
        ids_dir=ids.directory,
        id_range_start=FIRST_ID,
        network=network,
    )
    await driver.destroy(Handle(driver="oci", session_id="sess-gone"))
    assert network.owned() == {slot.number}
    await network.remove(slot)
    ids.release(holder)
    holder.rmdir()
    await network.aclose()
