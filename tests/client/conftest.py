"""A real Bay with the `fake` driver for the tests of each file, clients of it, and a proxy that injects
faults.
"""

from collections.abc import Iterator

import fault_proxy
import pytest
import real_bay

import bay


@pytest.fixture(autouse=True)
def _no_settings_of_the_developer(monkeypatch: pytest.MonkeyPatch) -> None:  # pyright: ignore[reportUnusedFunction]
    monkeypatch.delenv("BAY_URL", raising=False)
    monkeypatch.delenv("BAY_API_KEY", raising=False)


@pytest.fixture(scope="module")
def real() -> Iterator[real_bay.RealBay]:
    with real_bay.running() as running:
        yield running


@pytest.fixture(scope="module")
def served(real: real_bay.RealBay) -> tuple[str, str]:
    """The URL and a key of an admin."""
    return real.where


@pytest.fixture
def url(real: real_bay.RealBay) -> str:
    return real.url


@pytest.fixture
def proxy(real: real_bay.RealBay) -> Iterator[fault_proxy.Proxy]:
    with fault_proxy.before(real.url) as made:
        yield made


@pytest.fixture(scope="module")
def client(served: tuple[str, str]) -> Iterator[bay.Client]:
    with bay.Client(*served, timeout_s=30) as made:
        yield made


@pytest.fixture
def box(client: bay.Client) -> Iterator[bay.Box]:
    with client.sandbox() as made:
        yield made
