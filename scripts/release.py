"""Prepares a release, and builds and checks what is published.

    python scripts/release.py version 0.2.0   write the version everywhere, gather changelog.d
    python scripts/release.py build dist      build sdist, wheel and npm package into an empty directory
    python scripts/release.py check dist      install each in an environment of its own, and use it

The version is that of `src/bay/__init__.py`; the other places have copies, which a test compares. The check
asks the machine's package index for the libraries, by the lock files.
"""

import hashlib
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = Path("src/bay/__init__.py")
PYTHON_COPIES = (Path("src/ship/__init__.py"),)
CHART = Path("deploy/helm/Chart.yaml")
NPM = Path("clients/typescript")
NPM_COPIES = (NPM / "package.json", NPM / "package-lock.json")
NPM_SOURCE = NPM / "src" / "version.ts"
KINDS = ("security", "removed", "changed", "added", "fixed")
_VERSION = re.compile(r'(?m)^__version__ = "([^"]+)"$')
_CHART_VERSION = re.compile(r"(?m)^(version|appVersion): .*$")
_NPM_VERSION = re.compile(r'VERSION = "[^"]+"')
_SEMANTIC = re.compile(r"\d+\.\d+\.\d+(-[0-9A-Za-z.]+)?")
_UNRELEASED = "## Unreleased\n"


class ReleaseProblem(Exception):
    """A release cannot go on."""


def version(root: Path = ROOT) -> str:
    """The version, from its one place."""
    found = _VERSION.search((root / SOURCE).read_text(encoding="utf-8"))
    if found is None:
        raise ReleaseProblem(f"{SOURCE} has no __version__; write one")
    return found[1]


def set_version(new: str, root: Path = ROOT) -> None:
    """Write the version to its place and to all that have a copy."""
    if not _SEMANTIC.fullmatch(new):
        raise ReleaseProblem(f"{new} is no semantic version; give one such as 0.2.0")
    for path in (SOURCE, *PYTHON_COPIES):
        text = (root / path).read_text(encoding="utf-8")
        (root / path).write_text(_VERSION.sub(f'__version__ = "{new}"', text), encoding="utf-8")
    text = (root / CHART).read_text(encoding="utf-8")
    (root / CHART).write_text(_CHART_VERSION.sub(rf"\1: {new}", text), encoding="utf-8")
    for path in NPM_COPIES:
        _set_npm_version(root / path, new)
    text = (root / NPM_SOURCE).read_text(encoding="utf-8")
    (root / NPM_SOURCE).write_text(_NPM_VERSION.sub(f'VERSION = "{new}"', text), encoding="utf-8")


def _set_npm_version(path: Path, new: str) -> None:
    found = json.loads(path.read_text(encoding="utf-8"))
    found["version"] = new
    if "" in found.get("packages", {}):  # a lock file names its own package twice
        found["packages"][""]["version"] = new
    path.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def gather(new: str, day: str, root: Path = ROOT) -> None:
    """Put the fragments below a heading of that version into CHANGELOG.md, and delete them."""
    fragments = sorted(path for path in (root / "changelog.d").glob("*.*.md"))
    unknown = [path.name for path in fragments if path.suffixes[-2][1:] not in KINDS]
    if unknown:
        raise ReleaseProblem(f"{unknown[0]} has no kind; name it WORDS.KIND.md, of {', '.join(KINDS)}")
    changelog = root / "CHANGELOG.md"
    text = changelog.read_text(encoding="utf-8")
    if text.count(_UNRELEASED) != 1:
        raise ReleaseProblem(f"CHANGELOG.md has no single heading {_UNRELEASED.strip()!r}; write it")
    sections = [section for kind in KINDS if (section := _section(kind, fragments))]
    before, after = text.split(_UNRELEASED)
    unreleased = after.partition("\n## ")[0].strip()
    rest = after[len(after.partition("\n## ")[0]) :]
    body = "\n\n".join(part for part in (unreleased, *sections) if part)
    head = f"{_UNRELEASED}\n## {new}, {day}\n\n"
    changelog.write_text(f"{before}{head}{body}\n{rest}", encoding="utf-8")
    for path in fragments:
        path.unlink()


