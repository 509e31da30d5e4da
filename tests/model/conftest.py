"""Quiet logs, as `bay serve` writes them."""

import pytest

from bay.server import logs


@pytest.fixture(scope="session", autouse=True)
def quiet_logs() -> None:
    """The renderer for terminals reads source files on the event loop."""
    logs.configure("error", "json")
