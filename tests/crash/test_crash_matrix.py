"""A part of the crash matrix: Bay is killed, and the next one owes nobody anything.

`make crash` runs all of it.
"""

import asyncio
from pathlib import Path

import pytest
from crash_matrix import Row, run_all
from crash_operations import OPERATIONS

EVERY_NTH = 12
"""Of each operation's places, and all that the driver yields: about 60 kills."""

pytestmark = [pytest.mark.timeout(300), pytest.mark.long]


@pytest.fixture(scope="module")
def rows(cache: Path) -> dict[str, Row]:
    """What came of the kills, by operation; all at once, because two run at a time."""
    done = asyncio.run(run_all(OPERATIONS, cache, every_nth=EVERY_NTH, told=lambda _: None))
    return {row.operation: row for row in done}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_bay_killed_anywhere_in_an_operation_loses_leaks_and_doubles_nothing(
    rows: dict[str, Row], operation: str
) -> None:
    assert rows[operation].faults == []
