"""One Bay for the tests of a module, which agents reach by its URL."""

from collections.abc import Iterator

import pytest
import real_bay


@pytest.fixture(scope="module")
def bay() -> Iterator[real_bay.RealBay]:
    """A Bay that answers."""
    with real_bay.running() as running:
        yield running


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
