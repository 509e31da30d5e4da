"""The npm package of the TypeScript SDK: its contents, and where it must be as Bay and the Python SDK are."""

import json
import re
import subprocess
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from scripts import generate_typescript

import bay
from bay.errors import BY_CODE
from bay.models import CellEvent, FileEvent

pytestmark = pytest.mark.clients

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "clients" / "typescript"
DIST = PACKAGE / "dist"


def text(name: str) -> str:
    return (PACKAGE / name).read_text(encoding="utf-8")


def output(*command: str) -> str:
    done = subprocess.run(command, cwd=PACKAGE, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_its_types_are_those_of_the_api_as_it_is() -> None:
    assert generate_typescript.main(["--check"]) == 0


def test_it_packs_what_was_built_and_nothing_else() -> None:
    packed = json.loads(
        output("npm", "pack", "--dry-run", "--json", "--ignore-scripts", "--no-update-notifier")
    )
    names = {one["path"] for one in packed[0]["files"]}
    built = {f"dist/{path.stem}.{end}" for path in PACKAGE.glob("src/*.ts") for end in ("js", "d.ts")}
    assert names == {"LICENSE", "README.md", "package.json", *built}
    assert text("LICENSE") == (ROOT / "LICENSE").read_text(encoding="utf-8")


def test_its_versions_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    package, lock = json.loads(text("package.json")), json.loads(text("package-lock.json"))
    assert package["name"] == project["name"]
    assert {package["version"], lock["version"], lock["packages"][""]["version"]} == {bay.__version__}
    assert f'VERSION = "{bay.__version__}"' in text("src/version.ts")


def test_it_needs_no_package_and_nothing_of_node() -> None:
    package = json.loads(text("package.json"))
    assert "dependencies" not in package
    assert package["peerDependenciesMeta"] == {"ws": {"optional": True}}
    imports = {name for path in DIST.glob("*.js") for name in re.findall(r'from "([^"]+)"', path.read_text())}
    assert {name for name in imports if not name.startswith("./")} == set()


def test_its_lock_file_has_hashes_and_no_addresses() -> None:
    packages: dict[str, Any] = json.loads(text("package-lock.json"))["packages"]
    locked = {name: one for name, one in packages.items() if name}
    assert [name for name, one in locked.items() if not one.get("integrity", "").startswith("sha512-")] == []
    assert [name for name, one in locked.items() if "resolved" in one] == []


def test_its_errors_are_those_of_the_python_sdk() -> None:
    program = (
        'import { ERRORS, ConnectionFailed, CommandFailed, CellFailed } from "./dist/index.js";'
        "const above = (kind) => kind === Error ? [] : [kind.name, ...above(Object.getPrototypeOf(kind))];"
        "const all = [...ERRORS, ConnectionFailed, CommandFailed, CellFailed];"
        "console.log(JSON.stringify(all.map((one) => [one.code, one.status, one.retryable, above(one)])));"
    )
    found = json.loads(output("node", "--input-type=module", "--eval", program))
    kinds = {**BY_CODE, "command_failed": bay.CommandFailed, "cell_failed": bay.CellFailed}
    wanted = {
        code: [
            kind.status,
            kind.retryable,
            [one.__name__ for one in kind.__mro__ if issubclass(one, bay.BayError)],
        ]
        for code, kind in kinds.items()
        if kind is not bay.BayError
    }
    assert {code: facts for code, *facts in found} == wanted


def test_what_streams_has_the_fields_of_the_python_sdk() -> None:
    types = text("src/types.ts")
    for kind, beyond in ((CellEvent, set[str]()), (FileEvent, {"content", "size"})):
        body = re.search(rf"export interface {kind.__name__} {{(.*?)\n}}", types, re.DOTALL)
        assert body is not None
        names = set(re.findall(r"readonly (\w+)\??:", body[1]))
        assert names == {field.name for field in fields(kind)} - beyond
