"""Every test asserts something: by itself, in a function of the tests that it calls, or in a fixture that it
takes. Every file of tests has a name of its own.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.pure

TESTS = Path(__file__).parents[1]
CHECKS = {"raises", "fail", "warns"}
Function = ast.FunctionDef | ast.AsyncFunctionDef


class Module:
    """The functions of a file, by name, and the names of the modules that it imports."""

    def __init__(self, path: Path) -> None:
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        self.path = path
        self.functions: dict[str, list[Function]] = {}
        for node in nodes:
            if isinstance(node, Function):
                self.functions.setdefault(node.name, []).append(node)
        self.imports = {name for node in nodes for name in imported(node)}


def imported(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.ImportFrom):
        yield (node.module or "").rpartition(".")[2]
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield from (alias.name.rpartition(".")[2] for alias in node.names)


def name_of(call: ast.Call) -> str:
    return getattr(call.func, "id", "") or getattr(call.func, "attr", "")


def checks(node: ast.AST) -> bool:
    """Whether the node itself is an assertion: also a helper's `raise AssertionError`, or of
    another error.
    """
    if isinstance(node, ast.Raise):
        return node.exc is not None
    return isinstance(node, ast.Assert) or (isinstance(node, ast.Call) and name_of(node) in CHECKS)


def uses(function: Function) -> set[str]:
    """The names of what it calls, and of the fixtures that it takes."""
    called = {name_of(node) for node in ast.walk(function) if isinstance(node, ast.Call)}
    return called | {argument.arg for argument in function.args.args}


class Suite:
    """All tests and what they call."""

    def __init__(self) -> None:
        self.modules = [Module(path) for path in sorted(TESTS.rglob("*.py"))]
        self._known: dict[tuple[Path, str], bool] = {}

    def in_reach(self, module: Module) -> Iterator[Module]:
        """The module, what it imports of the tests, and the conftest files above it."""
        for other in self.modules:
            above = other.path.name == "conftest.py" and other.path.parent in module.path.parents
            if other is module or above or other.path.stem in module.imports:
                yield other

    def asserts(self, module: Module, name: str) -> bool:
        """Whether a function of that name does, or one that it uses."""
        key = (module.path, name)
        if key not in self._known:
            self._known[key] = False  # while it is looked at: a function that calls itself proves nothing
            self._known[key] = any(
                any(map(checks, ast.walk(function)))
                or any(
                    self.asserts(other, used)
                    for other in self.in_reach(module)
                    for used in uses(function)
                    if used in other.functions
                )
                for function in module.functions.get(name, ())
            )
        return self._known[key]


def test_every_test_asserts_something() -> None:
    suite = Suite()
    silent = [
        f"{module.path.relative_to(TESTS)}::{name}"
        for module in suite.modules
        if module.path.name.startswith("test_")
        for name in module.functions
        if name.startswith("test_") and not suite.asserts(module, name)
    ]
    assert silent == []


def test_no_two_files_of_tests_have_the_same_name() -> None:
    # Such a pair fails only in a worker that collects both: pytest imports a file by its name alone.
    places: dict[str, list[str]] = {}
    for path in TESTS.rglob("test_*.py"):
        if "node_modules" not in path.parts:
            places.setdefault(path.name, []).append(str(path.relative_to(TESTS)))
    assert [pair for pair in places.values() if len(pair) > 1] == []
