"""What every test shares: a network of its own, async tests on asyncio, and files that take long are begun
with.
"""

import gc
import json
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import compiled_statements
import forked_ship
import kube_cluster
import parts
import pytest
import shared_cache
import turns

from bay.drivers import fake
from bay.drivers.oci import netns
from bay.linux import mounts

# A rule that fails must not let a packet out of this machine, and a Bay under test must not change its
# network: root's tests run, with all that they start, in a network namespace that has loopback and no way to
# any other device. Their mounts are their own too: each mount namespace that another process makes begins
# with a copy of all that is mounted, and would keep a file system alive that a test has unmounted. The
# tests of Kubernetes are in the namespaces of its node, which have no way out either. Tests of another's Bay
# are where that Bay is.
if os.geteuid() == 0 and not kube_cluster.is_inside() and "BAY_TEST_URL" not in os.environ:
    mounts.unshare(mounts.CLONE_NEWNET | mounts.CLONE_NEWNS)
    mounts.make_all_private()
    netns.set_up_loopback()

# A shell begins what is put in its background with Ctrl-C ignored, and so would all programs of the tests be.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

pytest.register_assert_rewrite("bay.testing")

collect_ignore = [] if kube_cluster.is_inside() else ["kubernetes"]

# A pool is a mount on the host: only the tests that are about pools make one.
os.environ.setdefault("BAY_CARGO_BACKEND", "directory")

# The tests start thousands; those of the driver itself start them as it does for its users.
fake.start_ship = forked_ship.start

compiled_statements.share()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The part to run, and where to write what came of it."""
    parser.addoption("--part", choices=parts.PARTS, help="run the tests of one part only")
    parser.addoption("--outcomes", type=Path, help="write a JSON of counts and of failed tests to this file")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """The gate does not import what it does not run."""
    if config.getoption("part") == parts.GATE and collection_path.name.startswith("test_"):
        return parts.has_none_of_the_gate(collection_path) or None
    return None


def pytest_configure(config: pytest.Config) -> None:
    """In the process that starts the workers, or the only one, make what all of them share."""
    if not hasattr(config, "workerinput"):
        shared_cache.make()
        config.add_cleanup(shared_cache.remove)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the tests of the part. Put the files with a test marked `long` first: begun last, one would run
    when the other worker has no more to do.
    """
    if part := config.getoption("part"):
        others = [item for item in items if parts.part_of(item) != part]
        items[:] = [item for item in items if parts.part_of(item) == part]
        config.hook.pytest_deselected(items=others)
    long = {item.path for item in items if item.get_closest_marker("long")}
    items.sort(key=lambda item: item.path not in long)


def pytest_collection_finish() -> None:
    """No garbage collection looks through ten thousand tests and all modules: they stay to the end."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Name what took longer than a test of the gate may, and write down what came of the run."""
    stats: dict[str, list[pytest.TestReport]] = terminalreporter.stats
    if config.getoption("part") == parts.GATE:
        for report in sorted(stats.get("passed", ()), key=lambda report: -report.duration):
            if report.duration > parts.LONGEST_S:
                terminalreporter.line(f"LONG {report.duration:.1f} s: {report.nodeid}")
    if path := config.getoption("outcomes"):
        counts = Counter({name: len(stats.get(name, ())) for name in ("passed", "skipped")})
        failed = {report.nodeid for name in ("failed", "error") for report in stats.get(name, ())}
        path.write_text(json.dumps({**counts, "failed": sorted(failed)}))


@pytest.fixture(autouse=True)
def its_turn(request: pytest.FixtureRequest) -> Iterator[None]:
    """The test's turn, beside others or alone."""
    with turns.turn(alone=request.node.get_closest_marker("alone") is not None):
        yield


@pytest.fixture
def anyio_backend() -> str:
    """The only event loop Bay runs on."""
    return "asyncio"
