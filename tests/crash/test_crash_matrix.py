"""A part of the crash matrix: Bay is killed, and the next one owes nobody anything.

`make crash` runs all of it.
"""

import asyncio
from pathlib import Path

import pytest
from crash_matrix import Row, count_kinds, documented_kinds, run_all
from crash_operations import OPERATIONS

EVERY_NTH = 12
"""Of each operation's places, and all that the driver yields: about 120 kills."""

COUNTS = 3
"""A restart does several things at once, and under load it passes a place fewer in one run of twenty."""

pytestmark = [pytest.mark.host, pytest.mark.timeout(360), pytest.mark.long]


@pytest.fixture(scope="module")
def rows(cache: Path, criu: str | None) -> dict[str, Row]:
    """What came of the kills, by operation; all at once, because two run at a time."""
    possible = [name for name, operation in OPERATIONS.items() if criu or not operation.hibernates]
    done = asyncio.run(run_all(possible, cache, criu, every_nth=EVERY_NTH, told=lambda _: None))
    return {row.operation: row for row in done}


@pytest.fixture
def row(rows: dict[str, Row], operation: str) -> Row:
    """What came of the kills of one operation."""
    if operation not in rows:
        pytest.skip("it hibernates, and there is no CRIU that works here")
    return rows[operation]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_bay_killed_anywhere_in_an_operation_loses_leaks_and_doubles_nothing(row: Row) -> None:
    assert row.faults == []


def test_the_table_in_the_documentation_has_every_operation() -> None:
    assert list(documented_kinds()) == list(OPERATIONS)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_table_in_the_documentation_has_as_many_kinds_of_places_as_the_code(
    row: Row, cache: Path, criu: str | None, operation: str
) -> None:
    """`make crash ARGS=--write` writes the table."""
    documented = documented_kinds()[operation]
    counted = [row.kinds]
    while documented not in counted and len(counted) < COUNTS:
        counted.append(asyncio.run(count_kinds(operation, cache, criu)))
    assert documented in counted
