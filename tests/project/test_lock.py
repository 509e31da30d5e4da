"""The lock files: hashes on everything, no address of anybody's index, and nothing of pyproject.toml
forgotten.
"""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

pytestmark = pytest.mark.pure

ROOT = Path(__file__).parents[2]
LOCKS = sorted([*ROOT.glob("requirements/*.txt"), ROOT / "scripts/setup-uv.txt"])
PIN = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)(\[[^]]*\])?==(?P<version>[^\s;]+)", re.MULTILINE)


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def pins(path: Path) -> dict[str, str]:
    return {
        canonicalize_name(m["name"]): m["version"] for m in PIN.finditer(path.read_text(encoding="utf-8"))
    }


def group(name: str) -> Iterator[str]:
    for entry in project()["dependency-groups"][name]:
        if isinstance(entry, str):
            yield entry
        else:
            yield from group(entry["include-group"])


def wanted(dependency_group: str) -> list[Requirement]:
    table = project()["project"]
    server = table["optional-dependencies"]["server"]
    return [Requirement(text) for text in [*table["dependencies"], *server, *group(dependency_group)]]


def entries(text: str) -> Iterator[str]:
    """Each requirement with the lines that continue it."""
    yield from re.sub(r"\\\n\s*", " ", re.sub(r"(?m)^\s*#.*\n", "", text)).splitlines()


def test_there_are_lock_files() -> None:
    ours, clients = (
        {"server.txt", "dev.txt", "oldest.txt", "setup-uv.txt"},
        {"compat.txt", "docs.txt", "frameworks.txt", "swe-rex.txt"},
    )
    assert {path.name for path in LOCKS} == ours | clients


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.name)
def test_every_requirement_is_pinned_with_hashes(path: Path) -> None:
    # Exactly one pin in each: an entry that lost its hashes would otherwise hide in the next one.
    loose = [
        line
        for line in entries(path.read_text(encoding="utf-8"))
        if len(re.findall(r"[\w\]]==\w", line)) != 1 or "--hash=sha256:" not in line
    ]
    assert loose == []


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.name)
def test_no_lock_file_names_an_index(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "://" not in text
    assert re.findall(r"(?m)^\s*(?:-i|-f|--[a-z-]*index[a-z-]*|--find-links|--trusted-host)\b.*", text) == []


@pytest.mark.parametrize(("lock", "dependency_group"), [("server.txt", "build"), ("dev.txt", "dev")])
def test_the_lock_is_what_pyproject_asks_for(lock: str, dependency_group: str) -> None:
    found = pins(ROOT / "requirements" / lock)
    wrong = [
        f"{requirement} is locked as {found.get(canonicalize_name(requirement.name))}; run: make lock"
        for requirement in wanted(dependency_group)
        if not requirement.specifier.contains(
            found.get(canonicalize_name(requirement.name), "0"), prereleases=True
        )
    ]
    assert wrong == []


def test_both_locks_agree_on_every_version() -> None:
    server, dev = (pins(ROOT / "requirements" / name) for name in ("server.txt", "dev.txt"))
    assert {name: version for name, version in server.items() if dev.get(name) != version} == {}
