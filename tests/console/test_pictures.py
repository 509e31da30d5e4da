"""The pictures of docs/images: each page of the console, on a Bay that has something to show. `make pictures`
keeps what this looks at.
"""

import json
import os
import tarfile
from pathlib import Path

import pytest
from console_bay import host_with_runc, needs_chromium, remove_all, run_steps
from image_files import TAR, ImageFile, Layer, digest_of
from image_roots import DEBIAN

pytestmark = [pytest.mark.clients, needs_chromium, pytest.mark.long, pytest.mark.timeout(1200)]

STEPS_S = 1000
"""With the minutes that charts need to be lines."""
PROFILES = {
    "python-default": {"memory_mb": 512, "description": "Python and a shell", "pool_size": 1, "pool_max": 3},
    "machine": {"memory_mb": 512, "persist": "machine", "description": "keeps the whole root file system"},
}


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A Debian, as an archive of an image."""
    if not DEBIAN.is_file():
        pytest.skip("needs the Debian that `make .stamp-images` puts in tests/images")
    tar = DEBIAN.read_bytes()
    layout = ImageFile(layers=(Layer(tar, digest_of(tar), TAR),)).write(tmp_path / "layout")
    with tarfile.open(tmp_path / "debian.tar", "w") as packed:
        packed.add(layout, ".")
    return tmp_path / "debian.tar"


def test_each_page_shows_what_is_there(cache: Path, archive: Path) -> None:
    settings = {
        "BAY_PROFILES": json.dumps(PROFILES),
        "BAY_POOL_MAX_GB": "8",
        "BAY_MEMORY_RESERVE_MB": "256",
        "BAY_WEBHOOK_ALLOW": '["127.0.0.0/8"]',
    }
    port = int(os.environ.get("CONSOLE_PORT", "0"))
    with host_with_runc(cache, **settings) as serve, serve(port) as server:
        run_steps(server, "pictures.browser.ts", STEPS_S, DEMO_IMAGE=str(archive))
        remove_all(server)
        server.end()
