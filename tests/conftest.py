"""What every test shares: async tests run on asyncio."""

import pytest


@pytest.fixture
def anyio_backend() -> str:
    """The only event loop Bay runs on."""
    return "asyncio"
