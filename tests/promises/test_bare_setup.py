"""What `make setup` makes is enough: nothing of the tests' own environment is there to help.

`.venv-bare` is made as `.venv` is, with the requirements of the server alone.
"""

import os
import subprocess
from collections.abc import Generator
from pathlib import Path

import pytest
from crash_case import can_run
from lab import short_directory
from serving import KEY, START_S, Server, environment, url_of

from bay import Client
from bay.images import fetch_cage

BAY = Path(__file__).parents[2] / ".venv-bare/bin/bay"
SETTINGS = {
    "BAY_DRIVER": "oci",
    "BAY_NETWORK": "off",
    "BAY_CARGO_BACKEND": "directory",
    "BAY_PROFILES": '{"python-default": {}, "build": {"persist": "machine"}}',
}

pytestmark = pytest.mark.skipif(
    not can_run() or not fetch_cage.is_installed(), reason="images need root, runc and skopeo"
)


@pytest.fixture
def root() -> Generator[Path]:
    assert BAY.exists(), "run `make .stamp-bare` first"
    with short_directory() as made:
        yield made


@pytest.fixture
def settings(root: Path) -> dict[str, str]:
    return environment(root, **SETTINGS, BAY_CACHE_DIR=str(root / "cache"))


@pytest.fixture
def server(root: Path, settings: dict[str, str]) -> Generator[Server]:
    """`bay serve` of that environment."""
    with (root / "log").open("a") as log:
        process = subprocess.Popen(
            [BAY, "serve"], env=settings, stdout=subprocess.PIPE, stderr=log, bufsize=0
        )
        try:
            yield Server(process, url_of(process, root, START_S))
        finally:
            process.terminate()
            process.wait(START_S)
            assert process.stdout is not None
            process.stdout.close()


def test_after_make_setup_alone_an_image_is_imported_built_on_and_made_a_template(
    server: Server, archive: Path, root: Path, settings: dict[str, str]
) -> None:
    (root / "Dockerfile").write_text("FROM small/box:1\nRUN echo built > /built\n")
    with Client(server.url, KEY) as client:
        client.images.import_archive(archive, "small/box:1")
        made = client.templates.build(root, "tool", profile="build")
        with client.sandbox(template=made) as box:
            assert box.run("cat /built").stdout == "built\n"
    said = subprocess.run([BAY, "doctor"], env=settings, capture_output=True, text=True, check=False).stdout
    assert "layer-cage" in said
    assert "layers are unpacked in it" in said
    assert os.path.exists(root / "cache")
