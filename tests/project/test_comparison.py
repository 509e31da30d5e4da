"""docs/comparison.md says how each of its rows is known: by a page of the tool's own, by a benchmark of ours,
or not at all.
"""

import re
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest
import typer

from bay.cli.app import app as cli
from bay.client import Box, Client

pytestmark = pytest.mark.pure

ROOT = Path(__file__).parents[2]
TEXT, _, SOURCES = (ROOT / "docs/comparison.md").read_text(encoding="utf-8").partition("\n## Sources\n")
SPECIFICATION = (ROOT / "SPECIFICATION.md").read_text(encoding="utf-8")

NUMBER = r"\[(\d+)\]\(#sources\)"
KNOWN = re.compile(rf"{NUMBER}(, {NUMBER})*|`\w+`(, `\w+`)*|not checked")
SOURCE = re.compile(r"(?m)^\| (\d+) \| \[([^\]]+)\]\((https://[^)\s]+)\) \| ([\d-]{10}) \| ([^|]+) \|$")


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split(" | ")]


def tables() -> Iterator[list[list[str]]]:
    """Each table before the sources: its head, and its rows."""
    for block in re.findall(r"(?m)(?:^\|.*\|$\n?)+", TEXT):
        lines = block.splitlines()
        yield [cells(line) for line in (lines[0], *lines[2:])]


def rows() -> list[list[str]]:
    return [row for table in tables() for row in table[1:]]


def tools() -> set[str]:
    """The names of the tools, as the titles of the sources begin with them."""
    return {re.split(r"[ ,]", title)[0] for _, title, *_ in SOURCE.findall(SOURCES)} - {"package"}


def sentences() -> list[str]:
    prose = "\n".join(line for line in TEXT.splitlines() if not line.startswith(("|", "#")))
    return re.split(r"(?<=[.:])\s+(?=[A-Z`])|\n\n", prose)


def test_every_table_says_in_its_last_column_how_a_row_is_known() -> None:
    assert [table[0] for table in tables() if table[0][-1] != "source"] == []
    assert len(rows()) > 40


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0][:40])
def test_a_row_has_numbers_or_benchmarks_or_is_declared_not_checked(row: list[str]) -> None:
    assert KNOWN.fullmatch(row[-1]) or (row[0], row[-1]) == ("Bay", "ours")


def test_the_sources_are_numbered_and_each_is_a_page_with_the_day_it_was_read() -> None:
    found = SOURCE.findall(SOURCES)
    lines = [line for line in SOURCES.splitlines() if line.startswith("|")]
    assert len(found) == len(lines) - 2  # all rows but the head and its rule
    assert [int(number) for number, *_ in found] == list(range(1, len(found) + 1))
    assert len({address for _, _, address, *_ in found}) == len(found)
    assert all(date.fromisoformat(day) >= date(2026, 11, 30) for *_, day, _ in found)


def test_every_number_leads_to_a_source_and_every_source_is_used() -> None:
    listed = {number for number, *_ in SOURCE.findall(SOURCES)}
    assert set(re.findall(NUMBER, TEXT)) == listed


def test_every_benchmark_that_stands_for_a_source_is_one() -> None:
    named = {name for row in rows() for name in re.findall(r"`(\w+)`", row[-1])}
    assert named
    assert [name for name in named if f"| `{name}` |" not in SPECIFICATION] == []


def test_a_sentence_that_names_a_tool_has_a_link_to_where_that_is_known() -> None:
    naming = [one for one in sentences() if any(re.search(rf"\b{tool}\b", one) for tool in tools())]
    assert naming
    assert [one for one in naming if "](" not in one] == []


def test_every_method_of_the_sdk_that_the_page_names_exists() -> None:
    used = re.findall(r"`(box|client)\.([a-z]\w*)", TEXT)
    assert {("box", "url"), ("client", "sandboxes")} <= set(used)
    # Attributes that an instance is given when it is made are names in the code of `__init__`.
    given = {"box": Box.__init__.__code__.co_names, "client": Client.__init__.__code__.co_names}
    made = {"box": {*dir(Box), *given["box"]}, "client": {*dir(Client), *given["client"]}}
    assert [f"{of}.{name}" for of, name in used if name not in made[of]] == []


def test_every_command_that_the_page_names_exists() -> None:
    group = typer.main.get_command(cli)
    existing: set[str] = set(group.list_commands(typer.Context(group)))  # type: ignore[attr-defined]
    used = set(re.findall(r"`bay (\w+)", TEXT))
    assert {"create", "cp"} <= used
    assert used - existing == set()
