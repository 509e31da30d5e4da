"""A stand-in for Bay, and clients of it."""

from collections.abc import Iterator

import pytest
import standin

import bay


@pytest.fixture(autouse=True)
def _no_settings_of_the_developer(monkeypatch: pytest.MonkeyPatch) -> None:  # pyright: ignore[reportUnusedFunction]
    monkeypatch.delenv("BAY_URL", raising=False)
    monkeypatch.delenv("BAY_API_KEY", raising=False)


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, standin.World]]:
    with standin.standing_in() as served:
        yield served


@pytest.fixture
def url(server: tuple[str, standin.World]) -> str:
    return server[0]


@pytest.fixture
def world(server: tuple[str, standin.World]) -> standin.World:
    return server[1]


@pytest.fixture
def client(url: str) -> Iterator[bay.Client]:
    with bay.Client(url, standin.KEY, timeout_s=20) as made:
        yield made


@pytest.fixture
def box(client: bay.Client) -> Iterator[bay.Box]:
    with client.sandbox() as made:
        yield made
