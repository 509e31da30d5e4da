"""A release: one version, the changelog, and a wheel and an sdist that have all they need and no more."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest
import shared_cache
from scripts import release

import bay
import ship
from bay.server.web.static_site import CONSOLE, DOCS

pytestmark = pytest.mark.docs

ROOT = Path(__file__).parents[2]
KIB = 1 << 10
WHEEL_BYTES, UNPACKED_BYTES, SDK_BYTES = 4096 * KIB, 8192 * KIB, 32768 * KIB
"""The most that the wheel may have, packed and unpacked, and an SDK with the libraries that it needs. Of the
first, 1,100 KiB are the console, which is packed already.
"""


def test_the_version_is_the_same_everywhere() -> None:
    found = {release.version(), bay.__version__, ship.__version__}
    found |= {json.loads((ROOT / path).read_text())["version"] for path in release.NPM_COPIES}
    assert found == {bay.__version__}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A project as small as a release takes it."""
    for path in (release.SOURCE, *release.PYTHON_COPIES):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text('"""A package."""\n\n__version__ = "0.1.0"\n')
    (tmp_path / release.CHART).parent.mkdir(parents=True)
    (tmp_path / release.CHART).write_text("apiVersion: v2\nversion: 0.1.0\nappVersion: 0.1.0\n")
    (tmp_path / release.NPM_SOURCE).parent.mkdir(parents=True)
    (tmp_path / release.NPM_SOURCE).write_text('export const VERSION = "0.1.0";\n')
    (tmp_path / release.NPM_COPIES[0]).write_text('{"name": "bay-sandbox", "version": "0.1.0"}')
    (tmp_path / release.NPM_COPIES[1]).write_text(
        '{"version": "0.1.0", "packages": {"": {"version": "0.1.0"}}}'
    )
    (tmp_path / "CHANGELOG.md").write_text(
        "# Changelog\n\n## Unreleased\n\nWords.\n\n## 0.1.0, 2026-01-01\n\nFirst.\n"
    )
    fragments = tmp_path / "changelog.d"
    fragments.mkdir()
    (fragments / "README.md").write_text("About.\n")
    (fragments / "b.fixed.md").write_text("B is mended,\nand C.\n")
    (fragments / "a.added.md").write_text("A is new.\n")
    return tmp_path


def test_a_version_is_written_to_every_place(tree: Path) -> None:
    release.set_version("0.2.0", tree)
    places = [release.SOURCE, *release.PYTHON_COPIES, *release.NPM_COPIES, release.NPM_SOURCE]
    assert [(tree / path).read_text().count('"0.2.0"') for path in places] == [1, 1, 1, 2, 1]
    assert not any("0.1.0" in (tree / path).read_text() for path in (*places, release.CHART))
    assert (tree / release.CHART).read_text() == "apiVersion: v2\nversion: 0.2.0\nappVersion: 0.2.0\n"
    with pytest.raises(release.ReleaseProblem, match="no semantic version"):
        release.set_version("next", tree)


def test_the_changelog_is_gathered_from_fragments(tree: Path) -> None:
    release.gather("0.2.0", "2026-02-01", tree)
    assert (tree / "CHANGELOG.md").read_text() == (
        "# Changelog\n\n## Unreleased\n\n## 0.2.0, 2026-02-01\n\nWords.\n\n### Added\n\n- A is new.\n\n"
        "### Fixed\n\n- B is mended,\n  and C.\n\n## 0.1.0, 2026-01-01\n\nFirst.\n"
    )
    assert os.listdir(tree / "changelog.d") == ["README.md"]


def test_a_fragment_without_a_kind_stops_a_release_before_it_changes_anything(tree: Path) -> None:
    (tree / "changelog.d/c.nice.md").write_text("C.\n")
    before = (tree / "CHANGELOG.md").read_text()
    with pytest.raises(release.ReleaseProblem, match=r"c\.nice\.md has no kind"):
        release.gather("0.2.0", "2026-02-01", tree)
    assert (tree / "CHANGELOG.md").read_text() == before
    assert len(os.listdir(tree / "changelog.d")) == 4


