"""The parts that the tests are run in: the gate, which every change passes, and what runs when its paths
change.

A test is of the part that its mark names, and of the gate when it has none. The marks `pure` and `gate` put a
test into the gate whatever its file's mark says.
"""

import re
from pathlib import Path

import pytest

GATE = "gate"
APART = ("host", "postgres", "kubernetes", "clients", "docs")
PARTS = (GATE, *APART)

LONGEST_S = 3.0
"""A test of the gate that takes longer is named at the end of the run."""

_FILE_MARK = re.compile(r"^pytestmark = .*?\n(?=\S|\n)", re.MULTILINE | re.DOTALL)
_APART = re.compile(rf"\bmark\.(?:{'|'.join(APART)})\b")
_IN_GATE = re.compile(r"\bmark\.(?:pure|gate)\b")


def part_of(item: pytest.Item) -> str:
    """The part that a test runs in."""
    if item.get_closest_marker("pure") or item.get_closest_marker(GATE):
        return GATE
    return next((part for part in APART if item.get_closest_marker(part)), GATE)


def has_none_of_the_gate(path: Path) -> bool:
    """Whether a file of tests is of another part as a whole, by its text: importing it takes longer."""
    text = path.read_text()
    mark = _FILE_MARK.search(text)
    return mark is not None and _APART.search(mark[0]) is not None and _IN_GATE.search(text) is None
