"""What the tests of several Bays share: logs of each of them beside a failure."""

from collections.abc import Generator

import pytest
from replica_bays import ReplicaBays, can_run


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Several Bays share their rows in PostgreSQL alone, and a balancer is before them."""
    if not can_run():
        for item in items:
            if item.path.parent.name == "replicas":
                item.add_marker(pytest.mark.skip("PostgreSQL and HAProxy are not installed"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Function,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the logs of the Bays of a test that failed."""
    report = yield
    bays = item.funcargs.get("bays")
    if report.failed and isinstance(bays, ReplicaBays):
        report.sections.append(("logs of the replicas", bays.logs()))
    return report
