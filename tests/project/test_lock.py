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
LOCKS = sorted(
    [*ROOT.glob("requirements/*.txt"), ROOT / "scripts/setup-uv.txt", ROOT / "scripts/kubernetes/helm.txt"]
)
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


def wanted(*extras: str) -> list[Requirement]:
    table = project()["project"]
    of_extras = [text for extra in extras for text in table["optional-dependencies"][extra]]
    own = table["name"]
    return [one for text in [*table["dependencies"], *of_extras] if (one := Requirement(text)).name != own]


def entries(text: str) -> Iterator[str]:
    """Each requirement with the lines that continue it."""
    yield from re.sub(r"\\\n\s*", " ", re.sub(r"(?m)^\s*#.*\n", "", text)).splitlines()


def test_there_are_lock_files() -> None:
    ours, clients = (
        {"server.txt", "kubernetes.txt", "dev.txt", "oldest.txt", "setup-uv.txt", "helm.txt"},
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


@pytest.mark.parametrize(
    ("lock", "extras", "groups"),
    [
        ("server.txt", ["server"], ["build"]),
        ("dev.txt", ["server"], ["dev"]),
        ("kubernetes.txt", ["server", "kubernetes", "postgres", "s3"], []),
    ],
)
def test_the_lock_is_what_pyproject_asks_for(lock: str, extras: list[str], groups: list[str]) -> None:
    found = pins(ROOT / "requirements" / lock)
    of_groups = [Requirement(text) for name in groups for text in group(name)]
    wrong = [
        f"{requirement} is locked as {found.get(canonicalize_name(requirement.name))}; run: make lock"
        for requirement in [*wanted(*extras), *of_groups]
        if not requirement.specifier.contains(
            found.get(canonicalize_name(requirement.name), "0"), prereleases=True
        )
    ]
    assert wrong == []


@pytest.mark.parametrize("lock", ["server.txt", "kubernetes.txt"])
def test_the_locks_agree_on_every_version(lock: str) -> None:
    found, dev = (pins(ROOT / "requirements" / name) for name in (lock, "dev.txt"))
    assert {name: version for name, version in found.items() if dev.get(name) != version} == {}
