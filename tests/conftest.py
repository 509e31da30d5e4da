"""What every test shares: async tests run on asyncio, and files that take long are begun with."""

import os

import pytest

# A pool is a mount on the host: only the tests that are about pools make one.
os.environ.setdefault("BAY_CARGO_BACKEND", "directory")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files with a test marked `long` first: begun last, one would run when the other worker has no more to do."""
    long = {item.path for item in items if item.get_closest_marker("long")}
    items.sort(key=lambda item: item.path not in long)


@pytest.fixture
def anyio_backend() -> str:
    """The only event loop Bay runs on."""
    return "asyncio"
