"""Fixtures: a fresh Ship for each test."""

from collections.abc import Iterator

import pytest
from ship_harness import Ship, running


@pytest.fixture
def ship() -> Iterator[Ship]:
    """A Ship outside any container (`SHIP_LOCAL=1`)."""
    with running() as found:
        yield found
