"""The clients of a server whose nodes fetch images themselves: nothing is pulled before a create."""

from dataclasses import replace

import pytest
import real_bay
from cli_runner import Cli

import bay
from bay.drivers.base import NamedImages
from bay.errors import CapabilityNotSupported

DEBIAN = "docker.io/library/debian:13"
DIGEST = "sha256:" + "1" * 64
PINNED = f"{DEBIAN}@{DIGEST}"


@pytest.fixture(autouse=True)
def _by_name(real: real_bay.RealBay) -> None:  # pyright: ignore[reportUnusedFunction]
    driver = real.driver
    driver.capabilities = replace(driver.capabilities, other_images=NamedImages(admitted=("docker.io/",)))
    driver.registry = {DEBIAN: DIGEST}


def test_the_sdk_names_the_image_in_the_create(client: bay.Client) -> None:
    with client.sandbox(image="debian:13") as box:
        assert box.info.image == PINNED
    assert client.sandboxes.create(image="debian:13", wait=30).info.image == PINNED
    assert list(client.images.list()) == []


@pytest.mark.anyio
async def test_the_async_sdk_names_the_image_in_the_create(served: tuple[str, str]) -> None:
    async with bay.AsyncClient(*served) as client, client.sandbox(image="debian:13") as box:
        assert box.info.image == PINNED


def test_a_wanted_pull_is_refused_and_not_ignored(client: bay.Client) -> None:
    with (
        pytest.raises(CapabilityNotSupported, match="pull_policy"),
        client.sandbox(image="debian:13", pull="always"),
    ):
        pass


def test_the_command_line_runs_an_image_that_the_nodes_fetch(real: real_bay.RealBay) -> None:
    done = Cli(real.url)("run", "--image", "debian:13", "--", "echo", "here")
    assert (done.returncode, done.stdout) == (0, b"here\n"), done.stderr
    assert DEBIAN in real.driver.images.values()
    wrong = Cli(real.url)("run", "--image", "debian:nosuch", "--", "true")
    assert wrong.returncode != 0
    assert b"debian:nosuch" in wrong.stderr
