"""A route parses, calls one method of one service, and replies: read from the source of every module of
routes.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

SERVER = Path(__file__).parents[2] / "src" / "bay" / "server"

# Routes with more than one call, and why. A helper of the module counts as part of the routes that use it.
MORE = {
    "list_events": "a page or a stream, of which each request takes one",
    "list_sandbox_events": "a page or a stream, of which each request takes one",
    "open_exec": "starts a command or attaches to one, of which each request does one",
    "list_sprites": "a page or a stream, of which each request takes one",
    "upload_file": "finds the sandbox before it reads the body, whose parts come in either order",
}
# Routes without a service, and why.
NONE = {
    "health": "says that Bay answers",
    "list_profiles": "shows settings",
    "home": "serves a file",
    "console": "leads to the console",
    "console_file": "serves a file",
    "docs": "leads to the documentation",
    "redoc": "leads to the API's document",
    "api": "serves a file",
    "api_read": "serves a file",
    "api_file": "serves a file",
    "docs_file": "serves a file",
    "sign_out": "has a browser forget its cookie",
    "oauth_metadata": "says that a key is all there is",
    "envd_health": "says what the entrance found",
    "interpreter_health": "says what the entrance found",
}
# What a route may have handed in beside its service.
HELPERS = {"Cursors"}

Function = ast.FunctionDef | ast.AsyncFunctionDef
MODULES = sorted(SERVER.rglob("*routes.py"))


def functions(path: Path) -> dict[str, Function]:
    body = ast.parse(path.read_text(encoding="utf-8"), str(path)).body
    return {node.name: node for node in body if isinstance(node, Function)}


def is_route(function: Function) -> bool:
    return any(re.match(r"(\w+_)?router\.", ast.unparse(d)) for d in function.decorator_list)


def kinds(path: Path) -> dict[str, str]:
    """The classes of services by the names that the module gives to its dependencies on them."""
    found: dict[str, str] = {}
    for node in ast.parse(path.read_text(encoding="utf-8"), str(path)).body:
        if isinstance(node, ast.Assign) and "service(" in (text := ast.unparse(node.value)):
            found[ast.unparse(node.targets[0])] = text.removeprefix("Annotated[").split(",")[0]
    return found


def handed(function: Function, known: dict[str, str]) -> dict[str, str]:
    """The parameters of a route that are services, with their classes."""
    found: dict[str, str] = {}
    for arg in [*function.args.args, *function.args.kwonlyargs]:
        text = ast.unparse(arg.annotation) if arg.annotation else ""
        if text in known:
            found[arg.arg] = known[text]
        elif "service(" in text:
            found[arg.arg] = text.removeprefix("Annotated[").split(",")[0]
    return {name: kind for name, kind in found.items() if kind not in HELPERS}


def calls(function: Function, service: str, helpers: dict[str, Function]) -> Iterator[str]:
    """The methods of `service` that a function calls, also by the helpers to which it hands it."""
    for node in ast.walk(function):
        if not isinstance(node, ast.Call):
            continue
        if (
            isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, ast.Name)
            and node.func.value.id == service
        ):
            yield node.func.attr
        for place, arg in enumerate(node.args):
            if isinstance(arg, ast.Name) and arg.id == service and isinstance(node.func, ast.Name):
                helper = helpers[node.func.id]
                yield from calls(helper, helper.args.args[place].arg, helpers)


def test_there_are_routes_to_look_at() -> None:
    assert sum(is_route(f) for path in MODULES for f in functions(path).values()) > 80


@pytest.mark.parametrize("path", MODULES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_route_calls_one_method_of_one_service(path: Path) -> None:
    known, every = kinds(path), functions(path)
    wrong: dict[str, list[str]] = {}
    for name, function in every.items():
        if not is_route(function):
            continue
        services = handed(function, known)
        made = [f"{services[one]}.{call}" for one in services for call in calls(function, one, every)]
        is_fine = not made if name in NONE else len(services) == 1 and (len(made) == 1 or name in MORE)
        if not is_fine:
            wrong[name] = made
    assert wrong == {}


def test_every_exception_is_needed() -> None:
    counts: dict[str, int] = {}
    for path in MODULES:
        known, every = kinds(path), functions(path)
        for name, function in every.items():
            if is_route(function):
                counts[name] = sum(1 for one in handed(function, known) for _ in calls(function, one, every))
    assert {name for name, count in counts.items() if count > 1} == set(MORE)
    assert {name for name, count in counts.items() if count == 0} == set(NONE)
