"""Fixtures: a fresh Ship for each test."""

from collections.abc import Iterator

import pytest
from ship_harness import Ship, running

# Modules whose Ship is reached over TCP, too.
OVER_BOTH = {"test_archive_stream", "test_output", "test_stdin", "test_tunnel"}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the tests of these modules with either kind of Ship."""
    if "ship" in metafunc.fixturenames and metafunc.definition.path.stem in OVER_BOTH:
        metafunc.parametrize("ship", ["unix", "pod"], indirect=True)


@pytest.fixture
def ship(request: pytest.FixtureRequest) -> Iterator[Ship]:
    """A Ship outside any container (`SHIP_LOCAL=1`), or with the parameter `pod` one like a pod's."""
    with running(pod=getattr(request, "param", "") == "pod") as found:
        yield found
