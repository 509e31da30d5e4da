"""The table of docs/network.md is held to the tests: each row names one, and each of those
tests has a row.
"""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILES = ("test_egress.py", "test_egress_by_name.py", "test_network_life.py", "test_network_restart.py")
ROW = re.compile(r"(?m)^\|.*\|$")


def rows() -> list[str]:
    text = (
        (ROOT / "docs/network.md")
        .read_text(encoding="utf-8")
        .partition("## Tested cases")[2]
        .partition("\n## ")[0]
    )
    return [row for row in ROW.findall(text) if not row.startswith("|---") and not row.endswith("| test |")]


def backing() -> set[str]:
    return {
        one.name
        for name in FILES
        for one in ast.parse((ROOT / "tests/network" / name).read_text(encoding="utf-8")).body
        if isinstance(one, ast.FunctionDef) and one.name.startswith("test_")
    }


def test_every_row_names_a_test_that_exists() -> None:
    found = [re.findall(r"`(test_\w+)`", row.split("|")[-2]) for row in rows()]
    assert [row for row, names in zip(rows(), found, strict=True) if len(names) != 1] == []
    assert {names[0] for names in found} <= backing()


def test_every_test_of_the_table_has_a_row() -> None:
    assert backing() - set(re.findall(r"`(test_\w+)`", "\n".join(rows()))) == set()
