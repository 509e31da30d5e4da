"""A Debian package with one program, in a repository of its own, for package managers in sandboxes."""

import shutil
import subprocess
from pathlib import Path

CONTROL = """Package: bay-probe
Version: 1.0
Architecture: all
Maintainer: Bay <bay@localhost>
Description: a package that a test installs
"""


def build_package(workspace: Path) -> None:
    """A Debian package with one program, in a repository of its own below /workspace/repo."""
    tree = workspace / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN/control").write_text(CONTROL)
    (tree / "usr/bin").mkdir(parents=True)
    (tree / "usr/bin/bay-probe").write_text("#!/bin/sh\necho installed\n")
    (tree / "usr/bin/bay-probe").chmod(0o755)
    (workspace / "repo").mkdir()
    package = workspace / "repo/bay-probe_1.0_all.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "-b", tree, package], check=True, capture_output=True)
    shutil.rmtree(tree)
    size = package.stat().st_size
    entry = f"{CONTROL}Filename: ./{package.name}\nSize: {size}\nSHA256: {_sha256(package)}\n"
    (workspace / "repo/Packages").write_text(entry)


def _sha256(path: Path) -> str:
    done = subprocess.run(["sha256sum", path], check=True, capture_output=True, text=True)
    return done.stdout.split()[0]
