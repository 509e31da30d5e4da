"""Names and prose of the source: a class is named once, and a sentence begins with its actor."""

import ast
import io
import re
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.pure

SRC = Path(__file__).parents[2] / "src"
FILES = sorted(path for path in SRC.rglob("*.py") if "_sync" not in path.parts)

# Class names that two modules of `src/bay` may share, with the reason.
SHARED: dict[str, str] = {}

HIDDEN = re.compile(r"(?:^|[.!?] )(?:What|Whoever|Nobody)\b")


def classes(path: Path) -> Iterator[str]:
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            yield node.name.lstrip("_")


def test_a_class_of_bay_is_named_once() -> None:
    found: defaultdict[str, list[str]] = defaultdict(list)
    for path in FILES:
        if path.is_relative_to(SRC / "bay"):
            for name in classes(path):
                found[name].append(str(path.relative_to(SRC)))
    twice = {name: paths for name, paths in found.items() if len(paths) > 1}
    assert {name: paths for name, paths in twice.items() if name not in SHARED} == {}
    assert set(SHARED) <= set(twice), "SHARED names a class that stands once"


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """Each docstring and each block of comments, with its line."""
    text = path.read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(text)):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            yield node.lineno, " ".join(node.value.value.split())
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string.lstrip("# ")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SRC)))
def test_no_sentence_hides_its_actor(path: Path) -> None:
    """A reader looks for the subject first: "What X does" and "Nobody may" begin without one."""
    assert [f"{path.name}:{line}: {text[:90]}" for line, text in prose(path) if HIDDEN.search(text)] == []
