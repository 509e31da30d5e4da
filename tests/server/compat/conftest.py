"""Where the tests of foreign formats have their Bays."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from server_harness import short_dir


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A directory whose path leaves room for the sockets of Ships."""
    with short_dir() as path:
        yield path
