"""Fetchers on this host, and nothing of them left on it afterwards."""

import os
import tempfile
from collections.abc import Generator
from functools import partial
from pathlib import Path

import pytest
import registry
from fetchers import MakeFetcher, assert_nothing_left, fetcher_in
from libraries import library_in
from registry import Registry

from bay.images import fetch_cage
from bay.images.library import HostLibrary


@pytest.fixture
def short() -> Generator[Path]:
    """A directory below one that everybody may pass."""
    with tempfile.TemporaryDirectory(prefix="bay-i-", dir="/tmp") as name:
        yield Path(name)


@pytest.fixture
def make_fetcher(short: Path) -> Generator[MakeFetcher]:
    if os.geteuid() != 0 or not fetch_cage.is_installed():
        pytest.skip("fetching needs root and skopeo")
    yield partial(fetcher_in, short)
    assert_nothing_left(short)


@pytest.fixture(scope="module")
def plain_registry(tmp_path_factory: pytest.TempPathFactory) -> Generator[Registry]:
    """A registry of plain HTTP, on loopback."""
    if not registry.is_installed():
        pytest.skip("needs docker-registry, htpasswd and openssl")
    with registry.registry(tmp_path_factory.mktemp("registry")) as made:
        yield made


@pytest.fixture(scope="module")
def closures() -> Generator[Path]:
    with tempfile.TemporaryDirectory(prefix="bay-closures-") as name:
        yield Path(name)


@pytest.fixture
async def library(
    make_fetcher: MakeFetcher, plain_registry: Registry, short: Path, closures: Path
) -> HostLibrary:
    return await library_in(short / "images", short, closures, make_fetcher, plain_registry.host)
