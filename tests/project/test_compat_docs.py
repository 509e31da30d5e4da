"""Each row of the tables of operations names a test that exists, and says how the operation is served."""

import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ("compat.md", "sprites.md", "e2b.md")
HEADER = ["operation", "state", "test"]
STATE = re.compile(r"works|differs: .+|refused: .+")
NAME = re.compile(r"`(test_\w+)`")


@cache
def names() -> frozenset[str]:
    """Every function of the tests."""
    found: set[str] = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        found.update(
            re.findall(r"^(?:async )?def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
        )
    return frozenset(found)


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def rows(page: str) -> list[list[str]]:
    """The rows of every table of operations on the page."""
    path, found, inside = ROOT / "docs" / page, list[list[str]](), False
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        inside = line.startswith("|") and (inside or cells(line) == HEADER)
        if inside:
            found.append(cells(line))
    return [row for row in found if row != HEADER and set(row[0]) - set("-: ")]


def test_there_is_a_table_for_clients_of_bay() -> None:
    assert len(rows("compat.md")) > 20


@pytest.mark.parametrize("page", PAGES)
def test_each_operation_says_how_it_is_served_and_names_its_test(page: str) -> None:
    for row in rows(page):
        assert len(row) == len(HEADER), row
        operation, state, tests = row
        assert operation
        assert STATE.fullmatch(state), f"{operation}: {state!r} is not works, differs: … or refused: …"
        assert NAME.sub("", tests).strip(" ,") == "", f"{operation}: {tests!r} has more than names of tests"
        named = set(NAME.findall(tests))
        assert named, f"{operation} names no test"
        assert named <= names(), f"{operation} names {named - names()}, which is in no file of tests"


@pytest.mark.parametrize("page", PAGES)
def test_no_operation_has_two_rows(page: str) -> None:
    operations = [row[0] for row in rows(page)]
    assert len(set(operations)) == len(operations)
