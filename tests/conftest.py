"""What every test shares: a network of its own, async tests on asyncio, and files that take long are begun
with.
"""

import gc
import os
from collections.abc import Iterator

import compiled_statements
import forked_ship
import kube_cluster
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

pytest.register_assert_rewrite("bay.testing")

collect_ignore = [] if kube_cluster.is_inside() else ["kubernetes"]

# A pool is a mount on the host: only the tests that are about pools make one.
os.environ.setdefault("BAY_CARGO_BACKEND", "directory")

# The tests start thousands; those of the driver itself start them as it does for its users.
fake.start_ship = forked_ship.start

compiled_statements.share()


def pytest_configure(config: pytest.Config) -> None:
    """In the process that starts the workers, or the only one, make what all of them share."""
    if not hasattr(config, "workerinput"):
        shared_cache.make()
        config.add_cleanup(shared_cache.remove)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files with a test marked `long` first: begun last, one would run when the other worker has no
    more to do.
    """
    long = {item.path for item in items if item.get_closest_marker("long")}
    items.sort(key=lambda item: item.path not in long)


def pytest_collection_finish() -> None:
    """No garbage collection looks through ten thousand tests and all modules: they stay to the end."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def its_turn(request: pytest.FixtureRequest) -> Iterator[None]:
    """The test's turn, beside others or alone."""
    with turns.turn(alone=request.node.get_closest_marker("alone") is not None):
        yield


@pytest.fixture
def anyio_backend() -> str:
    """The only event loop Bay runs on."""
    return "asyncio"
