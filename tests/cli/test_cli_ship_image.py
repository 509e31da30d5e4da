"""`bay admin ship-image`: the image that brings Ship into pods."""

import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import IO, Any

import pytest

from bay import __version__

pytestmark = pytest.mark.host

BAY = Path(sys.executable).parent / "bay"


def member(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    found = archive.extractfile(name)
    assert found is not None
    return found


def blob(archive: tarfile.TarFile, described: dict[str, Any]) -> IO[bytes]:
    return member(archive, f"blobs/{described['digest'].replace(':', '/')}")


def test_the_archive_holds_ship_and_all_it_needs_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "ship.tar"
    done = subprocess.run(
        [BAY, "admin", "ship-image", file, "--json"], check=True, capture_output=True, text=True
    )
    told = json.loads(done.stdout)
    assert told["ref"] == f"bay-ship:{__version__}"
    assert [path.name for path in tmp_path.iterdir()] == ["ship.tar"]
    with tarfile.open(file) as archive:
        [described] = json.load(member(archive, "index.json"))["manifests"]
        assert described["digest"] == told["digest"]
        manifest = json.load(blob(archive, described))
        assert json.load(blob(archive, manifest["config"]))["os"] == "linux"
        [layer] = manifest["layers"]
        with tarfile.open(fileobj=io.BytesIO(blob(archive, layer).read())) as tree:
            names = [name.removeprefix("./") for name in tree.getnames()]
            modes = {member.name.removeprefix("./"): member.mode for member in tree.getmembers()}
    assert {name.partition("/")[0] for name in names} - {".", ""} == {"closure"}
    assert modes["closure/bin/python3"] & 0o777 == 0o755
    assert any(name.endswith("/ship/__main__.pyc") for name in names)
    assert any("libcrypto" in name for name in names)


def test_a_place_that_cannot_be_written_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    done = subprocess.run(
        [BAY, "admin", "ship-image", tmp_path / "none" / "ship.tar"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "none/ship.tar" in done.stderr
    assert "No such file" in done.stderr
    assert list(tmp_path.iterdir()) == []
