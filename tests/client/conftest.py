"""A real Bay with the `fake` driver for the tests of each file, clients of it, and a proxy that injects
faults.

With BAY_TEST_URL the Bay is the one at that URL, with the tests' key of an administrator, and those tests
alone run that need no more of it. It may be killed meanwhile. A test whose call is lost by that is skipped if
the SDK could not know whether the call had its effect, and so is one whose tunnel or transfer broke. The file
BAY_TEST_UNANSWERED gets its name.
"""

import os
import traceback
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import cast

import fault_proxy
import pytest
import real_bay

import bay
from bay.client._failures import Attempts

ELSEWHERE = os.environ.get("BAY_TEST_URL")
UNANSWERED = os.environ.get("BAY_TEST_UNANSWERED")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if ELSEWHERE:
        items[:] = [item for item in items if _needs_a_url_alone(item)]


def _needs_a_url_alone(item: pytest.Item) -> bool:
    names = item.fixturenames if isinstance(item, pytest.Function) else []
    return "served" in names and "real" not in names and item.get_closest_marker("prompt") is None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if UNANSWERED and call.excinfo is not None and _is_unanswered(call.excinfo):
        with Path(UNANSWERED).open("a", encoding="utf-8") as names:
            names.write(f"{item.nodeid}\n")
        report.outcome, report.longrepr = (
            "skipped",
            (str(item.path), 0, "a call that is not sent twice was lost"),
        )
    return report


def _is_unanswered(failed: pytest.ExceptionInfo[BaseException]) -> bool:
    return all(_is_lost(error) for error in _leaves(failed.value))


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for one in cast("BaseExceptionGroup[BaseException]", error).exceptions:
            yield from _leaves(one)
    else:
        yield error


def _is_lost(error: BaseException) -> bool:
    """Whether it is a connection that broke under a call that is not sent twice, in the middle of a transfer,
    which the caller begins anew, or under a tunnel: which of its bytes have arrived, only the program there
    knows.
    """
    for frame, _ in traceback.walk_tb(
        error.__traceback__ if isinstance(error, bay.ConnectionFailed) else None
    ):
        attempts = frame.f_locals.get("attempts")
        is_unsafe = isinstance(attempts, Attempts) and not attempts._call.safe
        is_transfer = Path(frame.f_code.co_filename).name == "transfer.py"
        if is_unsafe or is_transfer or isinstance(frame.f_locals.get("self"), bay.Tunnel | bay.AsyncTunnel):
            return True
    return False


@pytest.fixture(autouse=True)
def _no_settings_of_the_developer(monkeypatch: pytest.MonkeyPatch) -> None:  # pyright: ignore[reportUnusedFunction]
    monkeypatch.delenv("BAY_URL", raising=False)
    monkeypatch.delenv("BAY_API_KEY", raising=False)


@pytest.fixture(scope="module")
def real() -> Iterator[real_bay.RealBay]:
    with real_bay.running() as running:
        yield running


@pytest.fixture(scope="module")
def served(request: pytest.FixtureRequest) -> tuple[str, str]:
    """The URL and a key of an admin."""
    return (ELSEWHERE, real_bay.KEY) if ELSEWHERE else request.getfixturevalue("real").where


@pytest.fixture
def url(served: tuple[str, str]) -> str:
    return served[0]


@pytest.fixture
def proxy(url: str) -> Iterator[fault_proxy.Proxy]:
    with fault_proxy.before(url) as made:
        yield made


@pytest.fixture(scope="module")
def client(served: tuple[str, str]) -> Iterator[bay.Client]:
    # Replicas that are killed are taken over first, and a client tries for longer than that takes.
    timeout_s, retry_s = (60, 40) if ELSEWHERE else (30, 10)
    with bay.Client(*served, timeout_s=timeout_s, retry_s=retry_s) as made:
        yield made


@pytest.fixture
def box(client: bay.Client) -> Iterator[bay.Box]:
    with client.sandbox() as made:
        yield made
