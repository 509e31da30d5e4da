"""Every block of the documentation is run: page by page and in its order, as a reader would type it.

`page_worlds` is the table of what pages assume, and of blocks that are treated otherwise. A block that it
does not name is run.
"""

import os
import sys
import tempfile
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import page_bay
import page_worlds
import postgres_server
import pytest
import registry
import shared_cache
from page_bay import PageBay
from page_blocks import ROOT, all_blocks, blocks_of
from page_follow import follow
from page_rows import World
from page_session import Session

from bay.images import fetch_cage

pytestmark = [pytest.mark.docs, pytest.mark.long]

PAGES = sorted({block.page for block in all_blocks()})


@pytest.fixture(scope="module")
def shared() -> Generator[PageBay]:
    if os.geteuid() != 0 or not fetch_cage.is_installed() or not registry.is_installed():
        pytest.skip("needs root, skopeo, and docker-registry")
    with page_bay.serving() as made:
        yield made


@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", PAGES)
def test_the_blocks_of_a_page_run_in_its_order(page: str, shared: PageBay) -> None:
    world = page_worlds.WORLDS.get(page, World())
    if world.databases and postgres_server.binaries() is None:
        pytest.skip("needs PostgreSQL")
    with reader(page, world, shared) as (session, words):
        follow(page, world, session, words)
    assert blocks_of(page)


@contextmanager
def reader(page: str, world: World, shared: PageBay) -> Generator[tuple[Session, dict[str, str]]]:
    """Someone who reads the page, and the words that are his own."""
    python = str(ROOT / world.python) if world.python else sys.executable
    words = {"URL-OF-THIS-REPOSITORY": str(ROOT), "/path/to/the/clone": str(ROOT)}
    with place() as root, ExitStack() as databases:
        for number in range(1, world.databases + 1):
            url = databases.enter_context(postgres_server.shared().database())
            words[f"POSTGRES-{number}"] = url
        words["PLACE"] = str(root)
        if not world.bay:
            with session_in(root, own_settings(root), python) as session:
                yield session, words
            return
        with shared.owner(page, world.images) as key:
            words |= {
                "127.0.0.1:8700": shared.url.removeprefix("http://"),
                "registry.example.com": shared.hub.host,
            }
            words |= {"bay_YOUR-KEY": key, "bay_…": key}
            with session_in(root, shared.environment(key), python) as session:
                yield session, words


def own_settings(root: Path) -> dict[str, str]:
    """For the Bay that a page starts: directories of its own."""
    return {
        "BAY_DATA_DIR": f"{root}/data", "DATA_DIR": f"{root}/data", "BAY_RUN_DIR": f"{root}/run",
        "BAY_CACHE_DIR": str(shared_cache.filled()), "BAY_CARGO_BACKEND": "directory",
        "BAY_PROFILES": '{"python-default": {}}',
    }  # fmt: skip


@contextmanager
def place() -> Generator[Path]:
    with tempfile.TemporaryDirectory(prefix="bay-", dir="/tmp") as root:  # sockets have short paths
        Path(root).chmod(0o711)
        yield Path(root)


@contextmanager
def session_in(root: Path, environment: dict[str, str], python: str) -> Generator[Session]:
    session = Session(root, environment, python)
    try:
        yield session
    finally:
        session.close()
