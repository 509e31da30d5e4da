"""`bay doctor` looks at the host as a server with the same settings would."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bay.server.data_dir import DATABASE
from bay.store.image_totals import ImageTotals
from bay.store.sqlite import migrate

pytestmark = [
    pytest.mark.host,
    pytest.mark.skipif(os.geteuid() != 0, reason="without root that is all it says"),
]

BAY = [sys.executable, "-m", "bay", "doctor", "--json"]


def rows(*options: str, **environment: str) -> dict[str, dict[str, object]]:
    done = subprocess.run(
        [*BAY, *options],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **environment},
    )
    return {row["name"]: row for row in map(json.loads, done.stdout.splitlines())}


def runc_row(*options: str, **environment: str) -> dict[str, object]:
    return rows(*options, **environment)["runc"]


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A runc that is too old."""
    path = tmp_path / "other-runc"
    path.write_text("#!/bin/sh\necho runc version 1.1.11\n")
    path.chmod(0o755)
    return path


def test_it_looks_at_the_runc_that_a_server_would_use(other: Path, tmp_path: Path) -> None:
    config = tmp_path / "bay.toml"
    config.write_text(f'runc = "{other}"\n')
    assert runc_row()["ok"]
    for row in (runc_row(BAY_RUNC=str(other)), runc_row("--config", str(config))):
        assert (row["ok"], row["found"]) == (False, f"{other} is runc 1.1.11")


def test_images_of_a_data_directory_are_counted_and_none_is_made(tmp_path: Path) -> None:
    found = rows("--data-dir", str(tmp_path / "data"), BAY_IMAGES_MAX_MB="64")
    assert {row: found[row]["ok"] for row in ("skopeo", "fetch-cage", "layer-cage", "images")} == {
        "skopeo": True, "fetch-cage": True, "layer-cage": True, "images": True,
    }  # fmt: skip
    assert found["images"]["numbers"] == {}
    assert found["image-limits"]["numbers"] == {"layer_bytes": 64 << 20, "image_bytes": 256 << 20}
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "data").mkdir()
    migrate(tmp_path / "data" / DATABASE)
    images = rows("--data-dir", str(tmp_path / "data"))["images"]
    assert images["numbers"] == dict.fromkeys(ImageTotals.__dataclass_fields__, 0)


def of_a_cluster(tmp_path: Path, **more: object) -> Path:
    """Settings of a Bay whose cluster is not there."""
    config = tmp_path / "bay.toml"
    given = {
        "install": "a",
        "image": "b:1",
        "ship_image": "c:1",
        "kubeconfig": str(tmp_path / "none"),
        **more,
    }
    table = "".join(f"{name} = {json.dumps(value)}\n" for name, value in given.items())
    config.write_text(f'driver = "kubernetes"\ndata_dir = "{tmp_path}/data"\n[kubernetes]\n{table}')
    return config


def test_with_pods_as_sandboxes_the_cluster_is_looked_at_and_not_this_machine(tmp_path: Path) -> None:
    config = of_a_cluster(tmp_path)
    found = rows("--config", str(config))
    assert list(found) == ["cluster", "object-store"]
    assert (found["cluster"]["ok"], found["cluster"]["required"]) == (False, True)
    assert f"there is no kubeconfig {tmp_path / 'none'}" in str(found["cluster"]["found"])
    other = rows("--config", str(config), "--kubeconfig", str(tmp_path / "other"))
    assert f"there is no kubeconfig {tmp_path / 'other'}" in str(other["cluster"]["found"])


def test_nothing_of_this_machine_is_mended_for_a_cluster(tmp_path: Path) -> None:
    done = subprocess.run(
        [*BAY[:-1], "--fix", "--yes", "--config", str(of_a_cluster(tmp_path))],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert "no command mends cluster: " in done.stderr


def test_pods_are_tried_where_the_settings_name_a_cluster_alone(tmp_path: Path) -> None:
    config = of_a_cluster(tmp_path)
    config.write_text(config.read_text().replace("kubernetes", "oci", 1))
    assert "cluster" in rows("--kubernetes", "--config", str(config))
    done = subprocess.run(
        [*BAY, "--kubernetes", "--data-dir", str(tmp_path)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert "setting kubernetes: " in done.stderr


def test_a_setting_that_cannot_be_is_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        BAY, capture_output=True, text=True, timeout=60, check=False, env={**os.environ, "BAY_PORT": "x"}
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "setting port" in done.stderr
