"""A Dockerfile that installs by apt and pip in a Debian becomes a template, from which a hundred start."""

import json
import os
import signal
import tarfile
import tempfile
import zipfile
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import forked_bay
import pytest
from debian_package import build_package
from image_files import TAR, ImageFile, Layer, digest_of
from image_roots import DEBIAN

from bay import Box, Client
from bay.cargo import backend_detection
from bay.images import fetch_cage
from pools import unmounted_after

pytestmark = [pytest.mark.host, pytest.mark.long, pytest.mark.timeout(300)]

KEY = "bay_0123456789abcdef0123456789abcdef"
SANDBOXES, AT_ONCE = 100, 16
DOCKERFILE = """FROM {base} AS wheels
COPY probe-1.0-py3-none-any.whl /wheels/
RUN echo pinned > /wheels/constraints.txt

FROM {base}
COPY repo /srv/repo
RUN echo 'deb [trusted=yes] file:/srv/repo ./' > /etc/apt/sources.list.d/own.list \\
  && rm -f /etc/apt/sources.list.d/debian.sources && apt-get -q update && apt-get -qy install bay-probe
COPY --from=wheels /wheels /srv/wheels
RUN --mount=type=cache,target=/var/cache/pip \\
  pip install -q --break-system-packages --cache-dir /var/cache/pip --no-index /srv/wheels/*.whl
"""


@pytest.fixture
def client() -> Generator[Client]:
    if os.geteuid() != 0 or not fetch_cage.is_installed() or not DEBIAN.is_file():
        pytest.skip("needs root, skopeo, and the Debian that `make .stamp-images` makes")
    if backend_detection.look(Path("/tmp")).lacking is not None:
        pytest.skip("needs loop devices and btrfs")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("BAY_")}
    with tempfile.TemporaryDirectory(prefix="bay-", dir="/tmp") as root:
        Path(root).chmod(0o711)  # sessions pass through it
        profile = {"persist": "machine", "memory_mb": 256, "pids": 64}
        own = clean | {
            "BAY_RUN_DIR": f"{root}/run", "BAY_DATA_DIR": f"{root}/data", "BAY_API_KEY": KEY,
            "BAY_CARGO_BACKEND": "btrfs", "BAY_POOL_MAX_GB": "4",
            "BAY_PROFILES": json.dumps({"python-default": profile}),
        }  # fmt: skip
        if "BAY_CACHE_DIR" in os.environ:
            own["BAY_CACHE_DIR"] = os.environ["BAY_CACHE_DIR"]
        with unmounted_after(Path(root) / "data"), open(os.devnull, "wb") as null:
            server = forked_bay.fork(["serve", "--port", "0"], own, null.fileno())
            assert server.stdout is not None
            with server.stdout as said:
                try:
                    with Client(said.readline().decode().rpartition(" ")[2].strip(), KEY) as made:
                        yield made
                finally:
                    server.send_signal(signal.SIGTERM)
                    server.wait(60)


def context(place: Path, base: str) -> Path:
    build_package(place)
    with zipfile.ZipFile(place / "probe-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("probe.py", "WORD = 'imported'\n")
        wheel.writestr("probe-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: probe\nVersion: 1.0\n")
        wheel.writestr("probe-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("probe-1.0.dist-info/RECORD", "")
    (place / "Dockerfile").write_text(DOCKERFILE.format(base=base))
    return place


def test_a_hundred_sandboxes_answer_from_what_apt_and_pip_installed(client: Client, tmp_path: Path) -> None:
    tar = DEBIAN.read_bytes()
    own = tmp_path / "context"
    own.mkdir()
    layout = ImageFile(layers=(Layer(tar, digest_of(tar), TAR),)).write(tmp_path / "layout")
    archive = tmp_path / "debian.tar"
    with tarfile.open(archive, "w") as packed:
        packed.add(layout, ".")
    client.images.import_archive(archive, "debian:probe")
    client.templates.build(context(own, "debian:probe"), "probe")
    asked = "bay-probe; python3 -c 'import probe; print(probe.WORD)'"

    def create() -> Box:
        return client.sandboxes.create(template="probe", wait=120)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        boxes = [one.result() for one in [pool.submit(create) for _ in range(SANDBOXES)]]
        said = [one.result().stdout for one in [pool.submit(box.run, asked) for box in boxes]]
        assert said == ["installed\nimported\n"] * SANDBOXES
        for done in [pool.submit(box.delete) for box in boxes]:
            done.result()
