"""The chart in deploy/helm, by the real `helm`, which `scripts/kubernetes/helm` fetches."""

import json
import os
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy/helm"
WAIT_S = 300.0

MINIMAL: dict[str, Any] = {
    "image": {"repository": "registry.example.com/bay-server"},
    "settings": {"kubernetes": {"image": "registry.example.com/box:1", "ship_image": "registry.example.com/ship:1"}},
}  # fmt: skip
"""The values that an install must be given."""


class HelmFailed(Exception):
    """`helm` ended with an error; its words are the message."""


@cache
def program() -> Path:
    """The program. A test is skipped where set-up has not fetched it, unless it is required there."""
    script = ROOT / "scripts/kubernetes/helm"
    found = subprocess.run([script, "--cached"], capture_output=True, text=True, timeout=60, check=False)
    if found.returncode != 0:
        message = f"no helm: {found.stderr.strip()}"
        if os.environ.get("BAY_KUBERNETES_REQUIRED"):
            pytest.fail(message)
        pytest.skip(message)
    return Path(found.stdout.strip())


def helm(*args: str, values: Mapping[str, Any] | None = None, home: Path | None = None) -> str:
    """The output of `helm`, with `values` as a values file. Raises HelmFailed."""
    given = [] if values is None else ["--values", "-"]
    environment = {"PATH": os.defpath, "HOME": str(home or "/nonexistent")}
    done = subprocess.run(
        [program(), *args, *given], input=json.dumps(values), capture_output=True, text=True, timeout=WAIT_S,
        env=environment, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise HelmFailed(done.stderr)
    return done.stdout


def rendered(values: Mapping[str, Any], *args: str, release: str = "prod") -> list[dict[str, Any]]:
    """The objects of a release in the namespace `bay`. Raises HelmFailed."""
    text = helm("template", release, str(CHART), "--namespace", "bay", *args, values=values)
    return [one for one in yaml.safe_load_all(text) if one is not None]


def of_kind(objects: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    """The one object of that kind."""
    [found] = [one for one in objects if one["kind"] == kind]
    return found
