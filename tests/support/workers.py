"""Which of the processes that run the tests at the same time this is."""

import os


def worker_number() -> int:
    """From 0; those that this process starts have the same."""
    return int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
