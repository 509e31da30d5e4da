"""The Python and the TypeScript SDK have the same classes with the same members, which take the same names.

The table below has each difference with its reason, and no other.
"""

import ast
import inspect
import json
import re
import subprocess
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

import bay

pytestmark = pytest.mark.clients

Json = dict[str, Any]
PROGRAM = Path(__file__).parent / "programs" / "typescript_surface.mjs"
_COUNTED = "a caller counts the bytes of a stream as they pass"
_LOCAL = "a platform without a file system has no local directory; `archive` and `writeArchive` stream one"
_FOLLOWED = "a page that is loaded anew finds its run by its id; a program keeps the one it has"
_OPENED = "a page asks for its list once the stream stands; a program names `since`"
_STREAMS = "the platform's streams are read and written in its place"
DIFFERENCES = {
    "both: Execs.run": "Python's takes what `box.run` made of its options; TypeScript's is `box.run` itself",
    "both: Files.download": f"it takes a part of a file, which Python takes by `open`; {_COUNTED}",
    "both: Files.edit": "`new` is a word of JavaScript",
    "python: Box.exportCheckpoint progress": _COUNTED,
    "python: Box.exportCheckpoint target": "it gives its pieces, which its caller brings to where they go",
    "python: Box.importCheckpoint progress": _COUNTED,
    "python: Browser.runSkill learn": "its options are those of `exec`, but the server refuses this one",
    "python: FileReader": _STREAMS,
    "python: FileWriter": _STREAMS,
    "python: Files.downloadDir": _LOCAL,
    "python: Files.open": _STREAMS,
    "python: Files.upload progress": _COUNTED,
    "python: Files.uploadDir": _LOCAL,
    "python: Images.export progress": _COUNTED,
    "python: Images.importArchive progress": _COUNTED,
    "typescript: Box.events onOpen": _OPENED,
    "typescript: Client.events onOpen": _OPENED,
    "typescript: Client.request": "it gives the answer to a call that the SDK has no method for",
    "typescript: Files.archive": "it streams; Python's `download_dir` does",
    "typescript: Files.stream": "Python reads a file piece by piece by `open`",
    "typescript: OutputChunk": "it decodes its text; Python's is a class of `bay.models` without methods",
    "typescript: Python.follow": _FOLLOWED,
    "typescript: Python.run id": _FOLLOWED,
    "typescript: Python.stream id": _FOLLOWED,
    "typescript: Repl.follow": _FOLLOWED,
    "typescript: Repl.run id": _FOLLOWED,
    "typescript: Repl.stream id": _FOLLOWED,
    "typescript: Sandboxes.delete": "it deletes by an id alone, without a request for the rest",
    "typescript: Tunnel.readable": "it is the tunnel as a stream of the platform",
    "typescript: Tunnel.writable": "it is the tunnel as a stream of the platform",
}
"""Each difference, with its reason: a class, `Class.member`, or `Class.method argument`."""


def camel(name: str) -> str:
    """A name of Python as TypeScript has it."""
    return "close" if name == "aclose" else re.sub(r"_([a-z0-9])", lambda found: found[1].upper(), name)


def own_names(kind: type[Any]) -> Iterator[str]:
    """The attributes that its constructors set."""
    if is_dataclass(kind):
        yield from (field.name for field in fields(kind))
        return
    for base in kind.__mro__[:-1]:
        if "__init__" not in vars(base) or not base.__module__.startswith("bay"):
            continue
        for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(vars(base)["__init__"])))):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                yield node.attr


def taken(function: Callable[..., Any]) -> set[str]:
    """The names that a method takes, those of its options included."""
    names: set[str] = set()
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            for shape in get_args(get_type_hints(function)[name]):
                names |= set(shape.__annotations__)
        elif name != "self":
            names.add(name)
    return {camel(name) for name in names}


def python_class(kind: type[Any]) -> dict[str, set[str] | None]:
    """Its public members, without what it has from a class of Python; a method with what it takes."""
    found: dict[str, Any] = dict.fromkeys(own_names(kind))
    for base in reversed(kind.__mro__):
        if base.__module__.startswith("bay"):
            found |= vars(base)
    return {
        camel(name): taken(value) if inspect.isfunction(value) else None
        for name, value in found.items()
        if not name.startswith("_")
    }


def python_surface() -> dict[str, dict[str, set[str] | None]]:
    """The classes of the async client, and those that both clients have."""
    names = [name for name in bay.__all__ if inspect.isclass(getattr(bay, name))]
    in_client = [name for name in names if f"Async{name}" in names]
    shared = ["CellResult", "RunResult"]
    return {
        **{name: python_class(getattr(bay, f"Async{name}")) for name in in_client},
        **{name: python_class(getattr(bay, name)) for name in shared},
    }


@pytest.fixture(scope="module")
def typescript() -> Json:
    done = subprocess.run(["node", PROGRAM], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def only(side: str, ours: set[str], others: set[str], where: str = "") -> set[str]:
    return {f"{side}: {where}{name}" for name in ours - others}


def differences(python: dict[str, dict[str, set[str] | None]], classes: Json) -> set[str]:
    """The classes, members and arguments that one of the two has alone. Where each takes a name that the
    other lacks, they are different methods.
    """
    found = only("python", set(python), set(classes)) | only("typescript", set(classes), set(python))
    for kind in set(python) & set(classes):
        ours, others = python[kind], classes[kind]
        found |= only("python", set(ours), set(others), f"{kind}.")
        found |= only("typescript", set(others) - {"toString"}, set(ours), f"{kind}.")
        for name in set(ours) & set(others):
            mine = ours[name] or set[str]()
            takes = set(others[name]["takes"]) - ({"signal"} - mine) if others[name] else set[str]()
            if mine - takes and takes - mine:
                found.add(f"both: {kind}.{name}")
            else:
                found |= only("python", mine, takes, f"{kind}.{name} ")
                found |= only("typescript", takes, mine, f"{kind}.{name} ")
    return found


def test_both_sdks_have_the_same_classes_members_and_arguments(typescript: Json) -> None:
    errors = {name for name in typescript["classes"] if issubclass(getattr(bay, name, int), bay.BayError)}
    classes = {name: one for name, one in typescript["classes"].items() if name not in errors}
    assert differences(python_surface(), classes) == set(DIFFERENCES)


def test_every_call_of_the_typescript_sdk_that_waits_takes_a_signal(typescript: Json) -> None:
    waiting = {
        f"{kind}.{name}": method["signal"]
        for kind, members in typescript["classes"].items()
        for name, method in members.items()
        if method and method["waits"]
    }
    assert len(waiting) > 100
    assert [name for name, takes_a_signal in waiting.items() if not takes_a_signal] == []


def test_both_sdks_verify_webhooks_with_the_same_arguments(typescript: Json) -> None:
    takes = set(typescript["functions"]["verifyWebhook"]["takes"])
    assert takes == taken(bay.verify_webhook)
