"""What README and Makefile promise is there, and nothing of anybody's machine is in the tree."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROMISED = (
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "README.md",
    "SECURITY.md",
    "SPECIFICATION.md",
    "docs/README.md",
    "docs/api.md",
    "docs/cli.md",
    "docs/errors.md",
    "docs/install.md",
    "docs/sdk.md",
    "docs/settings.md",
    "docs/ship-protocol.md",
)
# Folders of one machine and hosts of package registries; put together here so that this file does not name
# them itself.
PRIVATE = re.compile(
    "|".join(
        [
            r"(?<![\w.])/(?:home|Users)/(?!(?:user|sprite)/)[a-z]\w*/",  # those are homes in sandboxes
            "(?<![\\w.])/ro" + "ot/[.a-z]",
            "(?<![\\w.])/wo" + "rk/",
            r"(?:files\.)?pypi" + r"(?:\.python)?\.org",
            r"pythonhosted" + r"\.org",
            r"registry\.npm" + r"js\.org",
            r"deb\.deb" + r"ian\.org",
            r"archive\.ubu" + r"ntu\.com",
            r"\b(?:10|192\.168)\.\d+\.\d+:\d{2,5}/simple",
        ]
    )
)


def tracked() -> list[Path]:
    """The files of the tree that git knows or would add."""
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    return [path for name in names.split("\0") if name and (path := ROOT / name).is_file()]


def targets() -> set[str]:
    """Those for people: what the Makefile alone makes is phony in one line that begins with `system`."""
    lines = re.findall(r"(?m)^\.PHONY: (?!system )(.+)$", (ROOT / "Makefile").read_text(encoding="utf-8"))
    return {target for line in lines for target in line.split()}


@pytest.mark.parametrize("name", PROMISED)
def test_promised_file_is_there_and_not_empty(name: str) -> None:
    assert (ROOT / name).stat().st_size > 200


def test_make_alone_lists_every_target_for_people() -> None:
    done = subprocess.run(["make", "-C", str(ROOT)], capture_output=True, text=True, timeout=30, check=True)
    listed = set(re.findall(r"(?m)^  make (\S+)", done.stdout))
    assert listed == targets()


def test_make_targets_named_in_the_docs_exist() -> None:
    named = {
        target
        for path in tracked()
        if path.suffix == ".md"
        for target in re.findall(r"`(?:sudo )?make ([a-z-]+)", path.read_text(encoding="utf-8"))
    }
    assert named <= targets()


def test_scripts_can_be_run() -> None:
    scripts = [path for path in tracked() if path.read_bytes().startswith(b"#!/usr/bin/env bash")]
    assert {".ci/run", "scripts/check.sh", "scripts/kubernetes/up"} <= {
        str(path.relative_to(ROOT)) for path in scripts
    }
    assert [path.name for path in scripts if not path.stat().st_mode & 0o111] == []
    assert [
        path.name
        for path in scripts
        if subprocess.run(["bash", "-n", path], timeout=30, check=False).returncode
    ] == []


def test_the_measurements_are_what_their_script_makes(tmp_path: Path) -> None:
    made = tmp_path / "made.csv"
    subprocess.run([sys.executable, ROOT / "examples/make_measurements.py", made], timeout=30, check=True)
    assert made.read_bytes() == (ROOT / "examples/measurements.csv").read_bytes()


def test_nothing_of_one_machine_is_in_the_tree() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {match.group()}"
        for path in tracked()
        for match in PRIVATE.finditer(path.read_text(encoding="utf-8", errors="ignore"))
    ]
    assert found == []


def test_the_package_says_its_version_once() -> None:
    code = "import bay, importlib.metadata as m; print(bay.__version__ == m.version('bay-sandbox'))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout.strip() == "True"


@pytest.mark.parametrize("module", ["bay", "bay.client", "bay.cli.main"])
def test_clients_do_not_load_the_server(module: str) -> None:
    code = f"import {module}, sys; print([m for m in sys.modules if m.startswith(('bay.server', 'bay.store', 'fastapi'))])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout.strip() == "[]"