def test_the_fragments_of_this_tree_can_be_gathered() -> None:
    names = [path for path in (ROOT / "changelog.d").iterdir() if path.name != "README.md"]
    assert [
        path.name for path in names if path.suffixes[-2:-1] not in [[f".{kind}"] for kind in release.KINDS]
    ] == []


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sdist of this tree."""
    out = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-d", out], cwd=ROOT, check=True, timeout=120)
    return out


def test_the_sdist_has_files_of_this_tree_alone(built: Path) -> None:
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    with tarfile.open(release.only(built, "*.tar.gz")) as sdist:
        files = {member.name.partition("/")[2] for member in sdist if member.isfile()}
    # The package has a link to docs/, whose files an archive has twice.
    found = {name.replace("src/bay/docs/", "docs/") for name in files}
    made = tuple(f"{folder.relative_to(ROOT).as_posix()}/" for folder in (DOCS, CONSOLE))
    junk = found - {"PKG-INFO", *names.split("\0")}
    assert [name for name in junk if not name.startswith((*made, "src/bay/docs/"))] == []
    assert {name.partition("/")[0] for name in found if "/" in name} == {
        "deploy", "docs", "examples", "requirements", "src",
    }  # fmt: skip


def test_the_wheel_has_no_pictures(built: Path) -> None:
    with zipfile.ZipFile(release.only(built, "*.whl")) as wheel:
        assert [name for name in wheel.namelist() if name.endswith(".webp")] == []


def test_the_wheel_of_the_sdist_is_the_wheel(built: Path, tmp_path: Path) -> None:
    again = release.wheel_of(release.only(built, "*.tar.gz"), tmp_path)
    assert release.contents(again) == release.contents(release.only(built, "*.whl"))


def test_the_wheel_stays_small(built: Path) -> None:
    wheel = release.only(built, "*.whl")
    with zipfile.ZipFile(wheel) as found:
        assert sum(one.file_size for one in found.infolist()) <= UNPACKED_BYTES
    assert wheel.stat().st_size <= WHEEL_BYTES


@pytest.mark.skipif(not CONSOLE.is_dir(), reason="needs `make console`")
def test_the_wheel_brings_the_console(built: Path) -> None:
    with zipfile.ZipFile(release.only(built, "*.whl")) as found:
        names = set(found.namelist())
    files = {
        f"bay/server/web/console/{path.relative_to(CONSOLE)}" for path in CONSOLE.rglob("*") if path.is_file()
    }
    assert "bay/server/web/console/index.html" in files
    assert files <= names


@pytest.mark.skipif(not DOCS.is_dir(), reason="needs `make docs`")
def test_the_wheel_brings_the_documentation(built: Path) -> None:
    with zipfile.ZipFile(release.only(built, "*.whl")) as found:
        names = set(found.namelist())
    files = (path.relative_to(DOCS) for path in DOCS.rglob("*") if path.is_file())
    site = {f"bay/server/web/site/{path}" for path in files if path.parts[0] != "images"}  # which have texts
    assert "bay/server/web/site/index.html.gz" in site
    assert site <= names


def test_an_sdk_with_its_libraries_stays_small(built: Path) -> None:
    libraries = ROOT / ".venv-oldest/lib"
    if not libraries.is_dir():
        pytest.skip("make .stamp-oldest makes what this needs, as `make test-all` does")
    ours = [path for path in libraries.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    own = sum(path.stat().st_size for path in ours if not {"pip", "setuptools"} & {*path.parts})
    with zipfile.ZipFile(release.only(built, "*.whl")) as found:
        assert own + sum(one.file_size for one in found.infolist()) <= SDK_BYTES


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment outside the checkout with the wheel, and with the libraries of this one."""
    venv = tmp_path_factory.mktemp("installed") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True, timeout=120)
    uv = shutil.which("uv") or str(Path(sys.executable).with_name("uv"))
    install = [uv, "pip", "install", "--quiet", "--offline", "--no-deps", "--python", venv / "bin/python"]
    subprocess.run([*install, release.only(built, "*.whl")], check=True, timeout=120)
    (packages,) = (venv / "lib").glob("python*/site-packages")
    # A line of a .pth is a folder alone: what is installed there to be edited is not found through it.
    (packages / "libraries.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return venv


def test_an_installed_wheel_has_the_files_for_systemd_and_proxies(installed: Path) -> None:
    names = {path.name for path in (installed / "share/bay/deploy").iterdir()}
    assert names == {path.name for path in (ROOT / "deploy").iterdir()}


@pytest.mark.timeout(300)
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_an_installed_wheel_runs_a_sandbox_outside_a_checkout(installed: Path, tmp_path: Path) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("BAY_", "PYTHON"))}
    own = {**clean, "HOME": str(tmp_path), "BAY_CACHE_DIR": str(shared_cache.filled())}
    code = "import bay, ship, layer_unpack; print(bay.__file__, ship.__file__, layer_unpack.__file__)"
    commands = (
        [installed / "bin/python", "-c", code],
        [installed / "bin/bay", "run", "--", "sh", "-c", "id -un; python3 -c 'print(6 * 7)'"],
    )
    where, said = (
        subprocess.run(
            command, cwd=tmp_path, env=own, capture_output=True, text=True, timeout=140, check=False
        )
        for command in commands
    )
    assert all(Path(one).is_relative_to(installed) for one in where.stdout.split())
    assert (said.returncode, said.stdout, said.stderr) == (0, "ship\n42\n", "")
