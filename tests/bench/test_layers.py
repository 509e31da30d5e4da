"""The benchmark of layers, with a small one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from bench.layers import make_layer

pytestmark = [pytest.mark.host, pytest.mark.skipif(os.geteuid() != 0, reason="makes namespaces and mounts")]


@pytest.mark.parametrize("codec", ["gzip", "zstd"])
def test_a_layer_is_made_and_unpacked(codec: str, tmp_path: Path) -> None:
    diff_id, files = make_layer(tmp_path / "blob", codec, 1 << 20)
    assert files > 20
    command = [
        sys.executable,
        "-m",
        "bench.unpacking",
        tmp_path / "images",
        tmp_path / "blob",
        codec,
        diff_id,
    ]
    said = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=100)
    found = json.loads(said.stdout)
    assert 0 < found["processor_ms"] < 60_000
    assert 1 < found["memory_mib"] < 200