def _section(kind: str, fragments: Sequence[Path]) -> str:
    texts = [
        path.read_text(encoding="utf-8").strip() for path in fragments if path.suffixes[-2] == f".{kind}"
    ]
    items = ["- " + text.replace("\n", "\n  ") for text in texts]
    return "\n".join((f"### {kind.capitalize()}", "", *items)) if items else ""


def build(out: Path, root: Path = ROOT) -> list[Path]:
    """Build the packages of Python and of npm into `out`."""
    out.mkdir(parents=True, exist_ok=True)
    if any(out.iterdir()):
        raise ReleaseProblem(f"{out} is not empty; remove what an earlier build left there")
    _run([sys.executable, "-m", "hatchling", "build", "-d", str(out.resolve())], root)
    _run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"], root / NPM)
    _run(["npm", "pack", "--silent", "--pack-destination", str(out.resolve())], root / NPM)
    return sorted(out.iterdir())


def _run(command: Sequence[str], where: Path) -> str:
    done = subprocess.run(command, cwd=where, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ReleaseProblem(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def only(out: Path, pattern: str) -> Path:
    """The one file of that pattern."""
    found = sorted(out.glob(pattern))
    if len(found) != 1:
        raise ReleaseProblem(f"{out} has {len(found)} files {pattern}, not one; build again")
    return found[0]


def check(out: Path, root: Path = ROOT) -> None:
    """Install what was built, each in a clean environment outside the checkout, and use it."""
    wheel, sdist = only(out, "*.whl"), only(out, "*.tar.gz")
    with tempfile.TemporaryDirectory(prefix="bay-release-") as name:
        place = Path(name)
        if contents(wheel_of(sdist, place)) != contents(wheel):
            raise ReleaseProblem(
                "the wheel of the sdist differs from the wheel; see what only-include leaves out"
            )
        _check_wheel(wheel, place / "sdk", root / "requirements/oldest.txt", root)
        _check_wheel(wheel, place / "server", root / "requirements/server.txt", root)
        for package in out.glob("*.tgz"):
            _check_npm(package, place / "npm")
    for path in sorted(out.iterdir()):
        print(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}  {path.stat().st_size:,} bytes")


def wheel_of(sdist: Path, place: Path) -> Path:
    """The wheel that is built of an sdist, which is unpacked in `place`."""
    with tarfile.open(sdist) as tar:
        tar.extractall(place / "sdist", filter="data")
    (unpacked,) = (place / "sdist").iterdir()
    _run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(place / "again")], unpacked)
    return only(place / "again", "*.whl")


def contents(wheel: Path) -> dict[str, int]:
    """The files of a wheel with their checksums."""
    with zipfile.ZipFile(wheel) as found:
        return {one.filename: one.CRC for one in found.infolist()}


def _check_wheel(wheel: Path, venv: Path, lock: Path, root: Path) -> None:
    uv = shutil.which("uv") or str(root / ".venv/bin/uv")
    _run([sys.executable, "-m", "venv", "--without-pip", str(venv)], root)
    install = [uv, "pip", "install", "--quiet", "--python", str(venv / "bin/python")]
    _run([*install, "--require-hashes", "-r", str(lock)], root)
    _run([*install, "--no-deps", str(wheel)], root)
    said = _run([str(venv / "bin/bay"), "version"], venv)
    if said != f"bay {version(root)}\n":
        raise ReleaseProblem(f"the wheel says {said!r}; build it again")
    if (venv / "bin/uvicorn").exists():
        _run([str(venv / "bin/python"), "-c", "import bay.server.main"], venv)


def _check_npm(package: Path, place: Path) -> None:
    place.mkdir()
    (place / "package.json").write_text('{"type": "module", "private": true}')
    _run(
        ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--silent", str(package.resolve())],
        place,
    )
    _run(
        ["node", "-e", "import('bay-sandbox').then((m) => process.exit(Object.keys(m).length ? 0 : 1))"],
        place,
    )


def main(arguments: Sequence[str]) -> int:
    """Do what the words say."""
    try:
        match arguments:
            case ["version", new]:
                set_version(new)
                gather(new, f"{datetime.now(UTC):%Y-%m-%d}")
            case ["build", out]:
                build(Path(out))
            case ["check", out]:
                check(Path(out))
            case _:
                print(__doc__)
                return 2
    except ReleaseProblem as problem:
        print(f"release: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
