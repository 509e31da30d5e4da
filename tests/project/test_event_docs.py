"""docs/events.md is held to the source: what is written as an event is documented, and can be asked for."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from bay.models import EVENT_TYPES
from bay.server.reconciler.reconciler import _LOST

pytestmark = pytest.mark.pure

ROOT = Path(__file__).parents[2]


def written() -> Iterator[tuple[str, ast.expr]]:
    """The type that each call of `events.add`, or of one that hands its own on, is given, and where."""
    for path in (ROOT / "src" / "bay" / "server").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            function = node.func if isinstance(node, ast.Call) else None
            if isinstance(node, ast.Call) and isinstance(function, ast.Attribute):
                position = {"events.add": 2, "events.add_of_image": 2, "self._add_event": 1}.get(
                    ast.unparse(function)
                )
                if position is not None:
                    yield f"{path.name}:{node.lineno}", node.args[position]


def types_in_the_source() -> set[str]:
    found: set[str] = set()
    for where, kind in written():
        if isinstance(kind, ast.Constant) and isinstance(kind.value, str):
            found.add(kind.value)
        elif not (where.startswith("events.py") and ast.unparse(kind) == "event"):  # `_add_event` hands it on
            assert ast.unparse(kind) == "f'sandbox.{reason}'", f"{where}: which types are these?"
            found |= {f"sandbox.{reason}" for reason in _LOST}
    return found


def test_every_type_in_the_source_can_be_asked_for_and_every_other_cannot() -> None:
    assert types_in_the_source() == set(EVENT_TYPES)


def test_every_type_is_documented() -> None:
    text = (ROOT / "docs" / "events.md").read_text(encoding="utf-8")
    assert re.findall(r"(?m)^\| `(\w+\.\w+)` \|", text) == list(EVENT_TYPES)
